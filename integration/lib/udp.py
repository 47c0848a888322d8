"""UDP in all the ways that packets are counted differently: segmented, to many, behind extension headers."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

from integration.lib.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.lib.counters import Family
    from integration.lib.topology import Pod

# <linux/udp.h>; Python names neither.
UDP_SEGMENT = 103
_UDP_GRO = 104
_LONGEST = 65536
_LITTLE_ROOM = 4096
_ANY: dict[Family, str] = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - in a namespace of its own
GROUP: dict[Family, str] = {"ipv4": "239.1.2.3", "ipv6": "ff15::123"}
"""The multicast group."""
_LOSS_TIMEOUT = 1
"""Seconds until a datagram that has not arrived is lost."""

# Next header and length come first; both are the kernel's to fill and to check.
_HOP_BY_HOP = bytes((0, 0, 1, 4, 0, 0, 0, 0))
"""8 bytes of padding (PadN)."""
_DESTINATION = bytes((0, 1, 0x1E, 10, *range(10), 1, 0))
"""16 bytes: an option for experiments, to be skipped where unknown, and padding."""
EXTENSION_HEADERS = len(_HOP_BY_HOP) + len(_DESTINATION)
"""Bytes of them on each datagram."""


def segmented(
    client: Pod, server: Pod, family: Family, *, count: int, size: int, segment: int, merge: bool, port: int = 7100
) -> int:
    """Hand the kernel `size` bytes at once, to be sent as datagrams of `segment` bytes (UDP GSO).

    The receiver asks for merged datagrams (UDP GRO) or not. Returns how many bytes arrived.
    """
    with (
        open_socket(server, family, socket.SOCK_DGRAM) as receiver,
        open_socket(client, family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, merge)
        receiver.bind((server.address(family), port))
        receiver.settimeout(_LOSS_TIMEOUT)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        return sum(_sent_and_received(sender, receiver, (server.address(family), port), size) for _ in range(count))


def _sent_and_received(sender: socket.socket, receiver: socket.socket, to: tuple[str, int], size: int) -> int:
    sender.sendto(bytes(size), to)
    received = 0
    try:
        while received < size:
            received += len(receiver.recv(_LONGEST))
    except TimeoutError:
        pass
    return received


def refused(client: Pod, server: Pod, family: Family, *, count: int, size: int, port: int = 7600) -> None:
    """Send datagrams to a port where nobody listens."""
    with open_socket(client, family, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(size), (server.address(family), port))


def overflowing(client: Pod, server: Pod, family: Family, *, count: int, size: int, port: int = 7700) -> int:
    """Send more datagrams than wait for their receiver; returns how many it read then."""
    with _receiver(server, family, port) as receiver, open_socket(client, family, socket.SOCK_DGRAM) as sender:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LITTLE_ROOM)
        for _ in range(count):
            sender.sendto(bytes(size), (server.address(family), port))
        read = 0
        try:
            while receiver.recv(size):
                read += 1
        except TimeoutError:
            pass
        return read


def multicast(
    sender: Pod, members: Sequence[Pod], family: Family, *, count: int, size: int, port: int = 7200
) -> list[int]:
    """Send datagrams to a group, and return how many arrived at each member; the sender may be one.

    Joining and leaving send reports of their own, some of them up to a second later.
    """
    group = GROUP[family]
    with ExitStack() as stack:
        receivers = [stack.enter_context(_receiver(member, family, port)) for member in members]
        for member, receiver in zip(members, receivers, strict=True):
            _join(receiver, member, family, group)
        sending = stack.enter_context(open_socket(sender, family, socket.SOCK_DGRAM))
        if family == "ipv4":
            interface = socket.inet_aton(sender.ipv4)
            sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        else:
            sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, _index(sender))
        return _to_all(sending, receivers, (group, port), count=count, size=size)


def broadcast(
    sender: Pod, members: Sequence[Pod], address: str, *, count: int, size: int, port: int = 7300
) -> list[int]:
    """Send datagrams to an IPv4 broadcast address, and return how many arrived at each member."""
    with ExitStack() as stack:
        receivers = [stack.enter_context(_receiver(member, "ipv4", port)) for member in members]
        sending = stack.enter_context(open_socket(sender, "ipv4", socket.SOCK_DGRAM))
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        # 255.255.255.255 says nothing about the way.
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sender.device.encode())
        return _to_all(sending, receivers, (address, port), count=count, size=size)


def _to_all(
    sender: socket.socket, receivers: Sequence[socket.socket], to: tuple[str, int], *, count: int, size: int
) -> list[int]:
    arrived = [0] * len(receivers)
    for _ in range(count):
        sender.sendto(bytes(size), to)
        for position, receiver in enumerate(receivers):
            try:
                arrived[position] += len(receiver.recv(_LONGEST)) == size
            except TimeoutError:
                continue
    return arrived


def _receiver(pod: Pod, family: Family, port: int) -> socket.socket:
    receiver = open_socket(pod, family, socket.SOCK_DGRAM)
    receiver.bind((_ANY[family], port))
    receiver.settimeout(_LOSS_TIMEOUT)
    return receiver


def _join(receiver: socket.socket, pod: Pod, family: Family, group: str) -> None:
    if family == "ipv4":
        member = socket.inet_aton(group) + socket.inet_aton(pod.ipv4)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    else:
        member = struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, group), _index(pod))
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)


def _index(pod: Pod) -> int:
    with pod.netns.entered():
        return socket.if_nametoindex(pod.device)


def behind_extension_headers(
    client: Pod, server: Pod, *, count: int, size: int, port: int = 7400, source_port: int = 0
) -> int:
    """Send IPv6 datagrams behind a hop-by-hop and a destination options header; returns how many arrived."""
    headers = [
        (socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, _HOP_BY_HOP),
        (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, _DESTINATION),
    ]
    with (
        _receiver(server, "ipv6", port) as receiver,
        open_socket(client, "ipv6", socket.SOCK_DGRAM) as sender,
    ):
        sender.bind((client.ipv6, source_port))
        arrived = 0
        for _ in range(count):
            sender.sendmsg([bytes(size)], headers, 0, (server.ipv6, port))
            try:
                arrived += len(receiver.recv(_LONGEST)) == size
            except TimeoutError:
                continue
        return arrived
