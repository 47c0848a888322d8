"""The harness does what the tests take for granted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from integration.lib import bpf, counters, links, traffic, wait
from integration.lib.counters import FAMILIES, Counters
from integration.lib.topology import joined_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.conftest import StartAgent
    from integration.lib.counters import Family
    from integration.lib.manifests import Manifests, PodManifest
    from integration.lib.topology import Pair

PRIME = 23
"""A count that no retry or rounding makes up."""

BULK = 2_000_000
BULK_PACKETS = BULK // 1500 // 2
"""Fewer than BULK takes unmerged, even where iperf3 leaves some unsent, and more than it takes merged."""

MODULES = (
    "veth",
    "bridge",
    "br_netfilter",
    "8021q",
    "macvlan",
    "tun",
    "nf_tables",
    "nft_chain_nat",
    "sch_netem",
    "sch_prio",
    "sch_tbf",
)

ICMP_HEADER = 8
IP_HEADER = {"ipv4": 20, "ipv6": 40}


@pytest.fixture(scope="module")
def pair(guest: None) -> Iterator[Pair]:  # noqa: ARG001 - must come first
    """One pair for all tests here: none changes it for good."""
    with joined_pair("harness") as made:
        yield made


def rest(pair: Pair, seconds: float = 0.3) -> tuple[Counters, Counters]:
    """Read both pods once nothing has moved for some seconds."""
    return wait.unchanged(
        lambda: (pair.a.counters(), pair.b.counters()), seconds=seconds, deadline=20, what="the pods are quiet"
    )


def test_pair_is_quiet(pair: Pair) -> None:
    """Nothing moves in pods that the test leaves alone."""
    # As they are handed over, so without waiting for rest first.
    before = (pair.a.counters(), pair.b.counters())
    after = rest(pair, seconds=3)
    assert [(now - then).changed() for now, then in zip(after, before, strict=True)] == [{}, {}]


@pytest.mark.usefixtures("guest")
def test_programs_run_by_descriptor() -> None:
    """As runc starts itself: what the security modules make of the path must be there."""
    program = "import os; os.execve(os.open('/bin/true', os.O_RDONLY | os.O_CLOEXEC), ['true'], {})"
    subprocess.run([sys.executable, "-S", "-c", program], check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_judge_counts_pings(pair: Pair, family: Family) -> None:
    """Packets and bytes rise by exactly what ping sends and gets back."""
    before, _ = rest(pair)
    assert traffic.ping(pair.a, pair.b, family, count=PRIME) == PRIME
    moved = rest(pair)[0] - before
    size = PRIME * (56 + ICMP_HEADER + IP_HEADER[family])
    assert (moved.ip_send_packets(family), moved.ip_send_bytes(family)) == (PRIME, size)
    assert (moved.ip_receive_packets(family), moved.ip_receive_bytes(family)) == (PRIME, size)


@pytest.mark.parametrize("family", FAMILIES)
def test_judge_counts_fragments_sent(pair: Pair, family: Family) -> None:
    """What the sender counts, each fragment for itself, is what the receiver counts."""
    before = rest(pair)
    assert traffic.ping(pair.a, pair.b, family, count=PRIME, size=4000) == PRIME
    assert traffic.datagrams(pair.a, pair.b, family, count=PRIME, size=5000) == PRIME
    a, b = (now - then for now, then in zip(rest(pair), before, strict=True))
    assert a.ip_send_packets(family) == PRIME * (3 + 4)
    assert a.ip_send_packets(family) == b.ip_receive_packets(family)
    assert a.ip_send_bytes(family) == b.ip_receive_bytes(family)
    assert b.ip_send_packets(family) == a.ip_receive_packets(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_are_opened(pair: Pair, family: Family) -> None:
    """Each short connection is an open at both ends, each refused one at the client's only."""
    before = rest(pair)
    traffic.connections(pair.a, pair.b, family, count=PRIME)
    assert traffic.refused(pair.a, pair.b, family, count=PRIME) == PRIME
    a, b = (now - then for now, then in zip(rest(pair), before, strict=True))
    assert (a.active_opens, a.passive_opens) == (2 * PRIME, 0)
    assert b.active_opens == 0
    # The kernel counts sockets made: two, where the handshake's last ACK and the data race on two processors.
    assert PRIME <= b.passive_opens < 2 * PRIME
    assert a.out_segs == b.in_segs
    assert b.out_segs == a.in_segs


