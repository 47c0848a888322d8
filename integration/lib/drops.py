"""Packets dropped on purpose, what the kernel says of them, and what the agent says."""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dolphin_agent.bpf.btf import enumerators
from integration.lib import counters
from integration.lib.netns import NODE
from integration.lib.packets import checksum, raw
from integration.lib.traffic import open_socket, refused
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.lib.agent import Agent, Samples
    from integration.lib.counters import Counters, Family
    from integration.lib.netns import Netns
    from integration.lib.topology import Pair, Pod

IP = "ip_drop_packets_total"
TCP = "tcp_drop_packets_total"

Drops = Counter[tuple[str, str]]
"""(direction, reason) -> packets."""

_SETTLED = 60
_FORBIDDEN = 7801
_LIBC = ctypes.CDLL(None, use_errno=True)


def has_reasons() -> bool:
    """Whether this kernel says why it drops packets (5.17)."""
    return bool(enumerators("skb_drop_reason"))


@dataclass(frozen=True)
class Found:
    """What happened meanwhile."""

    before: Samples
    after: Samples
    kernel: dict[str, Counters]
    """Of each namespace, by its name."""

    def drops(self, pod: Pod, family: Family, metric: str = IP, granularity: str = "pod", **labels: str) -> Drops:
        """What the agent says of a pod, named by its namespace."""
        name = f"dolphin_{metric}" if granularity == "pod" else f"dolphin_flow_{metric}"
        labels |= {"pod": f"default/{pod.netns.name}", "ipfamily": family}
        found: Drops = Counter()
        for samples, sign in ((self.after, 1), (self.before, -1)):
            for one in samples.series(name, **labels):
                found[one["direction"], one["reason"]] += sign * int(samples.value(name, **one))
        return +found


@dataclass(frozen=True)
class Watch:
    """An agent and the pods that it watches."""

    agent: Agent
    pair: Pair

    def measured(self, made: Callable[[], object]) -> Found:
        """Make something happen, and return what did."""
        before, kernel_before = self._settled()
        made()
        after, kernel_after = self._settled()
        return Found(before, after, {name: kernel_after[name] - kernel_before[name] for name in kernel_after})

    def _settled(self) -> tuple[Samples, dict[str, Counters]]:
        pods = (self.pair.a.netns, self.pair.b.netns)
        samples, kernel = self.agent.settled(lambda: {one.name: counters.read(one) for one in pods}, deadline=_SETTLED)
        # The node's own never rest: the agent is asked there.
        return samples, kernel | {NODE.name: counters.read(NODE)}


def only(found: Drops, direction: str, reasons: tuple[str, ...], functions: tuple[str, ...]) -> int:
    """How many there are, all of which have one of these reasons, or one of the functions on kernels without any."""
    allowed = {(direction, name) for name in (reasons if has_reasons() else functions)}
    assert set(found) <= allowed, found
    return found.total()


class Rule:
    """An nftables rule that drops, and counts what it drops."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns

    def packets(self) -> int:
        """How many it has dropped: merged packets count once."""
        listed = json.loads(self._netns.run(["nft", "--json", "list", "table", "inet", "drops"]))
        (rule,) = (one["rule"] for one in listed["nftables"] if "rule" in one)
        return next(int(part["counter"]["packets"]) for part in rule["expr"] if "counter" in part)


@contextmanager
def dropping(netns: Netns, hook: str, match: str) -> Iterator[Rule]:
    """Have nftables drop what matches at a hook (input, output, forward) for the length of a block."""
    chain = f"type filter hook {hook} priority 0; {match} counter drop;"
    netns.run(["nft", f"table inet drops {{ chain it {{ {chain} }}; }}"])
    try:
        yield Rule(netns)
    finally:
        netns.run(["nft", "delete", "table", "inet", "drops"])


@contextmanager
def queue(pod: Pod, *discipline: str) -> Iterator[Callable[[], int]]:
    """Give a pod's device another queue for the length of a block; what is yielded says how many packets it dropped."""
    pod.netns.run(["tc", "qdisc", "add", "dev", pod.device, "root", *discipline])

    def dropped() -> int:
        printed = pod.netns.run(["tc", "-s", "qdisc", "show", "dev", pod.device])
        found = re.search(r"dropped (\d+)", printed)
        assert found, printed
        return int(found[1])

    try:
        yield dropped
    finally:
        pod.netns.run(["tc", "qdisc", "del", "dev", pod.device, "root"])


