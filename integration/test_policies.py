"""Policies and pods that come, change and go while traffic is counted."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.lib import bpf, traffic
from integration.lib.manifests import PodManifest
from integration.lib.netns import new_netns
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.conftest import StartAgent
    from integration.lib.agent import Agent, Samples
    from integration.lib.manifests import Manifests
    from integration.lib.topology import Pair

PRIME = 23
PACKETS = "dolphin_ip_receive_packets_total"
SENT = "dolphin_ip_send_packets_total"
EFFECT = 2.0
"""Seconds in which a change of a file takes effect."""
SLACK = 3.0
"""For emulation on a busy machine, where one scrape alone may take a second."""


def effect(condition: Callable[[], bool], what: str) -> None:
    """Wait until a change took effect; TimeoutError past the promise."""
    wait_until(condition, deadline=EFFECT + SLACK, what=what, interval=0.1)


def is_at_zero(samples: Samples) -> bool:
    """Whether there are series, and nothing was counted in them, in one and the same scrape."""
    return bool(samples.series(PACKETS)) and samples.value(PACKETS) == 0


def tasks(agent: Agent, metric: str = PACKETS) -> set[tuple[str, str]]:
    """(task, pod) of the metric's series."""
    return {(labels["task"], labels["pod"]) for labels in agent.metrics().series(metric)}


@pytest.fixture
def both(pods: Pair, manifests: Manifests) -> None:
    """Both pods are known: `web` with app=web, and `db`."""
    manifests.write_pods(
        PodManifest("web", pods.a.netns.path, labels={"app": "web"}), PodManifest("db", pods.b.netns.path)
    )


@pytest.mark.usefixtures("both")
def test_without_a_policy_no_program_is_loaded(start_agent: StartAgent, manifests: Manifests) -> None:
    """Pods alone cost nothing; the last policy's end takes the last program away."""
    before = bpf.program_ids()
    agent = start_agent()
    assert bpf.program_ids() == before
    manifests.write_policy("one", ["ipSend"])
    effect(lambda: len(bpf.program_ids() - before) == 2, "net_dev_queue and the namespace guard are there")
    manifests.remove_policy("one")
    effect(lambda: bpf.program_ids() == before, "no program is there")
    assert agent.metrics().monitored() == {}


@pytest.mark.usefixtures("both")
def test_only_selected_pods_have_series(start_agent: StartAgent, manifests: Manifests, pods: Pair) -> None:
    """The other pod's traffic appears nowhere."""
    manifests.write_policy("web", ["ipReceive"], labels={"app": "web"}, pod_label=["app", "tier"])
    agent = start_agent()
    effect(lambda: tasks(agent) == {("kube-system/web", "default/web")}, "the selected pod has series")
    samples, kernel = agent.settled(pods.a.counters)
    assert traffic.ping(pods.a, pods.b, "ipv4", count=PRIME) == PRIME
    after, kernel_after = agent.settled(pods.a.counters)
    moved = int(after.value(PACKETS, ipfamily="ipv4") - samples.value(PACKETS, ipfamily="ipv4"))
    assert moved == (kernel_after - kernel).ip_receive_packets("ipv4") == PRIME
    assert {(one["app"], one["tier"]) for one in after.series(PACKETS)} == {("web", "not found")}


@pytest.mark.usefixtures("both")
def test_policies_share_a_pod_and_do_not_disturb_each_other(
    start_agent: StartAgent, manifests: Manifests, pods: Pair
) -> None:
    """Each task has its own zero; one that comes, changes or goes moves nobody else's numbers."""
    manifests.write_policy("first", ["ipReceive"])
    agent = start_agent()
    first = {"task": "kube-system/first", "pod": "default/web", "ipfamily": "ipv4"}
    second = first | {"task": "kube-system/second"}
    effect(lambda: bool(agent.metrics().series(PACKETS, **first)), "the first policy runs")
    traffic.ping(pods.a, pods.b, "ipv4", count=PRIME)
    agent.settled(pods.a.counters)
    programs = bpf.program_ids()

    manifests.write_policy("second", ["ipReceive", "ipSend"])
    effect(lambda: bool(agent.metrics().series(PACKETS, **second)), "the second policy runs")
    assert programs <= bpf.program_ids(), "what was attached stays attached"
    traffic.ping(pods.a, pods.b, "ipv4", count=5)
    samples, _ = agent.settled(pods.a.counters)
    assert (samples.value(PACKETS, **first), samples.value(PACKETS, **second)) == (PRIME + 5, 5)

    manifests.write_policy("second", ["ipReceive"])
    effect(lambda: not agent.metrics().series(SENT, **second), "the second policy lost an item")
    manifests.remove_policy("second")
    effect(lambda: not agent.metrics().series(PACKETS, **second), "the second policy is gone")
    traffic.ping(pods.a, pods.b, "ipv4", count=5)
    samples, _ = agent.settled(pods.a.counters)
    assert samples.value(PACKETS, **first) == PRIME + 10


