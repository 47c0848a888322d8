"""Pods become backends where their namespace can be watched; each other one is named with the reason."""

from pathlib import Path

import pytest

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.pods.model import Pod
from dolphin_agent.pods.paths import PathResolver

OWN = Path("/proc/self/ns/net")


@pytest.fixture
def resolver(monkeypatch):
    """A resolver whose node has another namespace, so that this process's own may stand for a pod's."""
    made = PathResolver()
    monkeypatch.setattr(made, "own", 1)
    return made


def pod(name="web", path=str(OWN), **fields):
    """A pod in namespace `default`."""
    return Pod("default", name, f"uid-{name}", FrozenMap(), path, **fields)


def test_pod_gets_the_number_of_its_namespace(resolver):
    """The inode number is what the kernel filters by."""
    backends, problems = resolver.resolve([pod()])
    assert ([b.netns for b in backends], problems) == ([OWN.stat().st_ino], ())


def test_second_pod_of_a_namespace_is_not_counted_twice(resolver):
    """The one named first is counted, the other one is a problem."""
    backends, problems = resolver.resolve([pod("a"), pod("b")])
    assert [b.pod.name for b in backends] == ["a"]
    assert tuple(map(str, problems)) == ("pod default/b: is in the network namespace of default/a; not counted twice",)


def test_terminated_pod_is_left_out_without_a_word(resolver):
    """It is no fault that a pod has ended."""
    assert resolver.resolve([pod(terminated=True)]) == ((), ())


def test_host_network_pod_is_named(resolver):
    """Its traffic is the node's."""
    _, (problem,) = resolver.resolve([pod(host_network=True)])
    assert str(problem).startswith("pod default/web: uses hostNetwork")


def test_nodes_own_namespace_is_refused(resolver, monkeypatch):
    """Even when a manifest names it by path."""
    monkeypatch.setattr(resolver, "own", OWN.stat().st_ino)
    backends, (problem,) = resolver.resolve([pod()])
    assert backends == ()
    assert str(problem) == f"pod default/web: {OWN} is the node's own network namespace; not monitored"


def test_namespace_that_goes_is_noticed(resolver, tmp_path):
    """A path that resolved before is checked again at each look."""
    link = tmp_path / "web"
    link.symlink_to(OWN)
    assert len(resolver.resolve([pod(path=str(link))])[0]) == 1
    link.unlink()
    backends, (problem,) = resolver.resolve([pod(path=str(link))])
    assert backends == ()
    assert "no such network namespace" in str(problem)
