"""A TCP proxy in front of the API server that misbehaves when told to."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Container

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
_CONNECT_SECONDS = 5


class Mode(Enum):
    """What happens to bytes."""

    PASS = auto()
    FREEZE = auto()
    """Connections are accepted and kept; nothing moves."""
    REFUSE = auto()
    """Nobody listens; open connections go on."""


@dataclass(eq=False)
class _Way:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    from_server: bool
    pending: bytes = b""
    """Read, and not yet taken by the sink."""
    cut: bool = False
    """To be closed once nothing is pending."""


class Proxy:
    """Forwards connections from a port of its own on loopback; a context manager.

    One thread moves the bytes and never waits for a single peer, so that a switch takes effect at once even where a
    peer does not read.
    """

    def __init__(self, target_port: int) -> None:
        """Take the port on loopback to forward to."""
        self._target = ("127.0.0.1", target_port)
        self._lock = threading.Lock()
        self._ways: list[_Way] = []
        self._mode = Mode.PASS
        self._budget: int | None = None
        self._stop = False
        self.connections = 0
        """Accepted so far."""
        self.port = 0
        self._listener: socket.socket | None = self._listen()
        self._waiting, self._waking = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def server(self) -> str:
        """Its URL."""
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Begin to forward."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and reset all connections."""
        self.set(Mode.REFUSE)
        self._stop = True
        self._wake()
        self._thread.join()
        self.reset()
        self._waiting.close()
        self._waking.close()

    def set(self, mode: Mode) -> None:
        """Change what happens from now on, to connections that are open as well."""
        with self._lock:
            self._mode = mode
            if mode is Mode.REFUSE and self._listener:
                # The thread may be waiting for it, and a close alone would take effect only after that.
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            elif mode is not Mode.REFUSE and not self._listener:
                self._listener = self._listen()
        self._wake()

    def reset(self) -> None:
        """Break all open connections, so that both ends get a reset."""
        with self._lock:
            for way in self._ways:
                _break(way.source)
            self._ways.clear()
        self._wake()

    def truncate(self, after: int) -> None:
        """Let so many bytes more come from the server, over all connections, and then close the one that sends."""
        with self._lock:
            self._budget = after

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        listener.settimeout(0)
        self.port = listener.getsockname()[1]
        return listener

    def _wake(self) -> None:
        """Let the thread look at what has changed."""
        self._waking.send(b"x")

    def _run(self) -> None:
        while not self._stop:
            with selectors.PollSelector() as selector:
                selector.register(self._waiting, selectors.EVENT_READ)
                with self._lock:
                    self._register(selector)
                ready = {key.fileobj for key, _ in selector.select()}
            if self._waiting in ready:
                self._waiting.recv(_CHUNK)
            with self._lock:
                if self._listener in ready:
                    self._accept(self._listener)
                for way in list(self._ways):
                    if way in self._ways and self._mode is not Mode.FREEZE:
                        self._move(way, ready)

    def _register(self, selector: selectors.PollSelector) -> None:
        if self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
        if self._mode is Mode.FREEZE:
            return
        wanted: dict[socket.socket, int] = {}
        for way in self._ways:
            one, event = (way.sink, selectors.EVENT_WRITE) if way.pending else (way.source, selectors.EVENT_READ)
            wanted[one] = wanted.get(one, 0) | event
        for one, events in wanted.items():
            selector.register(one, events)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # gone again
        self.connections += 1
        try:
            server = socket.create_connection(self._target, _CONNECT_SECONDS)
        except OSError:
            _break(client)
            return
        client.settimeout(0)
        server.settimeout(0)
        self._ways += [_Way(client, server, from_server=False), _Way(server, client, from_server=True)]

    def _move(self, way: _Way, ready: Container[object]) -> None:
        try:
            if way.pending and way.sink in ready:
                way.pending = way.pending[way.sink.send(way.pending) :]
            elif not way.pending and way.source in ready:
                self._take(way)
        except BlockingIOError:
            return
        except OSError:
            self._end(way, _break)
            return
        if way.cut and not way.pending:
            self._end(way, socket.socket.close)

    def _take(self, way: _Way) -> None:
        data = way.source.recv(_CHUNK)
        way.cut = not data
        if way.from_server and self._budget is not None:
            data, self._budget = data[: self._budget], self._budget - len(data)
            if self._budget <= 0:
                way.cut, self._budget = True, None
        way.pending = data

    def _end(self, way: _Way, close: Callable[[socket.socket], None]) -> None:
        """End both directions of a connection."""
        self._ways = [other for other in self._ways if other.source not in (way.source, way.sink)]
        close(way.source)
        close(way.sink)


def _break(one: socket.socket) -> None:
    """Close it so that its peer gets a reset."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    one.close()
