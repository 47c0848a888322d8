"""A TCP proxy in front of the API server that misbehaves when told to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from enum import Enum, auto
from typing import Self

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)


class Mode(Enum):
    """What happens to bytes."""

    PASS = auto()
    FREEZE = auto()
    """Connections are accepted and kept; nothing moves."""
    REFUSE = auto()
    """Nobody listens."""


class Proxy:
    """Forwards connections from a port of its own on loopback; a context manager."""

    def __init__(self, target_port: int) -> None:
        """Take the port on loopback to forward to."""
        self._target = ("127.0.0.1", target_port)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.RLock()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._mode = Mode.PASS
        self._budget: int | None = None
        self._listener: socket.socket | None = None
        self._stop = False
        self._wake = socket.socketpair()
        self.connections = 0
        """Accepted so far."""
        self.port = 0
        self._listen()
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
        """End, and close all connections."""
        self._stop = True
        self._poke()
        self._thread.join(5)
        self.reset()
        if self._listener:
            self._listener.close()

    def set(self, mode: Mode) -> None:
        """Change what happens from now on, to connections that are open as well."""
        with self._lock:
            self._mode = mode
            if mode is Mode.REFUSE and self._listener:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            elif mode is not Mode.REFUSE and not self._listener:
                self._listen()
        self._poke()

    def reset(self) -> None:
        """Break all open connections, so that both ends get a reset."""
        with self._lock:
            for one in list(self._peers):
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._drop(one)

    def truncate(self, after: int) -> None:
        """Let so many bytes more come from the server, over all connections, and then close the one that sends."""
        with self._lock:
            self._budget = after

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def _poke(self) -> None:
        self._wake[1].send(b"x")

    def _run(self) -> None:
        self._selector.register(self._wake[0], selectors.EVENT_READ)
        while not self._stop:
            for key, _ in self._selector.select(1):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one is self._wake[0]:
                    one.recv(_CHUNK)
                    continue
                with self._lock:
                    self._serve(one)

    def _serve(self, one: socket.socket) -> None:
        if one is self._listener:
            client, _ = one.accept()
            self.connections += 1
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                return
            self._servers.add(server)
            for this, that in ((client, server), (server, client)):
                self._peers[this] = that
                self._selector.register(this, selectors.EVENT_READ)
            return
        if self._mode is Mode.FREEZE:
            threading.Event().wait(0.01)  # readable all the time
            return
        if peer := self._peers.get(one):
            self._forward(one, peer)

    def _forward(self, one: socket.socket, peer: socket.socket) -> None:
        try:
            data = one.recv(_CHUNK)
            cut = False
            if one in self._servers and self._budget is not None:
                cut = len(data) >= self._budget
                data, self._budget = data[: self._budget], None if cut else self._budget - len(data)
            if data:
                peer.sendall(data)
        except OSError:
            data, cut = b"", False
        if not data or cut:
            self._drop(one)

    def _drop(self, one: socket.socket) -> None:
        peer = self._peers.get(one)
        for this in (one, peer):
            if this and self._peers.pop(this, None):
                self._servers.discard(this)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(this)
                this.close()