@pytest.mark.parametrize("family", FAMILIES)
def test_unmerged_bulk(pair: Pair, family: Family) -> None:
    """With one segment to a packet the two ends count the same packets and bytes."""
    with links.unmerged(pair.a, pair.b):
        before = rest(pair)
        report = traffic.iperf3(pair.a, pair.b, family, size=BULK)
        a, b = (now - then for now, then in zip(rest(pair), before, strict=True))
    assert report["end"]["sum_sent"]["bytes"] >= BULK
    assert a.ip_send_packets(family) == b.ip_receive_packets(family) > BULK_PACKETS
    assert a.ip_send_bytes(family) == b.ip_receive_bytes(family)


def test_bulk_without_offloads(pair: Pair) -> None:
    """Segments that the kernel cuts on the way to the device arrive one by one."""
    with links.offloads(pair.a, pair.b, tso=False, gso=False, gro=False):
        before = pair.b.counters()
        traffic.iperf3(pair.a, pair.b, "ipv4", size=BULK)
        b = rest(pair)[1] - before
    assert b["Ip.InReceives"] == b.ip_receive_packets("ipv4") > BULK_PACKETS


def test_bulk_with_offloads(pair: Pair) -> None:
    """Merged packets count as their segments on the receiving side."""
    before = pair.b.counters()
    traffic.iperf3(pair.a, pair.b, "ipv4", size=BULK)
    b = rest(pair)[1] - before
    assert b["Ip.InReceives"] < BULK_PACKETS < b.ip_receive_packets("ipv4")


def test_netem_delays_and_loses(pair: Pair) -> None:
    """A lossy path answers fewer pings and makes TCP send again; afterwards it is whole."""
    # Enough of both that losing none is out of the question.
    with links.netem(pair.a, delay=1, loss=10), links.unmerged(pair.a):
        assert 0 < traffic.ping(pair.a, pair.b, "ipv4", count=150) < 150
        before, _ = rest(pair)
        traffic.iperf3(pair.a, pair.b, "ipv4", size=400_000)
        assert (rest(pair)[0] - before).retrans_segs > 0
    assert traffic.ping(pair.a, pair.b, "ipv4", count=PRIME) == PRIME


@pytest.mark.parametrize("family", FAMILIES)
def test_router_forwards(routed_pods: Pair, family: Family) -> None:
    """A routed path carries what is sent, and the router counts it in both directions."""
    assert routed_pods.router is not None
    before = counters.read(routed_pods.router)
    assert traffic.ping(routed_pods.a, routed_pods.b, family, count=PRIME) == PRIME
    moved = counters.read(routed_pods.router) - before
    assert moved.ip_receive_packets(family) == 2 * PRIME
    assert moved.ip_send_packets(family) == 2 * PRIME


@pytest.mark.parametrize("module", MODULES)
def test_modules_load(guest: None, module: str) -> None:  # noqa: ARG001 - must come first
    """The modules that tests build networks with belong to the running kernel."""
    subprocess.run(["modprobe", module], check=True)


def test_kernel_loads_modules_on_demand(pair: Pair) -> None:
    """A device type nobody asked modprobe for makes the kernel load its module."""
    loaded = Path("/sys/module/dummy")
    assert not loaded.exists()
    with pair.a.netns.routes() as routes:
        routes.link("add", ifname="spare", kind="dummy")
        (index,) = routes.link_lookup(ifname="spare")
        routes.link("del", index=index)
    assert loaded.exists()


def test_no_program_is_loaded_at_boot(guest: None) -> None:  # noqa: ARG001 - must come first
    """A fresh guest holds no BPF program, so that what tests see is the agent's."""
    assert bpf.program_ids() == frozenset()


@pytest.mark.parametrize("kind", ["bpf", "cgroup2", "tracefs"])
def test_file_systems_are_mounted(guest: None, kind: str) -> None:  # noqa: ARG001 - must come first
    """What the agent and its tests look at is where it is on a node."""
    mounted = {line.split()[2]: line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}
    places = {"bpf": "/sys/fs/bpf", "cgroup2": "/sys/fs/cgroup", "tracefs": "/sys/kernel/tracing"}
    assert mounted[kind] == places[kind]


def test_agent_settles(pods: Pair, web: PodManifest, manifests: Manifests, start_agent: StartAgent) -> None:
    """An agent starts, its numbers come to rest together with the kernel's, and it ends when told."""
    manifests.write_pods(web)
    manifests.write_policy("everything", ["ipReceive", "ipSend"])
    agent = start_agent()
    before, _ = agent.settled(pods.a.counters)
    traffic.ping(pods.a, pods.b, "ipv4", count=PRIME)
    after, _ = agent.settled(pods.a.counters)
    labels = {"pod": web.label, "ipfamily": "ipv4"}
    name = "dolphin_ip_receive_packets_total"
    assert after.value(name, **labels) - before.value(name, **labels) == PRIME
    assert agent.rss() > 0
    assert agent.terminate()[0] == 0
