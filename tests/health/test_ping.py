"""Echo requests and replies, byte by byte."""

import pytest

from dolphin_agent.health.ping import checksum, read_reply, request
from dolphin_agent.policy.vocabulary import IPFamily

IPV4_HEADER = bytes.fromhex("4500002c000000004001") + bytes(10)
OPTIONS = bytes.fromhex("46000030000000004001") + bytes(14)


def reply(family, identifier=7, sequence=9, kind=None, code=0):
    """What a pod makes of our request."""
    sent = bytearray(request(family, identifier, sequence))
    sent[0] = kind if kind is not None else {IPFamily.IPV4: 0, IPFamily.IPV6: 129}[family]
    sent[1] = code
    if family is IPFamily.IPV6:
        return bytes(sent)
    sent[2:4] = bytes(2)
    sent[2:4] = checksum(bytes(sent)).to_bytes(2, "big")
    return IPV4_HEADER + bytes(sent)


def test_checksum():
    """The example of RFC 1071, 3; and what has one adds up to nothing."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert checksum(request(IPFamily.IPV4, 1, 2)) == 0
    assert checksum(b"\xff" * 1500) == 0


@pytest.mark.parametrize("family", IPFamily)
def test_reply(family):
    assert read_reply(family, reply(family, 65535, 4660)) == (65535, 4660)


def test_reply_with_ip_options():
    assert read_reply(IPFamily.IPV4, OPTIONS + reply(IPFamily.IPV4)[len(IPV4_HEADER) :]) == (7, 9)


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("kind", [3, 8, 128, 136])
def test_other_messages(family, kind):
    assert read_reply(family, reply(family, kind=kind)) is None
    assert read_reply(family, reply(family, code=1)) is None


@pytest.mark.parametrize("family", IPFamily)
def test_malformed(family):
    """Cut short anywhere, and with bytes too many."""
    whole = reply(family)
    assert not [length for length in range(len(whole)) if read_reply(family, whole[:length])]
    assert read_reply(family, whole + b"xx") is None


def test_damaged():
    """The kernel does not look at ICMP's checksum before a raw socket gets the packet."""
    whole = bytearray(reply(IPFamily.IPV4))
    whole[-1] ^= 1
    assert read_reply(IPFamily.IPV4, bytes(whole)) is None
