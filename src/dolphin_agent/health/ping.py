"""ping: ICMP and ICMPv6 echo (RFC 792, RFC 4443)."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from dolphin_agent.health.sockets import SharedSocket, open_socket
from dolphin_agent.policy.vocabulary import IPFamily

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable

    from dolphin_agent.health.plan import Check

_ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
_PAYLOAD = b"dolphin-agent   "
_REQUEST = {IPFamily.IPV4: 8, IPFamily.IPV6: 128}
REPLY = {IPFamily.IPV4: 0, IPFamily.IPV6: 129}
_SEQUENCES = 1 << 16

_SOL_RAW = 255
_ICMP_FILTER = 1  # linux/icmp.h: a set bit refuses a type
_ICMPV6_FILTER = 1  # linux/icmpv6.h, the same
_ICMPV6_TYPES = 256


def open_icmp(what: str, family: IPFamily, only: int) -> socket.socket:
    """A raw socket that receives one type of message. Raises ProbeError; `what` is what it is for."""
    if family is IPFamily.IPV4:
        made = open_socket(what, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << only)))
        return made
    made = open_socket(what, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    refused = ((1 << _ICMPV6_TYPES) - 1) & ~(1 << only)
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, refused.to_bytes(_ICMPV6_TYPES // 8, "little"))
    return made


def checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(family: IPFamily, identifier: int, sequence: int) -> bytes:
    """An echo request; the kernel fills in the checksum of ICMPv6 (RFC 3542, 3.1)."""
    packet = _ECHO.pack(_REQUEST[family], 0, 0, identifier, sequence) + _PAYLOAD
    if family is IPFamily.IPV6:
        return packet
    return _ECHO.pack(_REQUEST[family], 0, checksum(packet), identifier, sequence) + _PAYLOAD


def read_reply(family: IPFamily, data: bytes) -> tuple[int, int] | None:
    """(identifier, sequence number) of an echo reply as a raw socket gives it; None for all else.

    IPv4's has the IP header before it, and a checksum that nobody has looked at yet.
    """
    if family is IPFamily.IPV4:
        data = data[(data[0] & 0xF) * 4 :] if data else data
        if len(data) % 2 or checksum(data):
            return None
    if len(data) != _ECHO.size + len(_PAYLOAD):
        return None
    kind, code, _, identifier, sequence = _ECHO.unpack_from(data)
    return (identifier, sequence) if (kind, code) == (REPLY[family], 0) else None


class Pings:
    """All pings of one IP family."""

    def __init__(self, selector: selectors.BaseSelector, family: IPFamily) -> None:
        self._family = family
        self._identifier = secrets.randbelow(1 << 16)
        self._sequence = 0
        self._waiting: dict[int, Ping] = {}
        """Sequence number -> the ping that waits for its answer."""
        self._socket = SharedSocket(selector, partial(open_icmp, "ping", family, REPLY[family]), self._received)

    def ask(self, ping: Ping) -> int:
        """Send a request; returns its sequence number."""
        self._sequence = (self._sequence + 1) % _SEQUENCES
        self._socket.send(request(self._family, self._identifier, self._sequence), (ping.address, 0))
        self._waiting[self._sequence] = ping
        return self._sequence

    def forget(self, sequence: int) -> None:
        """Let its answer come to nothing."""
        self._waiting.pop(sequence, None)

    def close(self) -> None:
        """Close the socket until the next request."""
        self._socket.close()

    def _received(self, data: bytes, source: Any) -> None:  # noqa: ANN401 - as sockets give it
        found = read_reply(self._family, data)
        if found is None or found[0] != self._identifier:
            return
        ping = self._waiting.get(found[1])
        if ping and ping.address == source[0]:
            del self._waiting[found[1]]
            ping.answered()


class Ping:
    """Pings one pod."""

    def __init__(self, pings: Pings, check: Check, end: Callable[[float], None]) -> None:
        """Take what to call with the seconds that an answer took."""
        self.address = check.address
        self._pings = pings
        self._end = end
        self._sequence = 0
        self._sent = 0.0

    def begin(self) -> None:
        """Ask. Raises OSError, ProbeError."""
        self._sent = time.monotonic()
        self._sequence = self._pings.ask(self)

    def answered(self) -> None:
        """The answer came."""
        self._end(time.monotonic() - self._sent)

    def abandon(self) -> None:
        """Wait no longer."""
        self._pings.forget(self._sequence)
