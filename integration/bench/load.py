"""Traffic in lockstep: one process drives both ends, so that nothing waits and nothing else runs meanwhile."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.counters import Family
    from integration.lib.topology import Pair, Pod

FLOWS = 50
DATAGRAM = 200
MESSAGE = 100
"""Bytes of a request, and of a response."""
PIECE = 65536
"""Bytes handed to the kernel at a time in bulk."""

_FIRST_PORT = 40000
_PORT = 7000
_CLOSED = 9
_FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


class Datagrams:
    """UDP from pod A to pod B."""

    def __init__(self, senders: list[socket.socket], receiver: socket.socket) -> None:
        self._senders = senders
        self._receiver = receiver
        self._payload = bytes(DATAGRAM)
        self._buffer = bytearray(DATAGRAM)

    def send(self, count: int) -> None:
        """Send datagrams over the flows in turn, each once the one before has arrived."""
        for number in range(count):
            self._senders[number % FLOWS].send(self._payload)
            self._receiver.recv_into(self._buffer)

    def lose(self, count: int) -> None:
        """Send datagrams over the flows in turn, where none arrives."""
        for number in range(count):
            self._senders[number % FLOWS].send(self._payload)


@contextmanager
def datagrams(pair: Pair, family: Family) -> Iterator[Datagrams]:
    """Sockets for 50 flows; their ports are the same each time."""
    with ExitStack() as stack:
        receiver = stack.enter_context(_socket(pair.b, family, socket.SOCK_DGRAM))
        receiver.bind((pair.b.address(family), _PORT))
        senders = [stack.enter_context(_socket(pair.a, family, socket.SOCK_DGRAM)) for _ in range(FLOWS)]
        for number, sender in enumerate(senders):
            sender.bind((pair.a.address(family), _FIRST_PORT + number))
            sender.connect((pair.b.address(family), _PORT))
        yield Datagrams(senders, receiver)


class Connection:
    """One TCP connection, opened by pod A to pod B."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._message = bytes(MESSAGE)
        self._piece = memoryview(bytes(PIECE))
        self._buffer = bytearray(PIECE)

    def exchange(self, count: int) -> None:
        """Send requests from A, each answered by B before the next."""
        for _ in range(count):
            for sender, receiver in ((self._client, self._server), (self._server, self._client)):
                sender.send(self._message)
                receiver.recv_into(self._buffer, MESSAGE, socket.MSG_WAITALL)

    def bulk(self, size: int) -> None:
        """Move `size` bytes from A to B: write what the kernel takes of a piece, and read that at the other end."""
        sent = received = 0
        while received < size:
            if sent < size:
                sent += self._client.send(self._piece[: min(PIECE, size - sent)], socket.MSG_DONTWAIT)
            while received < sent:
                received += self._server.recv_into(self._buffer)


@contextmanager
def connection(pair: Pair, family: Family = "ipv4") -> Iterator[Connection]:
    """Open a connection."""
    with (
        _socket(pair.b, family, socket.SOCK_STREAM) as listening,
        _socket(pair.a, family, socket.SOCK_STREAM) as client,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((pair.b.address(family), _PORT))
        listening.listen()
        client.connect((pair.b.address(family), _PORT))
        server, _ = listening.accept()
        with server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield Connection(client, server)


def refused(pair: Pair, count: int) -> None:
    """Try to connect from A to B, where nobody listens."""
    for _ in range(count):
        with _socket(pair.a, "ipv4", socket.SOCK_STREAM) as client:
            assert client.connect_ex((pair.b.ipv4, _CLOSED)) == errno.ECONNREFUSED


@contextmanager
def listening(pair: Pair) -> Iterator[socket.socket]:
    """A socket of B's for `accepted`."""
    with _socket(pair.b, "ipv4", socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((pair.b.ipv4, _PORT))
        listener.listen()
        yield listener


def accepted(pair: Pair, listener: socket.socket, count: int) -> None:
    """Connect from A to B, and close again, B first."""
    for _ in range(count):
        with _socket(pair.a, "ipv4", socket.SOCK_STREAM) as client:
            client.connect((pair.b.ipv4, _PORT))
            listener.accept()[0].close()


def _socket(pod: Pod, family: Family, kind: socket.SocketKind) -> socket.socket:
    # Without a timeout of its own: Python would ask poll(2) before each call. The guest has a deadline.
    with pod.netns.entered():
        return socket.socket(_FAMILIES[family], kind)
