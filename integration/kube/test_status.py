"""What the agents write: NodeMonitors, the policies' status, Events; and who of them writes for all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from dolphin_agent.kube.access import Access
from dolphin_agent.kube.client import Client
from dolphin_agent.status import lease
from dolphin_agent.status.lease import Lease
from integration.kube.counted import wait_counted
from integration.kube.installed import LEASES, NODE_MONITORS, POLICIES, agent_token
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from integration.kube.api import Api, Object
    from integration.kube.conftest import Policies, RunPod, StartAgent
    from integration.kube.control_plane import ControlPlane

pytestmark = pytest.mark.usefixtures("no_lease")

WRITTEN = 20
"""Seconds within which a change shows in a policy's status: two writes, each at most once in 5 s."""
EVENTS = "/apis/events.k8s.io/v1/namespaces/kube-system/events"
RECEIVED = "dolphin_ip_receive_packets_total"


def monitor(api: Api, node: str) -> Object:
    """The status of a node's NodeMonitor; empty as long as there is none."""
    answer = api.raw("GET", f"{NODE_MONITORS}/{node}")
    status: Object = answer.json().get("status", {}) if answer.status == 200 else {}
    return status


def conditions(item: Object) -> dict[str, tuple[str, str]]:
    """Type -> (status, reason)."""
    found: list[dict[str, str]] = item.get("status", item).get("conditions", [])
    return {one["type"]: (one["status"], one["reason"]) for one in found}


def test_node_and_policy(
    control_plane: ControlPlane,
    api: Api,
    node: str,
    run_pod: RunPod,
    start_agent: StartAgent,
    policies: Policies,
    namespace: str,
) -> None:
    """One agent: its NodeMonitor, the policy's status folded by itself, and what kubectl shows of both."""
    policies.apply("p", ["ipReceive", "tcpRetrans"])
    run_pod("web")
    api.create_pod(namespace, "host", node=node, hostNetwork=True)
    agent = start_agent()
    wait_counted(agent, namespace, "web")
    wait_until(lambda: monitor(api, node).get("pods") == 1, deadline=WRITTEN, what="it is written")
    status = monitor(api, node)
    (policy,) = status["policies"]
    assert (policy["task"], policy["observedGeneration"], policy["valid"]) == ("kube-system/p", 1, True)
    assert policy["pods"] == 1
    hooks = {item["item"]: item["hooks"] for item in policy["items"]}
    assert hooks == {row["item"]: row["hooks"] for row in agent.status()["items"]}
    assert status["unmonitored"][0]["pod"] == f"{namespace}/host"
    assert conditions(status)["Ready"][0] == "True"
    owner = api.get(f"{NODE_MONITORS}/{node}")["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Node", node)

    running = ("True", "Running")
    wait_until(lambda: conditions(policies.get("p")).get("Ready") == running, deadline=WRITTEN, what="it is folded")
    item = policies.get("p")
    assert item["status"]["observedGeneration"] == 1
    assert item["status"]["nodes"]["total"] == 1
    assert item["status"]["pods"] == 1
    assert item["status"]["items"] == ["ipReceive/pod", "tcpRetrans/pod"]
    header, line = control_plane.kubectl("get", "nm", node).stdout.splitlines()
    assert header.split() == ["NAME", "READY", "TASKS", "PODS", "SERIES", "LOST", "AGE", "PROBLEM"]
    assert line.split()[:4] == [node, "True", "1", "1"]
    line = control_plane.kubectl("get", "mp", "-n", "kube-system", "p").stdout.splitlines()[1]
    assert line.split()[1] == "True"
    assert line.split()[4] == "ipReceive,tcpRetrans"


def test_degraded_policy_has_an_event(api: Api, run_pod: RunPod, start_agent: StartAgent, policies: Policies) -> None:
    """This machine's kernel refuses fentry, so that ipReceive is not exact here: said once."""
    policies.apply("q", ["ipReceive"])
    run_pod("web")
    start_agent()

    def events() -> list[dict[str, Any]]:
        items = api.get(EVENTS)["items"]
        return [one for one in items if one["regarding"]["name"] == "q"]

    wait_until(events, deadline=WRITTEN, what="an Event")
    (event,) = events()
    assert (event["type"], event["reason"]) == ("Warning", "Degraded")
    assert "item ipReceive: tp_btf/netif_receive_skb" in event["note"]
    item = policies.get("q")
    assert conditions(item)["Degraded"] == ("True", "Problems")
    assert item["status"]["problems"][0]["item"] == "ipReceive"
    policies.apply("q", ["ipReceive"], labels={"app": "web"})
    wait_until(lambda: policies.get("q")["status"]["observedGeneration"] == 2, deadline=WRITTEN, what="it is folded")
    assert len(events()) == 1, "nothing new is wrong"


