"""The HTTP endpoint: a few fixed paths, each answered by a function."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import structlog

from dolphin_agent.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CLIENT_TIMEOUT = 10.0
"""Seconds a client may be silent in its request, and may take for the whole answer."""

CONNECTIONS = 64
"""At once: each has a thread. One more costs the oldest that has not asked for anything yet, else the oldest of all."""

UNSENT_BYTES = 16 << 20
"""Of different answers that are being sent at once. Who asks for one more waits for room, and it is made then; one that
is larger by itself is sent alone."""

PATIENCE = 1.0
"""Seconds that others wait for who has read nothing meanwhile, or little; then it is ended."""

SLOW = 1 << 20
"""Bytes per second, less than which is little."""

_PART = 1 << 18
"""Bytes sent at once, so that it is known how fast a client reads."""

_RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER (socket(7)): what is not sent when a connection is closed never will be."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Request:
    """What a client says it takes."""

    accept: str | None = None
    accept_encoding: str | None = None


@dataclass(frozen=True)
class Response:
    """What a path answers."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    content_encoding: str = ""


class Endpoint:
    """Listens from construction on, serves inside `with`.

    Raises ListenError naming the address and the remedy when it cannot listen; a `patient` one keeps that as its
    `problem`, until `retry` succeeds.
    """

    def __init__(
        self,
        address: tuple[str, int],
        routes: Mapping[str, Callable[[Request], Response]],
        *,
        patient: bool = False,
    ) -> None:
        self._address, self._routes = address, routes
        self._server: ThreadingHTTPServer | None = None
        self.problem = ""
        """Why nobody is answered, or empty."""
        try:
            self._listen()
        except ListenError as fault:
            if not patient:
                raise
            self.problem = str(fault)

    @property
    def port(self) -> int:
        """The one it listens on, or would."""
        return int(self._server.server_address[1]) if self._server else self._address[1]

    def retry(self) -> None:
        """Tries again to listen, and serves where that succeeds."""
        try:
            self._listen()
        except ListenError as fault:
            self.problem = str(fault)
        else:
            self.problem = ""
            self._serve()

    def _listen(self) -> None:
        host, port = self._address
        try:
            self._server = _server(self._address, self._routes)
        except OSError as fault:
            raise ListenError(
                f"cannot listen on {host}:{port}: {fault.strerror or fault}; "
                "free the address or choose another one with --listen HOST:PORT"
            ) from fault

    def _serve(self) -> None:
        if self._server:
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True).start()

    def __enter__(self) -> Self:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def _server(address: tuple[str, int], routes: Mapping[str, Callable[[Request], Response]]) -> ThreadingHTTPServer:
    connections = _Connections()
    sizes = dict.fromkeys(routes, 0)
    """Path -> bytes of its last answer."""

    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_TIMEOUT
        server_version = "dolphin-agent"
        sys_version = ""

        def do_GET(self) -> None:
            connections.asked(self.request)
            path = self.path.partition("?")[0]
            connections.wait_for_room(sizes.get(path, 0))
            response = _answer(routes, path, Request(self.headers.get("Accept"), self.headers.get("Accept-Encoding")))
            if path in sizes:
                sizes[path] = len(response.body)
            try:
                sending = connections.sending(self.request, response)
                self.send_response(response.status)
                self.send_header("Content-Type", response.content_type)
                if response.content_encoding:
                    self.send_header("Content-Encoding", response.content_encoding)
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                sending.send(self.request)
            except OSError as fault:
                # Or the kernel would go on with what it has of the answer, at whatever pace.
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                log.debug("client went away", path=self.path, reason=str(fault))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            log.debug("http", request=format % args)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True
        block_on_close = False
        request_queue_size = 2 * CONNECTIONS

        def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the base class
            connections.add(request)
            super().process_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as in the base class
            connections.discard(request)
            super().shutdown_request(request)

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as in the base class
            log.debug("request ended early", reason=str(sys.exception()))

    return Server(address, Handler)


@dataclass
class _Sending:
    """An answer on its way to one client."""

    response: Response
    sent: int = 0
    """Bytes that the kernel has taken for it; written by its thread alone."""

    def send(self, to: socket.socket) -> None:
        """Send it. Raises OSError when the client is gone, or has not read it in time."""
        body = memoryview(self.response.body)
        deadline = time.monotonic() + CLIENT_TIMEOUT
        while self.sent < len(body):
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError("it reads too slowly")
            to.settimeout(left)
            self.sent += to.send(body[self.sent : self.sent + _PART])


class _Connections:
    """Those that are open, each kind oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        """Notified whenever an answer has been sent, or will not be."""
        self._silent: dict[socket.socket, None] = {}
        self._answered: dict[socket.socket, _Sending | None] = {}
        """With what is being sent, if it has begun already."""

    def add(self, one: socket.socket) -> None:
        """Counts one that was accepted, and ends another if it is one too many."""
        with self._lock:
            if len(self._silent) + len(self._answered) >= CONNECTIONS:
                self._end(next(iter(self._silent or self._answered)))
            self._silent[one] = None

    def asked(self, one: socket.socket) -> None:
        """Its request has arrived."""
        with self._lock:
            if one in self._silent:
                self._forget(one)
                self._answered[one] = None

    def wait_for_room(self, size: int) -> None:
        """Returns when so many bytes can be sent beside the others; few always can."""
        if size < _PART:
            return
        with self._lock:
            while not self._has_room(size):
                before = {one: made.sent for one, made in self._answered.items() if made}
                if not self._lock.wait_for(lambda: self._has_room(size), PATIENCE):
                    self._end_slow(before)

    def sending(self, one: socket.socket, response: Response) -> _Sending:
        """Its answer is made; returns where to say how much of it was sent."""
        sending = _Sending(response)
        with self._lock:
            if one in self._answered:
                self._answered[one] = sending
        return sending

    def _has_room(self, size: int) -> bool:
        bodies = {id(made.response): len(made.response.body) for made in self._answered.values() if made}
        return not bodies or sum(bodies.values()) + size <= UNSENT_BYTES

    def _end_slow(self, before: Mapping[socket.socket, int]) -> None:
        for one, sent in before.items():
            made = self._answered.get(one)
            if made and made.sent - sent < SLOW * PATIENCE:
                self._end(one)

    def discard(self, one: socket.socket) -> None:
        """It is about to be closed."""
        with self._lock:
            self._forget(one)

    def _end(self, one: socket.socket) -> None:
        """Its thread sees the end of the connection, and closes it."""
        self._forget(one)
        with suppress(OSError):  # the client may have been quicker
            one.shutdown(socket.SHUT_RDWR)

    def _forget(self, one: socket.socket) -> None:
        self._silent.pop(one, None)
        if self._answered.pop(one, None):
            self._lock.notify_all()


def _answer(routes: Mapping[str, Callable[[Request], Response]], path: str, request: Request) -> Response:
    answer = routes.get(path)
    if not answer:
        return Response(_index(routes), status=404)
    try:
        return answer(request)
    except Exception:
        log.exception("request failed", path=path)
        return Response(b"internal error, see the agent's log\n", status=500)


def _index(routes: Mapping[str, Callable[[Request], Response]]) -> bytes:
    return f"not found; there are {' '.join(routes)}\n".encode()
