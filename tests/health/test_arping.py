"""ARP, neighbour discovery and routes, byte by byte."""

import errno
import struct

import pytest

from dolphin_agent.health.arping import arp_request, group, read_advertisement, read_arp_reply, solicitation
from dolphin_agent.health.route import find_route, read_route

OURS, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
SOURCE, TARGET = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
TARGET6 = bytes.fromhex("fd000000000000000000000000abcdef")


def arp_reply(head="0001080006040002"):
    return bytes.fromhex(head) + THEIRS + TARGET + OURS + SOURCE


def test_arp_request():
    """As RFC 826 lays it out."""
    assert arp_request(OURS, SOURCE, TARGET) == bytes.fromhex("0001080006040001") + OURS + SOURCE + bytes(6) + TARGET


def test_arp_reply():
    """Also with the padding of a short Ethernet frame."""
    assert read_arp_reply(arp_reply()) == (TARGET, THEIRS)
    assert read_arp_reply(arp_reply() + bytes(18)) == (TARGET, THEIRS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        arp_reply()[:27],
        arp_request(OURS, SOURCE, TARGET),
        arp_reply("0001080006040003"),
        arp_reply("0001080008040002"),
        arp_reply("000108dd06040002"),
    ],
    ids=["nothing", "short", "request", "another operation", "another length", "another protocol"],
)
def test_no_arp_reply(data):
    assert read_arp_reply(data) is None


def test_solicitation():
    """As RFC 4861, 4.3 lays it out, with the source's link-layer address; to the group of RFC 4291, 2.7.1."""
    assert solicitation(OURS, TARGET6) == bytes.fromhex("8700000000000000") + TARGET6 + bytes.fromhex("0101") + OURS
    assert group(TARGET6) == "ff02::1:ffab:cdef"


def test_advertisement():
    """One that was not solicited is no answer."""
    solicited = bytes.fromhex("8800abcd60000000") + TARGET6 + bytes.fromhex("0201") + THEIRS
    assert read_advertisement(solicited) == (TARGET6, b"")
    for wrong in ("8800abcd20000000", "8700abcd60000000", "8801abcd60000000"):
        assert read_advertisement(bytes.fromhex(wrong) + TARGET6) is None
    assert not [length for length in range(24) if read_advertisement(solicited[:length])]


def route(*attributes, kind=1, family=2):
    """A netlink answer."""
    body = struct.pack("=BBBBBBBBI", family, 32, 0, 0, 254, 0, 0, kind, 0)
    for name, value in attributes:
        body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), 24, 0, 1, 0) + body


def test_routes():
    on_link = read_route(route((1, TARGET), (4, struct.pack("=I", 3)), (7, SOURCE)))
    assert (on_link.interface, on_link.source, on_link.gateway, on_link.is_local) == (3, SOURCE, "", False)
    assert read_route(route((4, struct.pack("=I", 3)), (5, bytes([10, 0, 0, 254])))).gateway == "10.0.0.254"
    via = struct.pack("=H", 10) + TARGET6
    assert read_route(route((18, via), (4, struct.pack("=I", 3)))).gateway == "fd00::ab:cdef"
    assert read_route(route((4, struct.pack("=I", 1)), kind=2)).is_local


def test_no_route():
    """The kernel's reason."""
    answer = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.ENETUNREACH) + bytes(16)
    with pytest.raises(OSError, match="unreachable") as raised:
        read_route(answer)
    assert raised.value.errno == errno.ENETUNREACH


def test_loopback():
    """This machine's own kernel answers."""
    assert find_route("127.0.0.1").is_local
