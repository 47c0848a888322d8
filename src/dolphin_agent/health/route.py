"""Which way packets to an address go: one question to the kernel by rtnetlink (rtnetlink(7)).

Not by pyroute2: importing it takes 8.7 MiB and a lookup 380 us of processor, ten times this one's, and each arping asks
anew, as a route may change at any time.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from dolphin_agent.errors import ProbeError

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_ERRNO = struct.Struct("=i")
_NLMSG_ERROR = 2
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_VIA = 1, 4, 5, 7, 18
_RTN_LOCAL = 2
_ANSWER = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """How the kernel would send to an address now."""

    interface: int
    source: bytes
    """The address it would send from; empty where it names none."""
    gateway: str
    """The router's address, of either family; empty where the address is on the link."""
    is_local: bool
    """The address is one of this network namespace."""


def find_route(address: str) -> Route:
    """Ask the kernel. Raises OSError where no route leads there (ENETUNREACH, EHOSTUNREACH, ...), ProbeError."""
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError as fault:
        raise ProbeError(f"rtnetlink: the kernel gives no socket: {fault.strerror}") from fault
    with netlink:
        netlink.send(_question(address))
        return read_route(netlink.recv(_ANSWER))


def _question(address: str) -> bytes:
    asked = ip_address(address)
    family = socket.AF_INET if asked.version == 4 else socket.AF_INET6  # noqa: PLR2004
    destination = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(asked.packed), _RTA_DST) + asked.packed
    body = _ROUTE.pack(family, len(asked.packed) * 8, 0, 0, 0, 0, 0, 0, 0) + destination
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body


def read_route(answer: bytes) -> Route:
    """Read the kernel's answer. Raises OSError with the kernel's reason."""
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        number = -_ERRNO.unpack_from(answer, _HEADER.size)[0]
        raise OSError(number, os.strerror(number))
    family, *_, route_type, _ = _ROUTE.unpack_from(answer, _HEADER.size)
    found: dict[int, bytes] = {}
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= length:
        size, name = _ATTRIBUTE.unpack_from(answer, at)
        found[name] = answer[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    gateway = found.get(_RTA_GATEWAY, b"")
    if _RTA_VIA in found:  # IPv4 by an IPv6 router: struct rtvia has the family before the address
        family, gateway = int.from_bytes(found[_RTA_VIA][:2], "little"), found[_RTA_VIA][2:]
    return Route(
        interface=int.from_bytes(found.get(_RTA_OIF, b""), "little"),
        source=found.get(_RTA_PREFSRC, b""),
        gateway=socket.inet_ntop(family, gateway) if gateway else "",
        is_local=route_type == _RTN_LOCAL,
    )
