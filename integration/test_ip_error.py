"""ipError against InHdrErrors, InTruncatedPkts, InAddrErrors, InUnknownProtos, InNoRoutes and InCsumErrors."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.bpf.layouts import Kind
from integration.lib import crafted, traffic
from integration.lib.counters import FAMILIES
from integration.lib.crafted import DESTINATION, EVERYBODY, FRAGMENT, HOP_BY_HOP, ROUTING, ipv4, ipv6
from integration.lib.errors import IP_ERRORS, TCP_ERRORS, Bench, bench
from integration.lib.topology import forwards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.lib.counters import Family

PRIME = 23
A: dict[Family, str] = {"ipv4": "10.8.0.1", "ipv6": "fd08::1"}
B: dict[Family, str] = {"ipv4": "10.8.0.2", "ipv6": "fd08::2"}
NEIGHBOUR: dict[Family, str] = {"ipv4": "10.8.0.99", "ipv6": "fd08::99"}
"""An address on the wire that nobody has."""
NOWHERE: dict[Family, str] = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
"""An address that B has no route to."""
BEYOND = "2001:db8:1::1"
"""An address that B reaches by another device."""
PAYLOAD = bytes(40)
RECORD_ROUTE = bytes((7, 7, 4, 0, 0, 0, 0, 0))
NO_ROOM = bytes((7, 1, 0, 0))
"""An option that says it is shorter than it can be."""


@pytest.fixture(scope="module")
def errors(guest: None) -> Iterator[Bench]:  # noqa: ARG001 - must come first
    """The pods that all tests share; each leaves them as they were."""
    with bench("iperr") as made:
        yield made


def v4(**fields: int | bytes | bool) -> bytes:
    """A packet from A to B that is wrong in these fields."""
    return ipv4(A["ipv4"], B["ipv4"], PAYLOAD, **fields)  # type: ignore[arg-type]


def v6(payload: bytes = PAYLOAD, **fields: int) -> bytes:
    """The same over IPv6."""
    return ipv6(A["ipv6"], B["ipv6"], payload, **fields)


def extension(*octets: int, next_header: int = crafted.UNKNOWN_PROTOCOL) -> bytes:
    """An extension header, filled up to a multiple of 8 bytes, and what follows it. The second byte is its length."""
    header = bytes((next_header, *octets))
    return header + bytes(-len(header) % 8) + PAYLOAD


def fragment(offset: int, *, more: bool, size: int = 40, protocol: int = socket.IPPROTO_UDP) -> bytes:
    """A fragment header and what follows it."""
    return struct.pack("!BBHI", protocol, 0, offset | more, 7) + bytes(size)


IPV4: Mapping[str, tuple[str, bytes]] = {
    "another version": ("header", v4(version=5)),
    "a header of 16 bytes": ("header", v4(size=4)),
    "nothing behind 12 bytes": ("header", v4()[:12]),
    "a header longer than the packet": ("header", v4(size=15)[:40]),
    "a total length below the header": ("header", v4(total=16)),
    "a wrong option": ("header", v4(options=NO_ROOM)),
    "a wrong checksum": ("checksum", v4(wrong_sum=True)),
    "a wrong checksum with options": ("checksum", v4(options=RECORD_ROUTE, wrong_sum=True)),
    "a total length beyond the packet": ("length", v4(total=100)),
    "a total length beyond, with options": ("length", v4(options=RECORD_ROUTE, total=100)),
    "for somebody else": ("address", ipv4(A["ipv4"], NEIGHBOUR["ipv4"], PAYLOAD)),
    "for nobody known": ("address", ipv4(A["ipv4"], NOWHERE["ipv4"], PAYLOAD)),
    "a protocol that nobody speaks": ("protocol", v4()),
    "the same with options": ("protocol", v4(options=RECORD_ROUTE)),
}
"""What is wrong -> the reason, and the packet."""

IPV6: Mapping[str, tuple[str, bytes]] = {
    "another version": ("header", v6(version=7)),
    "nothing behind 30 bytes": ("header", v6()[:30]),
    "from a group": ("header", ipv6("ff02::1", B["ipv6"], PAYLOAD)),
    "from the loopback address": ("header", ipv6("::1", B["ipv6"], PAYLOAD)),
    "to the loopback address": ("header", ipv6(A["ipv6"], "::1", PAYLOAD)),
    "to a group without scope": ("header", ipv6(A["ipv6"], "ff00::1", PAYLOAD)),
    "to a group of one node": ("header", ipv6(A["ipv6"], "ff01::1", PAYLOAD)),
    "hop-by-hop options beyond the packet": ("header", v6(extension(200), protocol=HOP_BY_HOP)),
    "padding in hop-by-hop options that is too long": ("header", v6(extension(1, 1, 12), protocol=HOP_BY_HOP)),
    "a hop-by-hop option to be dropped": ("header", v6(extension(0, 0x5E, 2), protocol=HOP_BY_HOP)),
    "a hop-by-hop option to be answered": ("header", v6(extension(0, 0x9E, 2), protocol=HOP_BY_HOP)),
    "destination options beyond the packet": ("header", v6(extension(200), protocol=DESTINATION)),
    "padding in destination options that is too long": ("header", v6(extension(1, 1, 12), protocol=DESTINATION)),
    "a destination option to be dropped": ("header", v6(extension(0, 0x5E, 2), protocol=DESTINATION)),
    "a destination option to be answered": ("header", v6(extension(0, 0x9E, 2), protocol=DESTINATION)),
    "the same behind hop-by-hop options": (
        "header",
        v6(bytes((DESTINATION, 0, 1, 4, 0, 0, 0, 0)) + extension(0, 0x9E, 2), protocol=HOP_BY_HOP),
    ),
    "a routing header beyond the packet": ("header", v6(extension(200, 0, 1), protocol=ROUTING)),
    "a routing header of an old type": ("header", v6(extension(2, 0, 1, *bytes(20)), protocol=ROUTING)),
    "a routing header for the home of a mobile": ("address", v6(extension(2, 2, 0, *bytes(20)), protocol=ROUTING)),
    "a fragment of no multiple of 8 bytes": ("header", v6(fragment(0, more=True, size=41), protocol=FRAGMENT)),
    "a fragment beyond the longest packet": ("header", v6(fragment(0xFFF8, more=False), protocol=FRAGMENT)),
    "a first fragment without the next header": ("header", v6(fragment(0, more=True, size=0), protocol=FRAGMENT)),
    "a payload length beyond the packet": ("length", v6(length=80)),
    "for somebody else": ("address", ipv6(A["ipv6"], NEIGHBOUR["ipv6"], PAYLOAD)),
    "for no address": ("address", ipv6(A["ipv6"], "::", PAYLOAD)),
    "a protocol that nobody speaks": ("protocol", v6()),
    "the same behind destination options": ("protocol", v6(extension(0, 1, 4), protocol=DESTINATION)),
    "for nobody known": ("no_route", ipv6(A["ipv6"], NOWHERE["ipv6"], PAYLOAD)),
}

CASES = [("ipv4", case) for case in IPV4] + [("ipv6", case) for case in IPV6]


def sent(errors: Bench, packet: bytes, family: Family, *, to: bytes | None = None) -> None:
    """A number of times."""
    for _ in range(PRIME):
        errors.wire.send(packet, family, to=to)


@pytest.mark.parametrize(("family", "case"), CASES, ids=str)
def test_reason(errors: Bench, family: Family, case: str) -> None:
    """Each counts once, under the reason that its counter of the kernel has."""
    reason, packet = (IPV4 if family == "ipv4" else IPV6)[case]
    result = errors.measured(partial(sent, errors, packet, family))
    assert result.reasons(IP_ERRORS) == {reason: PRIME}
    assert result.reasons(IP_ERRORS, ipfamily=family) == {reason: PRIME}
    result.assert_ip(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [False, True])
def test_hop_limit(errors: Bench, family: Family, options: bool) -> None:  # noqa: FBT001 - a parameter
    """A pod that forwards tells packets that have come too far from malformed ones, which InHdrErrors does not."""
    if family == "ipv4":
        packet = ipv4(A[family], NEIGHBOUR[family], PAYLOAD, ttl=1, options=RECORD_ROUTE if options else b"")
    else:
        payload = extension(0, 1, 4) if options else PAYLOAD
        packet = ipv6(A[family], NEIGHBOUR[family], payload, hop_limit=1, protocol=HOP_BY_HOP if options else 59)
    with forwards(errors.pair.b.netns):
        result = errors.measured(partial(sent, errors, packet, family))
    assert result.reasons(IP_ERRORS, ipfamily=family) == {"hop_limit": PRIME}
    result.assert_ip(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_route(errors: Bench, family: Family) -> None:
    """A pod that forwards has no way for it."""
    made = ipv4 if family == "ipv4" else ipv6
    with forwards(errors.pair.b.netns):
        result = errors.measured(partial(sent, errors, made(A[family], NOWHERE[family], PAYLOAD), family))
    assert result.reasons(IP_ERRORS, ipfamily=family) == {"no_route": PRIME}
    result.assert_ip(family)


@pytest.mark.parametrize("source", ["::", "fe80::99"])
def test_source_that_must_not_be_forwarded(errors: Bench, source: str) -> None:
    """IPv6 of a pod that forwards looks at where a packet is from."""
    b = errors.pair.b.netns
    b.run(["ip", "link", "add", "other0", "type", "dummy"])
    b.run(["ip", "link", "set", "other0", "up"])
    try:
        b.run(["ip", "-6", "route", "add", "2001:db8:1::/64", "dev", "other0"])
        with forwards(b):
            result = errors.measured(partial(sent, errors, ipv6(source, BEYOND, PAYLOAD), "ipv6"))
    finally:
        b.run(["ip", "link", "del", "other0"])
    assert result.reasons(IP_ERRORS) == {"address": PRIME}
    result.assert_ip("ipv6")


def test_unicast_to_everybody(errors: Bench) -> None:
    """IPv6 refuses it where it is told to; a routing header in it is refused anyway."""
    setting = f"ipv6/conf/{errors.pair.b.device}/drop_unicast_in_l2_multicast"
    routed = v6(extension(2, 0, 1, *bytes(20)), protocol=ROUTING)

    def made() -> None:
        sent(errors, routed, "ipv6", to=EVERYBODY)
        errors.pair.b.netns.sysctl(setting, 1)
        sent(errors, v6(), "ipv6", to=EVERYBODY)
        errors.pair.b.netns.sysctl(setting, 0)

    result = errors.measured(made)
    assert result.reasons(IP_ERRORS) == {"header": PRIME, "address": PRIME}
    result.assert_ip("ipv6")


def test_jumbo_option(errors: Bench) -> None:
    """One that is none. IPv6 before 6.0 counts it twice; it is one packet."""
    option = struct.pack("!BBI", 0xC2, 4, 1000)
    result = errors.measured(partial(sent, errors, v6(extension(0, *option), protocol=HOP_BY_HOP), "ipv6"))
    assert result.reasons(IP_ERRORS) == {"header": PRIME}
    assert result.ip("ipv6", "InHdrErrors") in (PRIME, 2 * PRIME)


def test_segment_routing_is_no_error(errors: Bench) -> None:
    """A routing header that the pod does not take part in is dropped, and no counter has it."""
    packet = v6(extension(2, 4, 1, *bytes(20)), protocol=ROUTING)
    result = errors.measured(partial(sent, errors, packet, "ipv6"))
    assert result.ip("ipv6", "InReceives") == PRIME
    assert result.reasons(IP_ERRORS) == {}
    result.assert_ip("ipv6")


RULES = {
    "drop as it arrives": "type filter hook prerouting priority -300; drop",
    "drop as it is delivered": "type filter hook input priority 0; drop",
    "refuse its protocol": "type filter hook input priority 0; reject with icmp prot-unreachable",
}
RIGHT: Mapping[Family, list[bytes]] = {
    "ipv4": [v4(), v4(ttl=1), v4(options=RECORD_ROUTE)],
    "ipv6": [
        v6(),
        v6(hop_limit=1),
        v6(extension(0, 1, 4), protocol=HOP_BY_HOP),
        v6(extension(0, 1, 4), protocol=DESTINATION),
        v6(extension(2, 0, 1, *bytes(20)), protocol=ROUTING),
        v6(fragment(0, more=True), protocol=FRAGMENT),
    ],
}
"""Packets that are right as far as IP has looked when a rule drops them."""


@pytest.mark.parametrize("rule", RULES)
def test_dropped_by_a_rule_is_no_error(errors: Bench, rule: str) -> None:
    """What looks like a refused packet, and is none."""
    shapes: tuple[Family, ...] = ("ipv4",) if "icmp" in RULES[rule] else FAMILIES
    table = "inet" if "ipv6" in shapes else "ip"

    def made() -> None:
        for family in shapes:
            for packet in RIGHT[family]:
                sent(errors, packet, family)

    errors.pair.b.netns.run(["nft", f"table {table} t {{ chain c {{ {RULES[rule]}; }}; }}"])
    try:
        result = errors.measured(made)
    finally:
        errors.pair.b.netns.run(["nft", "flush ruleset"])
    assert result.reasons(IP_ERRORS) == {}
    for family in shapes:
        assert result.ip(family, "InReceives") == PRIME * len(RIGHT[family])
        result.assert_ip(family)


def test_forwarded_with_the_last_hop_is_no_error(errors: Bench) -> None:
    """What a rule drops after a hop has been taken off looks like what has come too far."""
    b = errors.pair.b.netns
    b.run(["nft", "table inet t { chain c { type filter hook forward priority 0; drop; }; }"])
    try:
        with forwards(b):

            def made() -> None:
                sent(errors, ipv4(A["ipv4"], NEIGHBOUR["ipv4"], PAYLOAD, ttl=2), "ipv4")
                sent(errors, ipv6(A["ipv6"], NEIGHBOUR["ipv6"], PAYLOAD, hop_limit=2), "ipv6")

            result = errors.measured(made)
    finally:
        b.run(["nft", "flush ruleset"])
    assert result.reasons(IP_ERRORS) == {}
    for family in FAMILIES:
        result.assert_ip(family)


def test_for_another_host_is_no_error(errors: Bench) -> None:
    """A malformed frame that is for somebody else."""
    somebody = bytes.fromhex("02000000aabb")
    b = errors.pair.b
    b.netns.run(["ip", "link", "set", b.device, "promisc", "on"])
    try:

        def made() -> None:
            sent(errors, v4(wrong_sum=True), "ipv4", to=somebody)
            sent(errors, v6(version=7), "ipv6", to=somebody)

        result = errors.measured(made)
    finally:
        b.netns.run(["ip", "link", "set", b.device, "promisc", "off"])
    assert result.reasons(IP_ERRORS) == {}
    for family in FAMILIES:
        result.assert_ip(family)


def test_dropped_before_ip(errors: Bench) -> None:
    """Kernels that do not say why have a malformed packet judged again: also one that IP never saw."""
    b = errors.pair.b
    hook = f"type filter hook ingress device {b.device} priority 0; drop"
    b.netns.run(["nft", f"table netdev t {{ chain c {{ {hook}; }}; }}"])
    try:
        result = errors.measured(partial(sent, errors, v4(wrong_sum=True), "ipv4"))
    finally:
        b.netns.run(["nft", "flush ruleset"])
    assert result.ip("ipv4", "InReceives") == 0
    assert result.reasons(IP_ERRORS) == ({} if errors.is_exact(Kind.IP_ERROR) else {"checksum": PRIME})


def test_checksum_of_udp_is_not_ips(errors: Bench) -> None:
    """IP has delivered it: UDP's InCsumErrors has it, and udpReceive among what arrived."""

    def made() -> None:
        for family in FAMILIES:
            packet = crafted.udp(family, (A[family], 1000), (B[family], 1001), PAYLOAD, wrong_sum=True)
            sent(errors, packet, family)

    result = errors.measured(made)
    assert (result.kernel["Udp.InCsumErrors"], result.kernel["Udp6InCsumErrors"]) == (PRIME, PRIME)
    assert result.reasons(IP_ERRORS) == result.reasons(TCP_ERRORS) == {}
    for family in FAMILIES:
        assert result.agent("dolphin_udp_receive_packets_total", ipfamily=family) == PRIME


def test_what_is_right_is_no_error(errors: Bench) -> None:
    """Pings, fragments, datagrams, connections."""
    a, b = errors.pair.a, errors.pair.b

    def made() -> None:
        for family in FAMILIES:
            assert traffic.ping(a, b, family, count=PRIME) == PRIME
            assert traffic.ping(a, b, family, count=PRIME, size=4000) == PRIME
            traffic.datagrams(a, b, family, count=PRIME, size=300)
            traffic.connections(a, b, family, count=PRIME)
            assert traffic.refused(a, b, family, count=7) == 7

    result = errors.measured(made)
    assert result.reasons(IP_ERRORS) == result.reasons(TCP_ERRORS) == {}
    result.assert_tcp()
    for family in FAMILIES:
        result.assert_ip(family)
