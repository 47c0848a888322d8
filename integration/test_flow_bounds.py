"""What bounds the detail kept per flow: folded ports, the limit on flows, full kernel tables, idleness.

No bound ever costs a total: what is not kept in detail is in `other`.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.bpf.flow_tables import MIN_ENTRIES, Limits
from dolphin_agent.bpf.layouts import EVENTS
from integration import scenarios
from integration.lib import judge, packets, traffic
from integration.lib.counters import FAMILIES
from integration.lib.drops import dropping
from integration.lib.manifests import PodManifest
from integration.lib.wait import wait_until
from integration.lib.watch import watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.conftest import StartAgent
    from integration.lib.agent import Agent, Samples
    from integration.lib.counters import Counters, Family
    from integration.lib.manifests import Manifests
    from integration.lib.topology import Pair

PRIME = 23
ITEMS = list(judge.ITEMS)
HIGH = 50051
"""A service's port from 32768 on."""
LOW_SOURCE = 20000
BELOW, ABOVE = 40000, 60000
"""Clients' ports on both sides of it."""
CLOSED = 50999
SCANNED = range(50100, 50300)
SPRAY_SOURCE = 1000
SETTLED = 60
"""Seconds, for emulation on a busy machine."""
OTHER = {"protocol": "other"}
DROPS = "dolphin_ip_drop_packets_total"
DROPS_OF_FLOWS = "dolphin_flow_ip_drop_packets_total"

Ports = tuple[str, str, str]
"""ipfamily, srcport, dstport."""


@pytest.fixture
def watched(pods: Pair, manifests: Manifests) -> Pair:
    """Both pods, per pod and per flow."""
    manifests.write_policy("pod", ITEMS, granularity="pod")
    manifests.write_policy("flow", ITEMS, granularity="flow")
    manifests.write_pods(PodManifest("a", pods.a.netns.path), PodManifest("b", pods.b.netns.path))
    return pods


def flows(samples: Samples, pod: str, metric: str, protocol: str) -> dict[Ports, int]:
    """The flows of a protocol that a pod has counted packets of."""
    name = f"dolphin_flow_{metric}_packets_total"
    labels = ("ipfamily", "srcport", "dstport")
    found: dict[Ports, int] = {}
    for series in samples.series(name, pod=f"default/{pod}", protocol=protocol):
        family, source, destination = (series[label] for label in labels)
        assert (family, source, destination) not in found, series
        found[family, source, destination] = int(samples.value(name, **series))
    return {key: count for key, count in found.items() if count}


def settled(agent: Agent, pair: Pair) -> tuple[Samples, tuple[Counters, Counters]]:
    """A scrape and readings of both pods that belong together."""
    return agent.settled(lambda: (pair.a.counters(), pair.b.counters()), deadline=SETTLED)


def both_ends(agent: Agent, pair: Pair, protocol: str = "tcp") -> tuple[dict[Ports, int], dict[Ports, int]]:
    """The flows from A to B and from B to A, which both pods must show alike, by every item that has them."""
    samples, _ = settled(agent, pair)
    kinds = ("ip", protocol)
    ways = []
    for sender, receiver in (("a", "b"), ("b", "a")):
        shown = [
            flows(samples, pod, f"{kind}_{way}", protocol)
            for kind in kinds
            for pod, way in ((sender, "send"), (receiver, "receive"))
        ]
        assert all(one == shown[0] for one in shown), shown
        ways.append(shown[0])
    return ways[0], ways[1]


def to_service(port: int) -> set[Ports]:
    """The flows of any number of clients to a service."""
    return {(family, "ephemeral", str(port)) for family in FAMILIES}


def reverse(ports: set[Ports]) -> set[Ports]:
    """The flows the other way."""
    return {(family, destination, source) for family, source, destination in ports}