@pytest.mark.usefixtures("both")
def test_pods_come_and_go(start_agent: StartAgent, manifests: Manifests, pods: Pair) -> None:
    """The pods file changes, is removed and comes back; a pod that stays keeps its count."""
    manifests.write_policy("all", ["ipReceive"])
    agent = start_agent()
    effect(lambda: len(tasks(agent)) == 2, "both pods have series")
    traffic.ping(pods.a, pods.b, "ipv4", count=PRIME)
    agent.settled(pods.a.counters)
    manifests.write_pods(PodManifest("web", pods.a.netns.path, labels={"app": "web"}))
    effect(lambda: tasks(agent) == {("kube-system/all", "default/web")}, "one pod is left")
    assert agent.value(PACKETS, pod="default/web", ipfamily="ipv4") == PRIME
    manifests.pods.unlink()
    effect(lambda: not tasks(agent), "no pod is left")
    status, body = agent.get("/readyz")
    assert (status, "no such file" in body) == (200, True)
    manifests.write_pods(PodManifest("web", pods.a.netns.path))
    effect(lambda: len(tasks(agent)) == 1, "the pod is back")
    assert agent.value(PACKETS, pod="default/web") == 0


@pytest.mark.usefixtures("both")
def test_policy_that_turns_invalid_keeps_counting(start_agent: StartAgent, manifests: Manifests, pods: Pair) -> None:
    """Its last good form runs on, and /readyz names the field."""
    manifests.write_policy("all", ["ipReceive"])
    agent = start_agent()
    effect(lambda: len(tasks(agent)) == 2, "the policy runs")
    good = (manifests.policies / "all.yaml").read_text()
    for bad in (good.replace("aggregateType: pod", "aggregateType: fod"), "spec: [unclosed"):
        manifests.write_policy_text("all", bad)
        effect(lambda: "all.yaml" in agent.get("/readyz")[1], "the fault is named")
    traffic.ping(pods.a, pods.b, "ipv4", count=PRIME)
    agent.settled(pods.a.counters)
    assert agent.value(PACKETS, pod="default/web", ipfamily="ipv4") == PRIME
    manifests.write_policy_text("all", good)
    effect(lambda: "all.yaml" not in agent.get("/readyz")[1], "the fault is over")
    assert agent.value(PACKETS, pod="default/web", ipfamily="ipv4") == PRIME


def test_pod_in_another_namespace_starts_anew(start_agent: StartAgent, manifests: Manifests, pods: Pair) -> None:
    """A pod that moves to another namespace starts at zero there."""
    manifests.write_policy("all", ["ipReceive"])
    manifests.write_pods(PodManifest("web", pods.a.netns.path))
    agent = start_agent()
    effect(lambda: len(tasks(agent)) == 1, "the pod has series")
    traffic.ping(pods.a, pods.b, "ipv4", count=PRIME)
    agent.settled(pods.a.counters)
    assert agent.value(PACKETS) == PRIME
    manifests.write_pods(PodManifest("web", pods.b.netns.path))
    effect(lambda: agent.value(PACKETS) == 0, "the pod starts anew")
    traffic.ping(pods.a, pods.b, "ipv4", count=5)
    agent.settled(pods.b.counters)
    assert agent.value(PACKETS) == 5


def test_namespace_that_dies_takes_its_count_along(start_agent: StartAgent, manifests: Manifests) -> None:
    """A namespace made at once under the same path, with the same number or not, inherits nothing."""

    def ping_itself(count: int) -> None:
        netns.run(["ping", "-q", "-c", str(count), "-i", "0.01", "127.0.0.1"])

    with new_netns("reborn") as netns:
        manifests.write_policy("all", ["ipReceive"])
        manifests.write_pods(PodManifest("web", netns.path))
        agent = start_agent()
        effect(lambda: len(tasks(agent)) == 1, "the pod has series")
        ping_itself(PRIME)
        effect(lambda: agent.value(PACKETS) == 2 * PRIME, "requests and answers are counted")
        subprocess.run("ip netns delete reborn && ip netns add reborn", shell=True, check=True)  # noqa: S602
        netns.run(["ip", "link", "set", "lo", "up"])
        effect(lambda: is_at_zero(agent.metrics()), "the pod starts anew")
        ping_itself(5)
        effect(lambda: agent.value(PACKETS) == 10, "the new namespace is counted")