def test_no_write_storm(api: Api, node: str, start_agent: StartAgent, policies: Policies) -> None:
    """Changes all the time: a write in 5 s. No change: no write."""
    start_agent()
    wait_until(lambda: monitor(api, node), deadline=WRITTEN, what="it is written")
    versions = set()
    end = time.monotonic() + 20
    turn = 0
    while time.monotonic() < end:
        turn += 1
        policies.apply("p", labels={"turn": str(turn)})
        versions.add(api.get(f"{NODE_MONITORS}/{node}")["metadata"]["resourceVersion"])
        time.sleep(0.2)
    assert 3 <= len(versions) <= 6
    time.sleep(12)
    rested = api.get(f"{NODE_MONITORS}/{node}")["metadata"]["resourceVersion"]
    time.sleep(10)
    assert api.get(f"{NODE_MONITORS}/{node}")["metadata"]["resourceVersion"] == rested


def test_deleted_node_monitor_comes_back(api: Api, node: str, start_agent: StartAgent, policies: Policies) -> None:
    """With the next change."""
    start_agent()
    wait_until(lambda: monitor(api, node), deadline=WRITTEN, what="it is written")
    api.delete(f"{NODE_MONITORS}/{node}")
    time.sleep(5)
    policies.apply("p")
    wait_until(lambda: monitor(api, node).get("tasks") == 1, deadline=40, what="it is written again", interval=0.5)


def test_leader_gives_up_the_lease(api: Api, start_agent: StartAgent) -> None:
    """At SIGTERM, so that another agent need not wait."""
    agent = start_agent()

    def holder() -> str:
        answer: Object = api.raw("GET", f"{LEASES}/dolphin-agent").json()
        return str(answer.get("spec", {}).get("holderIdentity") or "")

    wait_until(holder, deadline=WRITTEN, what="the Lease is held")
    status, seconds = agent.terminate()
    assert status == 0
    assert seconds < 5
    assert not holder()


def client(control_plane: ControlPlane) -> Client:
    """The agent's own client, with the chart's rights."""
    token = agent_token(control_plane)
    return Client(Access(control_plane.server, lambda: token, str(control_plane.ca)))


def test_lease_whatever_the_clocks_say(control_plane: ControlPlane, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder whose clock is years ahead, and that is dead: its Lease ends all the same, measured here."""
    monkeypatch.setattr(lease, "DURATION", 3)
    monkeypatch.setattr(lease, "LOOK_SECONDS", (0.2, 0.3))
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 3, "renewTime": "2099-01-01T00:00:00.000000Z"}
    item = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "dolphin-agent"},
        "spec": spec,
    }
    api.create(LEASES, item)
    first, second = (Lease(client(control_plane), "kube-system", name) for name in ("first", "second"))
    began = time.monotonic()
    while not first.held:
        first.tend()
        time.sleep(0.05)
        assert time.monotonic() - began < 10
    assert time.monotonic() - began >= 3, "taken from a holder that may be alive"
    end = time.monotonic() + 5
    while time.monotonic() < end:
        first.tend()
        second.tend()
        assert first.held
        assert not second.held, "two leaders"
        time.sleep(0.05)
    first.release()
    while not second.held:
        second.tend()
        time.sleep(0.05)
        assert time.monotonic() - end < 3
    assert api.get(f"{LEASES}/dolphin-agent")["spec"]["leaseTransitions"] == 2


def test_node_that_does_not_exist(start_agent: StartAgent) -> None:
    """Named with the remedy."""
    agent = start_agent("--node-name", "nowhere")
    wait_until(lambda: "there is no node nowhere" in agent.problems(), deadline=20, what="it is named")
    assert "set NODE_NAME" in agent.problems()


def test_second_agent_on_a_node_refuses(
    api: Api, node: str, start_agent: StartAgent, namespace: str, policies: Policies
) -> None:
    """It says who has the node; once that one is gone, it starts."""
    policies.apply("p")

    def environment(name: str) -> dict[str, str]:
        pod = api.create_pod(namespace, name, node=node)
        return {"POD_NAME": name, "POD_NAMESPACE": namespace, "POD_UID": pod["metadata"]["uid"]}

    first = start_agent(env=environment("agent-1"))
    wait_until(lambda: monitor(api, node), deadline=WRITTEN, what="the first one has reported")
    variables = environment("agent-2")
    second = start_agent(env=variables, wait_ready=False)
    assert second.process.wait(20) == 1
    assert f"node {node} is monitored by pod {namespace}/agent-1" in second.log
    assert "delete one of them" in second.log
    first.terminate()
    api.delete_pod(namespace, "agent-1")
    start_agent(env=variables)


def test_status_of_a_policy_that_is_gone(api: Api, start_agent: StartAgent, policies: Policies) -> None:
    """Deleted while it is folded: no problem remains."""
    agent = start_agent()
    for turn in range(5):
        policies.apply(f"brief-{turn}")
        time.sleep(0.7)
        policies.delete(f"brief-{turn}")
    policies.apply("stays")
    wait_until(lambda: conditions(policies.get("stays")).get("Ready"), deadline=WRITTEN, what="it is folded")
    assert not [line for line in agent.status()["problems"] if line.startswith("status:")]
    assert [one["metadata"]["name"] for one in api.get(POLICIES)["items"]] == ["stays"]
