"""ipDrop against what the kernel says of packets that it dropped on purpose: each scenario has a judge of its own."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from integration.lib import crafted, traffic, udp
from integration.lib.counters import FAMILIES
from integration.lib.drops import IP, TCP, datagrams, dropping, only, queue
from integration.lib.netns import NODE
from integration.lib.wait import wait_until
from integration.scenarios import BULK, PRIME

if TYPE_CHECKING:
    from integration.lib.counters import Family
    from integration.lib.drops import Watch

PORT = 7800
NOWHERE: dict[Family, str] = {"ipv4": "10.77.0.1", "ipv6": "fd77::1"}
"""No route leads there from the node."""
SILENT: dict[Family, str] = {"ipv4": "10.8.3.99", "ipv6": "fd08:3::99"}
"""Nobody has it, in the network of pod A."""
ELSEWHERE = "10.99.0.5"
SEGMENT = 100


@pytest.mark.parametrize("family", FAMILIES)
def test_rule_in_the_pod(drop_watch: Watch, family: Family) -> None:
    """nftables, at the input of one pod and the output of the other: the rule's counter."""
    pair = drop_watch.pair
    reasons, functions = ("netfilter_drop",), ("nf_hook_slow",)
    with dropping(pair.b.netns, "input", f"udp dport {PORT}") as rule:
        found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.address(family), family, count=PRIME))
        assert only(found.drops(pair.b, family), "receive", reasons, functions) == rule.packets() == PRIME
        assert not found.drops(pair.a, family)
    with dropping(pair.a.netns, "output", f"udp dport {PORT}") as rule:
        found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.address(family), family, count=PRIME))
        assert only(found.drops(pair.a, family), "send", reasons, functions) == rule.packets() == PRIME
        assert not found.drops(pair.b, family)
        assert not found.drops(pair.a, family, TCP)


@pytest.mark.parametrize("family", FAMILIES)
def test_rule_on_the_node(drop_watch: Watch, family: Family) -> None:
    """Between two pods of the node: one's packet sent is the other's to receive."""
    pair = drop_watch.pair
    with dropping(NODE, "forward", f"udp dport {PORT}") as rule:
        found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.address(family), family, count=PRIME))
        for pod, direction in ((pair.a, "send"), (pair.b, "receive")):
            packets = only(found.drops(pod, family), direction, ("netfilter_drop",), ("nf_hook_slow",))
            assert packets == rule.packets() == PRIME


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_packets_count_as_those_they_stand_for(drop_watch: Watch, family: Family) -> None:
    """A rule sees each once; on the wire they would be ten."""
    pair = drop_watch.pair
    with dropping(pair.a.netns, "output", f"udp dport {PORT}") as rule:

        def send() -> None:
            with traffic.open_socket(pair.a, family, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_UDP, udp.UDP_SEGMENT, SEGMENT)
                for _ in range(PRIME):
                    with pytest.raises(PermissionError):
                        sender.sendto(bytes(10 * SEGMENT), (pair.b.address(family), PORT))

        found = drop_watch.measured(send)
        assert rule.packets() == PRIME
        assert found.drops(pair.a, family).total() == 10 * PRIME


@pytest.mark.parametrize("family", FAMILIES)
def test_flows_make_up_the_pod(drop_watch: Watch, family: Family) -> None:
    """Sums over flows and `other`; the labels are those of the packets."""
    pair = drop_watch.pair
    with dropping(pair.b.netns, "input", f"udp dport {PORT}"):
        found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.address(family), family, count=PRIME))
    assert found.drops(pair.b, family, granularity="flow") == found.drops(pair.b, family)
    flows = found.after.series("dolphin_flow_ip_drop_packets_total", dstport=str(PORT), ipfamily=family)
    ends = {(one["pod"], one["srcip"], one["dstip"], one["srcport"], one["protocol"]) for one in flows}
    addresses = pair.a.address(family), pair.b.address(family)
    assert (f"default/{pair.b.netns.name}", *addresses, "ephemeral", "udp") in ends


def test_queue_of_the_device(drop_watch: Watch) -> None:
    """A queue that is full, and one that loses at random: what tc says."""
    pair = drop_watch.pair
    reasons = ("qdisc_drop", "qdisc_drop_generic", "qdisc_drop_overlimit")
    for discipline in (("tbf", "rate", "8kbit", "burst", "1600", "limit", "3000"), ("netem", "loss", "30%")):
        with queue(pair.a, *discipline) as dropped:
            found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.ipv4, "ipv4", count=10 * PRIME, port=9))
            drops = +Counter({key: n for key, n in found.drops(pair.a, "ipv4").items() if key[0] == "send"})
            assert only(drops, "send", reasons, ("kfree_skb_list", "__dev_queue_xmit")) == dropped() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_receive_buffer(drop_watch: Watch, family: Family) -> None:
    """Datagrams that their receiver has no room for: RcvbufErrors."""
    pair = drop_watch.pair
    found = drop_watch.measured(lambda: udp.overflowing(pair.a, pair.b, family, count=10 * PRIME, size=1000))
    kernel = found.kernel[pair.b.netns.name]
    errors = kernel["Udp.RcvbufErrors" if family == "ipv4" else "Udp6RcvbufErrors"]
    functions = ("__udp_queue_rcv_skb", "udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb", "__udpv6_queue_rcv_skb")
    assert only(found.drops(pair.b, family), "receive", ("socket_rcvbuff",), functions) == errors > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_port(drop_watch: Watch, family: Family) -> None:
    """Datagrams that nobody listens for: NoPorts."""
    pair = drop_watch.pair
    found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.address(family), family, count=PRIME))
    kernel = found.kernel[pair.b.netns.name]
    ports = kernel["Udp.NoPorts" if family == "ipv4" else "Udp6NoPorts"]
    functions = ("__udp4_lib_rcv", "__udp6_lib_rcv")
    assert only(found.drops(pair.b, family), "receive", ("no_socket",), functions) == ports == PRIME