@pytest.mark.parametrize("sources", [(ABOVE, BELOW, LOW_SOURCE), (BELOW, LOW_SOURCE, ABOVE)], ids=str)
def test_service_on_a_high_port_is_one_flow(watched: Pair, start_agent: StartAgent, sources: tuple[int, ...]) -> None:
    """From the first connection on, whichever of the two ports is higher; a port scan does not undo it."""
    agent = start_agent()
    for source in sources:
        for family in FAMILIES:
            traffic.connections(watched.a, watched.b, family, count=5, port=HIGH, source_port=source)
    there, back = both_ends(agent, watched)
    assert set(there) == to_service(HIGH)
    assert set(back) == reverse(to_service(HIGH))

    scanned: set[Ports] = set()
    for family, port in zip(cycle(FAMILIES), SCANNED, strict=False):
        assert traffic.refused(watched.a, watched.b, family, count=1, port=port) == 1
        scanned.add((family, "ephemeral", str(port)))
    for family in FAMILIES:
        for source in sources:
            traffic.connections(watched.a, watched.b, family, count=5, port=HIGH, source_port=source + PRIME)
    after, back_after = both_ends(agent, watched)
    assert set(after) == to_service(HIGH) | scanned
    assert set(back_after) == reverse(to_service(HIGH) | scanned)
    for key in to_service(HIGH):
        assert after[key] == 2 * there[key], "each connection has as many packets"


def test_client_on_a_low_port_is_folded(watched: Pair, start_agent: StartAgent) -> None:
    """Where both ports are below 32768 the one that answered the SYN is kept, from the first connection on."""
    agent = start_agent()
    for family in FAMILIES:
        traffic.connections(watched.a, watched.b, family, count=5, port=8080, source_port=LOW_SOURCE)
        traffic.connections(watched.a, watched.b, family, count=5, port=8080, source_port=1024)
        traffic.connections(watched.a, watched.b, family, count=5, port=8080)
    there, back = both_ends(agent, watched)
    assert set(there) == to_service(8080)
    assert set(back) == reverse(to_service(8080))


def test_refused_connections_are_one_flow(watched: Pair, start_agent: StartAgent) -> None:
    """To a high port where nobody listens: one flow each way, however many attempts from wherever."""
    agent = start_agent()
    for family in FAMILIES:
        assert traffic.refused(watched.a, watched.b, family, count=PRIME, port=CLOSED) == PRIME
        for source in (ABOVE, BELOW, LOW_SOURCE):
            with pytest.raises(ConnectionRefusedError):
                refuse(watched, family, source)
    there, back = both_ends(agent, watched)
    assert there == dict.fromkeys(to_service(CLOSED), PRIME + 3)
    assert back == dict.fromkeys(reverse(to_service(CLOSED)), PRIME + 3)


def refuse(pair: Pair, family: Family, source: int) -> None:
    """Connect from a port to one where nobody listens."""
    with traffic.open_socket(pair.a, family, socket.SOCK_STREAM) as connection:
        connection.bind((pair.a.address(family), source))
        connection.connect((pair.b.address(family), CLOSED))


def test_udp_is_folded_by_number(watched: Pair, start_agent: StartAgent) -> None:
    """The higher port, if it is 32768 or more; never both, and neither where they are equal."""
    shown = {
        (BELOW, 7000): ("ephemeral", "7000"),
        (7000, BELOW): ("7000", "ephemeral"),
        (BELOW, ABOVE): (str(BELOW), "ephemeral"),
        (32768, 32767): ("ephemeral", "32767"),
        (32767, 7001): ("32767", "7001"),
        (5000, 7002): ("5000", "7002"),
        (BELOW, BELOW): (str(BELOW), str(BELOW)),
    }
    agent = start_agent()
    for family in FAMILIES:
        for source, port in shown:
            sent = traffic.datagrams(watched.a, watched.b, family, count=PRIME, size=100, port=port, source_port=source)
            assert sent == PRIME
    there, _ = both_ends(agent, watched, "udp")
    assert there == {(family, *ports): PRIME for family in FAMILIES for ports in shown.values()}


def test_all_ports_can_be_kept(watched: Pair, start_agent: StartAgent) -> None:
    """With --flow-ports all both numbers are there, of TCP and UDP."""
    agent = start_agent("--flow-ports", "all")
    tcp: set[Ports] = set()
    udp: set[Ports] = set()
    for family in FAMILIES:
        for source in (BELOW, ABOVE, LOW_SOURCE):
            traffic.connections(watched.a, watched.b, family, count=2, port=HIGH, source_port=source)
            tcp |= {(family, str(source + number), str(HIGH)) for number in range(2)}
            traffic.datagrams(watched.a, watched.b, family, count=3, size=100, port=7000, source_port=source)
            udp.add((family, str(source), "7000"))
    there, back = both_ends(agent, watched)
    assert set(there) == tcp
    assert set(back) == reverse(tcp)
    assert set(both_ends(agent, watched, "udp")[0]) == udp


