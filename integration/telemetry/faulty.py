"""An OTLP/HTTP endpoint that fails when told to, as no real collector can be made to.

It stands for the network's other end. What is under test is the client.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from integration.lib.wait import wait_until
from integration.telemetry import otlp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.telemetry.otlp import Metric

_CONTENT_TYPE = "application/x-protobuf"
_POLL_SECONDS = 0.05
_DETECT = 32 + zlib.MAX_WBITS
"""Lets zlib tell gzip and deflate apart by themselves."""


class Fault(Enum):
    """What keeps a client from an answer."""

    ABSENT = auto()
    """Nobody listens, and connections that were open are closed."""
    BLACK_HOLE = auto()
    """Requests are taken, and never answered, not even once it is switched."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    """Seconds until then."""


OK = Answer()


def failure(status: int, message: str = "as told", *, retry_after: int | None = None) -> Answer:
    """Refuse with a status and its reason; `retry_after`: seconds to wait before the next try, as the server says."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(status, Status(message=message).SerializeToString(), headers)


def slow(seconds: float) -> Answer:
    """Take the request, but say so late."""
    return Answer(delay=seconds)


def partial(rejected: int, message: str) -> Answer:
    """Take the request, and say that some points of it were not."""
    said = ExportMetricsServiceResponse()
    said.partial_success.rejected_data_points = rejected
    said.partial_success.error_message = message
    return Answer(body=said.SerializeToString())


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived whole, whatever it was answered."""

    at: float
    """Of time.monotonic()."""
    path: str
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes
    """As it was sent: its length is the size on the wire."""

    @property
    def content_encoding(self) -> str:
        """How it was compressed, or nothing."""
        return self.headers.get("content-encoding", "")

    @property
    def message(self) -> ExportMetricsServiceRequest:
        """The request; raises zlib.error or DecodeError where the body is none."""
        plain = zlib.decompress(self.body, _DETECT) if self.content_encoding else self.body
        made = ExportMetricsServiceRequest()
        made.ParseFromString(plain)
        return made

    @property
    def metrics(self) -> list[Metric]:
        """What it says."""
        return otlp.metrics(self.message)


class Faulty:
    """Listens on a port of its own on loopback; a context manager."""

    def __init__(self) -> None:
        """Answer OK until told otherwise."""
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._modes: list[Answer | Fault] = [OK]
        self._server: _Server | None = None
        self.connections = 0
        """Accepted so far."""
        self.port = 0

    def __enter__(self) -> Self:
        """Begin to listen."""
        self.set(OK)
        return self

    def __exit__(self, *_: object) -> None:
        """End, and close all connections."""
        self.set(Fault.ABSENT)

    @property
    def url(self) -> str:
        """The endpoint, without the path of a signal."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def received(self) -> list[Received]:
        """All requests so far."""
        with self._lock:
            return list(self._received)

    def set(self, mode: Answer | Fault, *then: Answer | Fault) -> None:
        """Change what the next request gets, and the ones after it; the last goes on for ever.

        ABSENT is only for all at once.
        """
        modes = [mode, *then]
        absent = Fault.ABSENT in modes
        assert not (absent and then), "nobody can count requests that are not accepted"
        with self._lock:
            self._modes = modes
        if absent and self._server:
            self._server.end()
            self._server = None
        elif not absent and not self._server:
            self._server = _Server(self)
            self.port = self._server.server_address[1]

    def wait_received(self, count: int, deadline: float = 10) -> list[Received]:
        """Wait for so many requests in all, and return them; raises TimeoutError."""
        wait_until(lambda: len(self.received) >= count, deadline=deadline, what=f"{count} requests have arrived")
        return self.received

    def take(self, received: Received) -> Answer | Fault:
        """Keep a request and return what it gets."""
        with self._lock:
            self._received.append(received)
            return self._modes.pop(0) if len(self._modes) > 1 else self._modes[0]


class _Server(ThreadingHTTPServer):
    """Serves from construction on."""

    daemon_threads = False  # so that the end waits for them

    def __init__(self, faulty: Faulty) -> None:
        super().__init__(("127.0.0.1", faulty.port), _Handler)
        self.faulty = faulty
        self.over = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,), name="faulty")
        self._thread.start()

    def end(self) -> None:
        """Listen no more, and close all connections."""
        self.shutdown()
        self._thread.join()
        self.over.set()
        with self._open_lock:
            for one in self._open:
                with suppress(OSError):  # the client may have reset it
                    one.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's signature
        self.faulty.connections += 1
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - the base class's signature
        with self._open_lock:
            self._open.discard(request)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's signature
        if not isinstance(sys.exc_info()[1], OSError):  # a client may go away
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.faulty.take(Received(time.monotonic(), self.path, headers, body))
        if isinstance(answer, Fault):
            self.rfile.read(1)  # until one end closes the connection
            self.close_connection = True
        elif not self.server.over.wait(answer.delay):
            self._say(answer)

    def _say(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Type": _CONTENT_TYPE, "Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        """Print nothing."""
