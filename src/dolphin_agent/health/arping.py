"""arping: an ARP request (RFC 826), or for IPv6 a neighbour solicitation (RFC 4861), on the pod's own link.

Neither has a number that an answer repeats: one that comes later than its period is taken for the next one's, and one
that the kernel asked for itself for the probe's that waits.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from dolphin_agent.errors import ProbeError
from dolphin_agent.health.ping import open_icmp
from dolphin_agent.health.route import find_route
from dolphin_agent.health.sockets import SharedSocket, open_socket
from dolphin_agent.policy.vocabulary import IPFamily

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable

    from dolphin_agent.health.plan import Check

_ARP = struct.Struct("!HHBBH6s4s6s4s")
"""Hardware and protocol type, their lengths, operation, sender's and target's hardware and protocol addresses."""
_ETHERNET, _HARDWARE_LENGTH, _PROTOCOL_LENGTH = 1, 6, 4
_ETH_P_IP, _ETH_P_ARP = 0x0800, 0x0806
_REQUEST, _REPLY = 1, 2
_BROADCAST = b"\xff" * _HARDWARE_LENGTH
_UNKNOWN = bytes(_HARDWARE_LENGTH)

_SOLICITATION, _ADVERTISEMENT = 135, 136
_ND = struct.Struct("!BBHI16s")
"""Type, code, checksum, flags, target."""
_SOLICITED = 1 << 30
_SOURCE_LINK_LAYER = 1
_HOPS = 255
"""Of what no router has passed on (RFC 4861, 7.1)."""

_SIOCGIFHWADDR = 0x8927
_IFREQ = struct.Struct("=16sH6s16x")


def arp_request(hardware: bytes, source: bytes, target: bytes) -> bytes:
    """Who has `target`? Without the Ethernet header."""
    head = (_ETHERNET, _ETH_P_IP, _HARDWARE_LENGTH, _PROTOCOL_LENGTH, _REQUEST)
    return _ARP.pack(*head, hardware, source, _UNKNOWN, target)


def read_arp_reply(data: bytes) -> tuple[bytes, bytes] | None:
    """(address, hardware address) of who replies; None for all else."""
    if len(data) < _ARP.size:
        return None
    *head, hardware, address, _, _ = _ARP.unpack_from(data)
    expected = [_ETHERNET, _ETH_P_IP, _HARDWARE_LENGTH, _PROTOCOL_LENGTH, _REPLY]
    return (address, hardware) if head == expected else None


def solicitation(hardware: bytes, target: bytes) -> bytes:
    """A neighbour solicitation; the kernel fills in the checksum."""
    return _ND.pack(_SOLICITATION, 0, 0, 0, target) + bytes((_SOURCE_LINK_LAYER, 1)) + hardware


def read_advertisement(data: bytes) -> tuple[bytes, bytes] | None:
    """(address, nothing) of who was solicited and advertises itself; None for all else."""
    if len(data) < _ND.size:
        return None
    kind, code, _, flags, target = _ND.unpack_from(data)
    return (target, b"") if (kind, code) == (_ADVERTISEMENT, 0) and flags & _SOLICITED else None


def group(target: bytes) -> str:
    """The solicited-node multicast address (RFC 4291, 2.7.1)."""
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex("ff0200000000000000000001ff") + target[-3:])


class Arpings:
    """All arpings of one IP family."""

    def __init__(self, selector: selectors.BaseSelector, family: IPFamily) -> None:
        self._is_arp = family is IPFamily.IPV4
        self._waiting: dict[bytes, list[Arping]] = {}
        """Address -> the arpings that wait for its answer, the oldest first."""
        self._socket = SharedSocket(selector, open_arp if self._is_arp else _open_discovery, self._received)

    def ask(self, arping: Arping) -> None:
        """Send a request on the interface that the route names."""
        route = find_route(arping.address)
        name = socket.if_indextoname(route.interface)
        if route.is_local:
            raise ProbeError("arping cannot work: it is an address of the agent itself; leave it out by the selector")
        if route.gateway:
            raise ProbeError(
                f"arping cannot work: the route is by {route.gateway} on {name}, and neither ARP nor neighbour "
                "discovery passes a router; use ping"
            )
        hardware = self._hardware(name)
        if self._is_arp:
            packet = arp_request(hardware, route.source, arping.target)
            # Once it is known who answers, nobody else on the link is asked.
            to: Any = (name, _ETH_P_ARP, 0, _ETHERNET, arping.hardware or _BROADCAST)
        else:
            packet = solicitation(hardware, arping.target)
            to = (group(arping.target), 0, 0, route.interface)
        self._socket.send(packet, to)
        self._waiting.setdefault(arping.target, []).append(arping)

    def forget(self, arping: Arping) -> None:
        """Let its answer come to nothing."""
        waiting = self._waiting.get(arping.target, [])
        if arping in waiting:
            waiting.remove(arping)
        if not waiting:
            self._waiting.pop(arping.target, None)

    def close(self) -> None:
        """Close the socket until the next request."""
        self._socket.close()

    def _hardware(self, name: str) -> bytes:
        """The interface's own hardware address. Raises OSError, ProbeError where it has no Ethernet."""
        request = _IFREQ.pack(name.encode(), 0, b"")
        _, kind, hardware = _IFREQ.unpack(fcntl.ioctl(self._socket.fileno(), _SIOCGIFHWADDR, request))
        if kind != _ETHERNET:
            raise ProbeError(f"arping cannot work: the route is by {name}, which is not an Ethernet device; use ping")
        return bytes(hardware)

    def _received(self, data: bytes, _: Any) -> None:  # noqa: ANN401 - as sockets give it
        found = read_arp_reply(data) if self._is_arp else read_advertisement(data)
        if found is None:
            return
        address, hardware = found
        if waiting := self._waiting.get(address):
            arping = waiting[0]
            self.forget(arping)
            arping.answered(hardware)


def open_arp() -> socket.socket:
    """A packet socket that receives ARP on all interfaces. Raises ProbeError."""
    return open_socket("arping", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ARP))


def _open_discovery() -> socket.socket:
    made = open_icmp("arping", IPFamily.IPV6, _ADVERTISEMENT)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
    return made


class Arping:
    """Arpings one pod."""

    def __init__(self, arpings: Arpings, check: Check, end: Callable[[float], None]) -> None:
        """Take what to call with the seconds that an answer took."""
        self.address = check.address
        version = socket.AF_INET if check.family is IPFamily.IPV4 else socket.AF_INET6
        self.target = socket.inet_pton(version, check.address)
        self.hardware = b""
        """The pod's; empty until it has answered, and after it did not."""
        self._arpings = arpings
        self._end = end
        self._sent = 0.0

    def begin(self) -> None:
        """Ask. Raises OSError, ProbeError."""
        self._sent = time.monotonic()
        self._arpings.ask(self)

    def answered(self, hardware: bytes) -> None:
        """The answer came."""
        self.hardware = hardware
        self._end(time.monotonic() - self._sent)

    def abandon(self) -> None:
        """Wait no longer."""
        self.hardware = b""
        self._arpings.forget(self)
