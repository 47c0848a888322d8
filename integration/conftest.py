"""Fixtures of the tests that run in a guest: pods, and agents that watch them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from dolphin_agent.probes.items import ITEMS
from integration.lib import bpf
from integration.lib.agent import Agent, running
from integration.lib.counters import FAMILIES
from integration.lib.drops import Watch
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import Pair, joined_pair, node_pair, routed_pair
from integration.lib.wait import wait_until
from integration.scenarios import GRANULARITIES, MODES, Bench
from integration.vm.boot import OUT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DETACH_DEADLINE = 10
"""Seconds until the kernel has freed the programs of a process that ended: it waits for grace periods."""


BENCH_PORT = 10002
DROP_PORT = 10021
"""Beside the port of `start_agent`'s."""


class StartAgent(Protocol):
    """Starts an agent on the test's manifests and waits until it is ready."""

    def __call__(self, *options: str, wait_ready: bool = True) -> Agent:
        """Options are those of `dolphin-agent run`."""


@pytest.fixture(scope="session")
def guest() -> None:
    """Refuse to change the network of a machine that is not a guest of the harness."""
    if OUT_VARIABLE not in os.environ:
        pytest.fail("these tests run in a guest: python -m integration.vm pytest --kernels 6.12")


@pytest.fixture
def pods(guest: None) -> Iterator[Pair]:  # noqa: ARG001 - must come first
    """Two pods at the two ends of a veth pair, quiet."""
    with joined_pair() as pair:
        yield pair


@pytest.fixture
def routed_pods(guest: None) -> Iterator[Pair]:  # noqa: ARG001 - must come first
    """Two pods with a router between them, quiet."""
    with routed_pair() as pair:
        yield pair


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """The files that the test's agent watches: no policy, no pod yet."""
    root = tmp_path / "manifests"
    root.mkdir()
    return Manifests(root)


@pytest.fixture
def start_agent(guest: None, manifests: Manifests, tmp_path: Path) -> Iterator[StartAgent]:  # noqa: ARG001
    """Start agents; after the test none runs and no BPF program of theirs is left."""
    before = bpf.program_ids()
    with ExitStack() as stack:

        def start(*options: str, wait_ready: bool = True) -> Agent:
            agent = stack.enter_context(running(manifests, tmp_path, options=options))
            if wait_ready:
                agent.wait_ready()
            return agent

        yield start
    wait_until(lambda: bpf.program_ids() <= before, deadline=_DETACH_DEADLINE, what="no BPF program is left behind")


@pytest.fixture(scope="session")
def bench(guest: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:  # noqa: ARG001
    """Two pods, and the agents that count every item of both: per pod, and per flow as well."""
    with joined_pair("bench") as pair, ExitStack() as stack:
        agents = {}
        for port, granularity in enumerate(GRANULARITIES, BENCH_PORT):
            root = tmp_path_factory.mktemp(f"bench-{granularity}")
            manifests = Manifests(root)
            for policy in GRANULARITIES[: GRANULARITIES.index(granularity) + 1]:
                manifests.write_policy(policy, items_at(policy), granularity=policy)
            manifests.write_pods(PodManifest("a", pair.a.netns.path), PodManifest("b", pair.b.netns.path))
            agents[granularity] = stack.enter_context(running(manifests, root, port=port))
        for agent in agents.values():
            agent.wait_ready()
            wait_until(
                partial(shows_both_pods, agent),
                deadline=_DETACH_DEADLINE,
                what="both pods have series",
            )
        yield Bench(pair, agents)


@pytest.fixture(scope="session")
def drop_watch(guest: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:  # noqa: ARG001
    """Two pods that the node routes between, and an agent that counts what is dropped, per pod and per flow."""
    with node_pair("drop") as pair:
        root = tmp_path_factory.mktemp("drops")
        manifests = Manifests(root)
        for granularity in GRANULARITIES:
            manifests.write_policy(granularity, ["ipDrop", "tcpDrop"], granularity=granularity)
        ends = (pair.a, pair.b)
        manifests.write_pods(*(PodManifest(e.netns.name, e.netns.path, ips=(e.ipv4, e.ipv6)) for e in ends))
        with running(manifests, root, port=DROP_PORT) as agent:
            agent.wait_ready()
            yield Watch(agent, pair)


def shows_both_pods(agent: Agent) -> bool:
    """Whether both pods have their series."""
    return len(agent.metrics().series("dolphin_ip_send_packets_total")) == len(FAMILIES) * 2


def items_at(granularity: str) -> list[str]:
    """Every item that has a granularity, but drops and errors: emulation takes seconds for each hook."""
    return [i.name for i in ITEMS if granularity in i.metrics and not i.name.endswith(("Drop", "Error"))]


@pytest.fixture(params=GRANULARITIES)
def granularity(request: pytest.FixtureRequest) -> str:
    """Per pod, and per flow."""
    return str(request.param)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Merged packets, and none."""
    return str(request.param)


@pytest.fixture
def web(pods: Pair) -> PodManifest:
    """Pod A of the pair as the agent is told of it: default/web, labelled app=web."""
    return PodManifest("web", pods.a.netns.path, labels={"app": "web"})