def test_limit_on_flows_costs_no_total(watched: Pair, start_agent: StartAgent) -> None:
    """500 flows and room for 50 records: flows and `other` make up the pod, and that is the kernel's number."""
    limit, sprayed = 50, 500
    agent = start_agent("--max-flows", str(limit))
    with scenarios.mode("unmerged", watched):
        before, kernel_before = settled(agent, watched)
        for _ in range(2):
            for family in FAMILIES:
                ports = ((SPRAY_SOURCE, 1 + port) for port in range(sprayed))
                packets.udp(watched.a, watched.b, family, ports=ports)
                traffic.connections(watched.a, watched.b, family, count=5)
            agent.metrics()
        after, kernel_after = settled(agent, watched)
    assert after.value("dolphin_agent_max_flows") == limit
    assert after.value("dolphin_agent_flows") == limit
    assert after.value("dolphin_agent_flows_refused_total") > 0
    moved = [now - then for now, then in zip(kernel_after, kernel_before, strict=True)]
    assert moved[0].ip_send_packets("ipv4") > 2 * sprayed
    for pod, kernel in zip(("a", "b"), moved, strict=True):
        expected = judge.kernel_says(kernel, accepts=pod == "b")
        for granularity in ("pod", "flow"):
            said = judge.agent_says(before, after, granularity=granularity, pod=f"default/{pod}")
            assert said == expected, (pod, granularity)
    sent = "dolphin_flow_ip_send_packets_total"
    assert 0 < after.value(sent, pod="default/a", **OTHER) < after.value(sent, pod="default/a")
    kept = [one for one in after.series(sent) if one["protocol"] != "other"]
    assert 0 < len(kept) <= limit
    assert judge.lost(after) == {}


def test_full_kernel_tables_cost_no_total(pods: Pair) -> None:
    """Many times more flows between two drains than the kernel has room for: the totals are the kernel's.

    The ledger would have room for all, so whatever is in `other` found the kernel's tables full.
    """
    sprayed = 10 * MIN_ENTRIES + 1
    netns = {"a": pods.a.netns.inum, "b": pods.b.netns.inum}
    with (
        scenarios.mode("unmerged", pods),
        watching(netns, Limits(max_flows=1), Limits(max_flows=1_000_000)) as watch,
    ):
        before, kernel_before = watch.samples(), (pods.a.counters(), pods.b.counters())
        for family in FAMILIES:
            ports = ((SPRAY_SOURCE, 1 + port) for port in range(sprayed))
            packets.udp(pods.a, pods.b, family, ports=ports)
            traffic.connections(pods.a, pods.b, family, count=5)
        kernel = resting(lambda: (pods.a.counters(), pods.b.counters()))
        after = watch.samples()
        lost = watch.lost()
    for pod, now, then in zip(("a", "b"), kernel, kernel_before, strict=True):
        expected = judge.kernel_says(now - then, accepts=pod == "b")
        for granularity in ("pod", "flow"):
            said = judge.agent_says(before, after, granularity=granularity, pod=f"default/{pod}")
            assert said == expected, (pod, granularity)
    for family in FAMILIES:
        sent = {"name": "dolphin_flow_ip_send_packets_total", "pod": "default/a", "ipfamily": family}
        kept, other = after.value(**sent, protocol="udp"), after.value(**sent, **OTHER)
        assert kept + other >= sprayed
        assert kept > MIN_ENTRIES / 16, "some found room"
        assert other > sprayed / 2, "most did not"
    assert lost == {}


