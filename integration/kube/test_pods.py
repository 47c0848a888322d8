"""Pods of the API server become backends: found by their processes, counted as the kernel counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from integration.kube.counted import DATAGRAMS, EFFECT, RECEIVED, counted, talk, wait_counted
from integration.kube.sandbox import LAYOUTS, Layout, sandbox
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from integration.kube.api import Api
    from integration.kube.conftest import Policies, RunPod, StartAgent


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout(
    run_pod: RunPod, start_agent: StartAgent, policies: Policies, namespace: str, layout: Layout
) -> None:
    """Runtime, cgroup driver and version do not matter; the count is the kernel's."""
    policies.apply("all")
    web = run_pod("web", layout=layout)
    agent = start_agent()
    wait_counted(agent, namespace, "web")
    received = talk(web)
    assert received == DATAGRAMS
    time.sleep(1)
    assert counted(agent, namespace) == {"web": received}


def test_counted_within_a_second(
    api: Api, node: str, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """Of the sandbox's coming into being; its status comes later, and is not waited for."""
    policies.apply("all")
    agent = start_agent()
    pod = api.create_pod(namespace, "late", node=node, phase="Pending")
    time.sleep(1)
    with sandbox(pod["metadata"]["uid"], "k-late") as late:
        time.sleep(max(0, late.started + 1 - time.monotonic()))
        received = talk(late)
        time.sleep(1)
        assert counted(agent, namespace) == {"late": received}


def test_sandbox_restart_and_pod_of_the_same_name(
    api: Api, node: str, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """Another namespace of the same pod, and another pod of the same name: each begins at zero."""
    policies.apply("all")
    agent = start_agent()
    uid = api.create_pod(namespace, "web", node=node)["metadata"]["uid"]
    for number in range(2):
        with sandbox(uid, f"k-web-{number}") as web:
            wait_counted(agent, namespace, "web")
            time.sleep(1.5)
            received = talk(web, DATAGRAMS + number)
            time.sleep(1)
            assert counted(agent, namespace) == {"web": received}
        wait_counted(agent, namespace)
    api.delete_pod(namespace, "web")
    uid = api.create_pod(namespace, "web", node=node)["metadata"]["uid"]
    with sandbox(uid, "k-web-2") as web:
        wait_counted(agent, namespace, "web")
        received = talk(web, 7)
        time.sleep(1)
        assert counted(agent, namespace) == {"web": received}


def test_namespaces_that_come_and_go_are_never_mixed_up(
    api: Api, node: str, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """Numbers of namespaces are used again at once: every pod has its own packets and no others."""
    policies.apply("all")
    agent = start_agent()
    numbers = set()
    for turn in range(20):
        name = f"p{turn}"
        uid = api.create_pod(namespace, name, node=node)["metadata"]["uid"]
        with sandbox(uid, f"k-turn-{turn}") as one:
            numbers.add(one.inode)
            wait_until(lambda: name in counted(agent, namespace), deadline=EFFECT, what="it is counted")  # noqa: B023
            time.sleep(0.2)
            received = talk(one, 100 + turn)
            time.sleep(0.8)
            assert counted(agent, namespace)[name] == received
        api.delete_pod(namespace, name)
    assert len(numbers) < 20, "no number was used again, so nothing was tested"


def test_who_is_no_backend(
    api: Api, node: str, run_pod: RunPod, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """Pods with the node's network are listed with the reason; such that have ended, or are ending, stop."""
    policies.apply("all")
    api.create_pod(namespace, "host", node=node, hostNetwork=True)
    for name in ("done", "ending", "stays"):
        run_pod(name)
    agent = start_agent()
    wait_counted(agent, namespace, "done", "ending", "stays")
    unmonitored = agent.status()["unmonitored"]
    assert unmonitored[f"{namespace}/host"].startswith("uses hostNetwork")
    assert "host" not in agent.problems(), "it is no problem"
    api.pod_status(namespace, "done", phase="Succeeded")
    path = f"/api/v1/namespaces/{namespace}/pods/ending"
    api.patch(path, {"metadata": {"finalizers": ["dolphin.io/test"]}})
    api.ask("DELETE", path, {"gracePeriodSeconds": 30})
    wait_counted(agent, namespace, "stays")
    api.patch(path, {"metadata": {"finalizers": None}})


def test_labels_and_selectors(
    api: Api, run_pod: RunPod, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """matchLabels and matchExpressions follow labels as they change; so does podLabel, as a new series."""
    web = run_pod("web", labels={"app": "web"})
    run_pod("db", labels={"app": "db"})
    policies.apply("p", labels={"app": "web"}, pod_label=["app", "tier"])
    agent = start_agent()
    wait_counted(agent, namespace, "web")
    talk(web)
    api.patch(f"/api/v1/namespaces/{namespace}/pods/web", {"metadata": {"labels": {"tier": "front"}}})
    wait_until(lambda: agent.metrics().series(RECEIVED, tier="front"), deadline=EFFECT, what="the new label shows")
    assert agent.value(RECEIVED, pod=f"{namespace}/web", ipfamily="ipv4") == 0, "a new series begins at zero"
    assert not agent.metrics().series(RECEIVED, tier="not found")
    received = talk(web, 5)
    time.sleep(1)
    assert agent.value(RECEIVED, tier="front", ipfamily="ipv4") == received
    api.patch(f"/api/v1/namespaces/{namespace}/pods/web", {"metadata": {"labels": {"app": "db"}}})
    wait_counted(agent, namespace)
    expressions = [
        {"key": "app", "operator": "In", "values": ["db", "x"]},
        {"key": "tier", "operator": "DoesNotExist"},
        {"key": "app", "operator": "Exists"},
        {"key": "zone", "operator": "NotIn", "values": ["a"]},
    ]
    item = policies.get("p")
    api.patch(item_path(item), {"spec": {"selector": {"matchLabels": None, "matchExpressions": expressions}}})
    wait_counted(agent, namespace, "db")


def item_path(item: dict[str, dict[str, str]]) -> str:
    """The path of a MonitorPolicy."""
    return f"/apis/crd.dolphin.io/v1/namespaces/kube-system/monitorpolicies/{item['metadata']['name']}"


@pytest.mark.parametrize("missing", ["sys_ptrace", "bpf", "perfmon"])
def test_capability_that_is_missing(start_agent: StartAgent, missing: str) -> None:
    """One clear error names it, before anything is attached."""
    rest = sorted(NEEDED - {missing})
    agent = start_agent(within=only(*rest), wait_ready=False)
    assert agent.process.wait(20) == 1
    assert missing.upper() in agent.log
    assert "Traceback" not in agent.log


def test_three_capabilities_are_enough(
    run_pod: RunPod, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """Root without any other."""
    policies.apply("all")
    web = run_pod("web")
    agent = start_agent(within=only(*NEEDED))
    wait_counted(agent, namespace, "web")
    received = talk(web)
    time.sleep(1)
    assert counted(agent, namespace) == {"web": received}


NEEDED = {"bpf", "perfmon", "sys_ptrace"}


def only(*capabilities: str) -> list[str]:
    """A command that runs another one with these capabilities alone."""
    allowed = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return ["setpriv", f"--bounding-set={allowed}", f"--inh-caps={allowed}"]
