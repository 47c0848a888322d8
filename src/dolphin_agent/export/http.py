"""The HTTP endpoint: a few fixed paths, each answered by a function."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

import structlog

from dolphin_agent.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CLIENT_TIMEOUT = 10.0
"""Seconds a client may take for its request or for one write of the answer."""

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

    Raises ListenError naming the address and the remedy when it cannot listen.
    """

    def __init__(self, address: tuple[str, int], routes: Mapping[str, Callable[[Request], Response]]) -> None:
        host, port = address
        try:
            self._server = _server(address, routes)
        except OSError as fault:
            raise ListenError(
                f"cannot listen on {host}:{port}: {fault.strerror or fault}; "
                "free the address or choose another one with --listen HOST:PORT"
            ) from fault
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _server(address: tuple[str, int], routes: Mapping[str, Callable[[Request], Response]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_TIMEOUT
        server_version = "dolphin-agent"
        sys_version = ""

        def do_GET(self) -> None:
            answer = routes.get(self.path.partition("?")[0])
            request = Request(self.headers.get("Accept"), self.headers.get("Accept-Encoding"))
            try:
                response = answer(request) if answer else Response(_index(routes), status=404)
            except Exception:
                log.exception("request failed", path=self.path)
                response = Response(b"internal error, see the agent's log\n", status=500)
            try:
                self.send_response(response.status)
                self.send_header("Content-Type", response.content_type)
                if response.content_encoding:
                    self.send_header("Content-Encoding", response.content_encoding)
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                self.wfile.write(response.body)
            except OSError as fault:
                log.debug("client went away", path=self.path, reason=str(fault))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            log.debug("http", request=format % args)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True
        block_on_close = False

    return Server(address, Handler)


def _index(routes: Mapping[str, Callable[[Request], Response]]) -> bytes:
    return f"not found; there are {' '.join(routes)}\n".encode()