def test_burst_of_flows_costs_no_total(watched: Pair, start_agent: StartAgent) -> None:
    """100,000 flows of UDP at once, as many clients of QUIC are: what has no room is in `other`, to the byte."""
    sprayed, size = 50_000, 64
    agent = start_agent("--max-flows", "2000")
    with scenarios.mode("unmerged", watched):
        before, kernel_before = settled(agent, watched)
        for family in FAMILIES:
            ports = ((SPRAY_SOURCE + one % 20, 1 + one // 20) for one in range(sprayed))
            packets.udp(watched.a, watched.b, family, ports=ports, size=size)
        after, kernel_after = settled(agent, watched)
    for pod, now, then in zip(("a", "b"), kernel_after, kernel_before, strict=True):
        expected = judge.kernel_says(now - then, accepts=pod == "b")
        for granularity in ("pod", "flow"):
            said = judge.agent_says(before, after, granularity=granularity, pod=f"default/{pod}")
            assert said == expected, (pod, granularity)
    for pod, way in (("a", "send"), ("b", "receive")):
        for family in FAMILIES:
            labels = {"pod": f"default/{pod}", "ipfamily": family}
            octets = f"dolphin_flow_udp_{way}_bytes_total"
            assert after.value(octets, **labels) - before.value(octets, **labels) == sprayed * size
            assert after.value(octets, **labels, **OTHER) > 0
        both = {"pod": f"default/{pod}"}
        assert after.value(octets, **both, **OTHER) < 2 * sprayed * size, "some found room"
    assert judge.lost(after) == {}


def test_flood_of_drops_costs_no_total(pods: Pair, manifests: Manifests, start_agent: StartAgent) -> None:
    """More flows than the kernel's table of events, from two senders at once: the rule's counter, without a loss."""
    limit, sprayed = 1000, 4 * EVENTS
    for granularity in ("pod", "flow"):
        manifests.write_policy(granularity, ["ipDrop"], granularity=granularity)
    manifests.write_pods(PodManifest("b", pods.b.netns.path))
    agent = start_agent("--max-flows", str(limit))

    def send(family: Family) -> None:
        for _ in range(2):
            packets.udp(pods.a, pods.b, family, ports=((SPRAY_SOURCE, 1 + port) for port in range(sprayed)))

    with dropping(pods.b.netns, "input", f"udp sport {SPRAY_SOURCE}") as rule:
        with ThreadPoolExecutor(len(FAMILIES)) as senders:
            list(senders.map(send, FAMILIES))
        dropped = rule.packets()
        assert dropped == 2 * len(FAMILIES) * sprayed
        wait_until(lambda: agent.value(DROPS) == dropped, deadline=SETTLED, what="each drop is counted")
    samples = agent.metrics()
    assert samples.value(DROPS_OF_FLOWS) == dropped
    assert 0 < samples.value(DROPS_OF_FLOWS, **OTHER) < dropped, "some found room"
    assert judge.lost(samples, ["ipDrop"]) == {}


def resting(judge_: Callable[[], tuple[Counters, Counters]]) -> tuple[Counters, Counters]:
    """A reading of the kernel that has not moved for a while."""
    last = judge_()

    def rests() -> bool:
        nonlocal last
        before, last = last, judge_()
        return before == last

    wait_until(rests, deadline=SETTLED, what="the kernel's counters rest", interval=0.5)
    return last


def test_idle_flow_moves_to_other(watched: Pair, start_agent: StartAgent) -> None:
    """Its series ends and its count is in `other`; the pod's total never falls; the flow returns at zero."""
    agent = start_agent("--flow-idle-timeout", "2s")
    sent = "ip_send_packets_total"
    labels = {"pod": "default/a", "ipfamily": "ipv4"}
    flow = {**labels, "srcport": "5000", "dstport": "7000"}
    totals: list[float] = []

    def shown() -> tuple[float, float, float]:
        """The flow (-1: no series), `other`, and the pod's total, which flows and `other` make up."""
        samples = agent.metrics()
        total = samples.value(f"dolphin_{sent}", **labels)
        assert samples.value(f"dolphin_flow_{sent}", **labels) == total
        totals.append(total)
        there = samples.series(f"dolphin_flow_{sent}", **flow)
        value = samples.value(f"dolphin_flow_{sent}", **flow) if there else -1
        return value, samples.value(f"dolphin_flow_{sent}", **labels, **OTHER), total

    def send(count: int) -> None:
        traffic.datagrams(watched.a, watched.b, "ipv4", count=count, size=100, port=7000, source_port=5000)

    assert shown() == (-1, 0, 0)
    send(PRIME)
    wait_until(lambda: shown() == (PRIME, 0, PRIME), deadline=10, what="the flow is shown", interval=0.2)
    since = time.monotonic()
    wait_until(lambda: shown() == (-1, PRIME, PRIME), deadline=20, what="the flow is gone", interval=0.2)
    assert time.monotonic() - since > 1, "not before it was idle"
    send(5)
    wait_until(lambda: shown() == (5, PRIME, PRIME + 5), deadline=10, what="the flow is back", interval=0.2)
    wait_until(lambda: shown() == (-1, PRIME + 5, PRIME + 5), deadline=20, what="the flow is gone again", interval=0.2)
    assert totals == sorted(totals)
    assert agent.value("dolphin_agent_flows") == 0
