"""Packets made by hand, and packets looked at on their way."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from integration.lib.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from integration.lib.counters import Family
    from integration.lib.topology import Pod

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_ROOM = 8 * 2**20
_POLL = 0.1


def checksum(data: bytes) -> int:
    """Return the Internet checksum of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def sctp(client: Pod, server: Pod, family: Family, *, count: int, port: int, source_port: int) -> None:
    """Send SCTP packets that belong to no association and carry no chunk."""
    common = struct.pack("!HHII", source_port, port, 0, 0)
    raw(client, server, family, protocol=socket.IPPROTO_SCTP, packet=common, count=count)


def udp(client: Pod, server: Pod, family: Family, *, ports: Iterable[tuple[int, int]], size: int = 0) -> None:
    """Send a datagram of `size` bytes for each (source port, port).

    Nobody listens: the answers are few, since they are rate-limited.
    """
    payload = bytes(size)
    with ExitStack() as stack:
        senders: dict[int, socket.socket] = {}
        for source_port, port in ports:
            if source_port not in senders:
                sender = senders[source_port] = stack.enter_context(open_socket(client, family, socket.SOCK_DGRAM))
                sender.bind((client.address(family), source_port))
            senders[source_port].sendto(payload, (server.address(family), port))


def raw(client: Pod, server: Pod, family: Family, *, protocol: int, packet: bytes, count: int) -> None:
    """Send the same transport header and payload time and again, without any protocol's help."""
    with open_socket(client, family, socket.SOCK_RAW, protocol) as sender:
        for _ in range(count):
            sender.sendto(packet, (server.address(family), 0))


def tcp(
    client: Pod,
    server: Pod,
    family: Family,
    *,
    ports: tuple[int, int],
    flags: int,
    sequence: int,
    acknowledgement: int = 0,
) -> None:
    """Send one TCP segment of no payload, from and to a port."""
    kind = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    addresses = b"".join(socket.inet_pton(kind, pod.address(family)) for pod in (client, server))
    header = struct.pack("!HHIIBBHHH", *ports, sequence, acknowledgement, 5 << 4, flags, 65535, 0, 0)
    summed = checksum(addresses + struct.pack("!II", len(header), socket.IPPROTO_TCP) + header)
    packet = header[:16] + struct.pack("!H", summed) + header[18:]
    raw(client, server, family, protocol=socket.IPPROTO_TCP, packet=packet, count=1)


class Watcher:
    """What a device saw while it was watched."""

    longest: int = 0
    """Bytes of the longest packet, merged ones as they were handed over, with the Ethernet header."""


@contextmanager
def watched(pod: Pod) -> Iterator[Watcher]:
    """Look at the pod's device for the length of a block; under load some packets pass unseen."""
    watcher = Watcher()
    over = threading.Event()
    with pod.netns.entered():
        looking = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with looking:
        looking.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        looking.bind((pod.device, _ETH_P_ALL))
        looking.settimeout(_POLL)
        thread = threading.Thread(target=_look, args=(looking, watcher, over))
        thread.start()
        try:
            yield watcher
        finally:
            over.set()
            thread.join()


def _look(looking: socket.socket, watcher: Watcher, over: threading.Event) -> None:
    nothing = bytearray(1)
    while not over.is_set():
        try:
            length = looking.recv_into(nothing, 1, socket.MSG_TRUNC)
        except TimeoutError:
            continue
        watcher.longest = max(watcher.longest, length)