def datagrams(
    client: Pod,
    to: str,
    family: Family,
    *,
    count: int,
    size: int = 300,
    port: int = 7800,
    hops: int = 0,
    source: str = "",
) -> int:
    """Send datagrams that nobody answers, and return how many the kernel took."""
    taken = 0
    with open_socket(client, family, socket.SOCK_DGRAM) as sender:
        if hops and family == "ipv4":
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        elif hops:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        if source:
            sender.bind((source, 0))
        for _ in range(count):
            try:
                taken += sender.sendto(bytes(size), (to, port)) == size
            except OSError:  # EPERM of a rule, or what an earlier one was answered with
                continue
    return taken


def both_ways(pair: Pair, family: Family, *, count: int) -> None:
    """Have datagrams and segments dropped where they arrive, as nobody listens, and where they are sent, by a rule."""
    datagrams(pair.a, pair.b.address(family), family, count=count)
    refused(pair.a, pair.b, family, count=count)
    with dropping(pair.a.netns, "output", f"meta l4proto {{ tcp, udp }} th dport {_FORBIDDEN}"):
        datagrams(pair.a, pair.b.address(family), family, count=count, port=_FORBIDDEN)
        segment = struct.pack("!HHIIBBHHH", _FORBIDDEN, _FORBIDDEN, 1, 1, 5 << 4, 16, 1024, 0, 0)
        for _ in range(count):
            with suppress(PermissionError):
                raw(pair.a, pair.b, family, protocol=socket.IPPROTO_TCP, packet=segment, count=1)


@contextmanager
def overflowed(pair: Pair, *, room: int, beyond: int, port: int = 8090) -> Iterator[None]:
    """Open more connections at once than can wait to be accepted, and keep them for the length of a block.

    The first ones fill the queue of the listener. On a path with delay the SYNs of the others find room in it, all
    together, and the last segment of one of their handshakes does.
    """
    with ExitStack() as stack:
        listening = open_socket(pair.b, "ipv4", socket.SOCK_STREAM)
        listening.bind((pair.b.ipv4, port))
        listening.listen(room)
        for batch in (room, beyond):
            opening = [stack.enter_context(open_socket(pair.a, "ipv4", socket.SOCK_STREAM)) for _ in range(batch)]
            for one in opening:
                one.settimeout(0)
                one.connect_ex((pair.b.ipv4, port))
            for one in opening:
                wait_until(partial(_is_open, one), deadline=_SETTLED, what="connections are open")
        # First, so that nothing else of theirs waits for room.
        stack.enter_context(listening)
        yield


def _is_open(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


# <linux/userfaultfd.h>: a page that nobody has filled in yet.
_USERFAULTFD = 323
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_ZEROPAGE = 0xC020AA04
_UFFD_API = 0xAA
_MISSING = 1


@contextmanager
def stalled_reader(connection: socket.socket) -> Iterator[None]:
    """Have a thread read from a connection, and stay where it holds the socket, for the length of a block.

    It reads into memory that is not there until the end of the block.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer = memoryview(page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fault = _LIBC.syscall(_USERFAULTFD, os.O_CLOEXEC)
    if fault < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    try:
        fcntl.ioctl(fault, _UFFDIO_API, bytearray(struct.pack("=QQQ", _UFFD_API, 0, 0)))
        where = struct.pack("=QQ", address, mmap.PAGESIZE)
        fcntl.ioctl(fault, _UFFDIO_REGISTER, bytearray(where + struct.pack("=QQ", _MISSING, 0)))
        reading = threading.Thread(target=connection.recv_into, args=(buffer[:1],))
        reading.start()
        os.read(fault, 32)  # it has come upon the page
        try:
            yield
        finally:
            fcntl.ioctl(fault, _UFFDIO_ZEROPAGE, bytearray(where + struct.pack("=QQ", 0, 0)))
            reading.join(_SETTLED)
    finally:
        os.close(fault)


def forged_segments(client: Pod, server: Pod, ports: tuple[int, int], *, count: int, size: int) -> None:
    """Send TCP segments, each with a gap before it, that look like those of a connection (source port, port)."""
    for number in range(count):
        header = struct.pack("!HHIIBBHHH", *ports, (number * 2 * size) & 0xFFFFFFFF, 1, 5 << 4, 16, 1024, 0, 0)
        pseudo = socket.inet_aton(client.ipv4) + socket.inet_aton(server.ipv4)
        pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(header) + size)
        total = checksum(pseudo + header + bytes(size))
        packet = header[:16] + struct.pack("!HH", total, 0) + bytes(size)
        raw(client, server, "ipv4", protocol=socket.IPPROTO_TCP, packet=packet, count=1)