def test_reverse_path(drop_watch: Watch) -> None:
    """A source that the pod would answer elsewhere: IPReversePathFilter."""
    pair = drop_watch.pair
    device = f"ipv4/conf/{pair.b.device}/rp_filter"
    pair.a.netns.run(["ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo"])
    pair.b.netns.run(["ip", "route", "add", "10.99.0.0/24", "dev", "lo"])
    try:
        with pair.b.netns.setting(device, 1):
            found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.ipv4, "ipv4", count=PRIME, source=ELSEWHERE))
    finally:
        pair.b.netns.run(["ip", "route", "del", "10.99.0.0/24"])
        pair.a.netns.run(["ip", "address", "del", f"{ELSEWHERE}/32", "dev", "lo"])
    filtered = found.kernel[pair.b.netns.name]["TcpExt.IPReversePathFilter"]
    functions = ("ip_rcv_finish", "ip_rcv_finish_core", "ip_rcv")
    assert only(found.drops(pair.b, "ipv4"), "receive", ("ip_rpfilter",), functions) == filtered == PRIME


@pytest.mark.parametrize("family", FAMILIES)
def test_no_route(drop_watch: Watch, family: Family) -> None:
    """On the node: InNoRoutes."""
    pair = drop_watch.pair
    found = drop_watch.measured(lambda: datagrams(pair.a, NOWHERE[family], family, count=PRIME))
    routes = found.kernel[NODE.name]["IpExt.InNoRoutes" if family == "ipv4" else "Ip6InNoRoutes"]
    functions = ("ip_error", "ip6_pkt_drop", "ip6_pkt_discard")
    assert only(found.drops(pair.a, family), "send", ("ip_innoroutes",), functions) == routes > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_time_to_live(drop_watch: Watch, family: Family) -> None:
    """On the node: InHdrErrors."""
    pair = drop_watch.pair
    found = drop_watch.measured(lambda: datagrams(pair.a, pair.b.address(family), family, count=PRIME, hops=1))
    errors = found.kernel[NODE.name]["Ip.InHdrErrors" if family == "ipv4" else "Ip6InHdrErrors"]
    for pod, direction in ((pair.a, "send"), (pair.b, "receive")):
        packets = only(found.drops(pod, family), direction, ("ip_inhdr",), ("ip_forward", "ip6_forward"))
        assert packets == errors == PRIME


@pytest.mark.parametrize("family", FAMILIES)
def test_neighbour_that_is_not_there(drop_watch: Watch, family: Family) -> None:
    """Datagrams that were sent, by UDP's counter, and reached no device."""
    pair = drop_watch.pair
    taken = 0

    def send() -> None:
        nonlocal taken
        taken = datagrams(pair.a, SILENT[family], family, count=PRIME)
        neighbour = ["ip", "neigh", "show", SILENT[family]]
        wait_until(lambda: "FAILED" in pair.a.netns.run(neighbour), deadline=30, what="the neighbour is given up")

    found = drop_watch.measured(send)
    kernel = found.kernel[pair.a.netns.name]
    drops = found.drops(pair.a, family, granularity="flow", protocol="udp")
    functions = ("arp_error_report", "ndisc_error_report", "neigh_invalidate")
    assert only(drops, "send", ("neigh_failed", *functions), functions) == taken == PRIME
    assert kernel.udp_send_datagrams(family) == PRIME


def test_nothing_that_is_consumed_is_a_drop(drop_watch: Watch) -> None:
    """Ordinary traffic, merged and in fragments, over both families: connections, datagrams, echoes, discovery.

    Somebody has asked for copies, and goes without having read them.
    """
    pair = drop_watch.pair
    for device, netns in (("to-drop-a", NODE), ("to-drop-b", NODE), *((e.device, e.netns) for e in (pair.a, pair.b))):
        netns.run(["ip", "neigh", "flush", "dev", device, "nud", "permanent"])

    def make() -> None:
        with crafted.wire(pair.a, pair.b), crafted.wire(pair.b, pair.a):
            for family in FAMILIES:
                traffic.connections(pair.a, pair.b, family, count=2, size=BULK)
                traffic.connections(pair.a, pair.b, family, count=PRIME)
                assert traffic.datagrams(pair.a, pair.b, family, count=PRIME, size=4000) == PRIME
                assert traffic.ping(pair.a, pair.b, family, count=PRIME, size=4000) == PRIME

    found = drop_watch.measured(make)
    for end, other in ((pair.a, pair.b), (pair.b, pair.a)):
        for family in FAMILIES:
            for metric in (IP, TCP):
                drops = found.drops(end, family, metric)
                # What was sent again, as an acknowledgement came late, arrived twice, perhaps behind the window.
                twice = sum(drops.pop(("receive", why), 0) for why in ("tcp_old_data", "tcp_invalid_sequence"))
                assert twice <= found.kernel[other.netns.name].retrans_segs
                # One overtaken by a later one, on two processors.
                old = drops.pop(("receive", "tcp_rfc7323_paws"), 0)
                assert old <= found.kernel[end.netns.name]["TcpExt.PAWSEstab"]
                # An acknowledgement of what is closed already.
                assert drops.pop(("receive", "tcp_close"), 0) <= PRIME
                assert not drops, (end.netns.name, family, metric)
