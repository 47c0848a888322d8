"""curl: an HTTP request on a connection of its own; 2xx and 3xx are good, redirects are not followed."""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import time
from http.client import HTTPException, HTTPResponse, IncompleteRead
from importlib.metadata import version
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.health.sockets import open_socket
from dolphin_agent.policy.vocabulary import IPFamily

if TYPE_CHECKING:
    from collections.abc import Callable

    from dolphin_agent.health.plan import Check

ENOUGH = 1 << 16
"""Bytes after which a response is taken for whole: a pod may send without end."""
_HEAD_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_UNUSUAL = re.compile(rb"\r\n(?:transfer-encoding:|[ \t])", re.IGNORECASE)
_WITHOUT_BODY = (204, 304)
_AGENT = f"dolphin-agent/{version('dolphin-agent')}"
_GOOD = range(200, 400)


class _Head(NamedTuple):
    """What a response's head says, by the names of http.client."""

    status: int
    length: int
    chunked: bool = False


def plain_head(data: bytes | bytearray) -> _Head | None:
    """A head that says its body's length and nothing else of it, as most do; None: http.client is to judge.

    It would take ten times as long for this, a tenth of a whole probe (`python -m integration.bench.health`).
    """
    status, lengths = _STATUS.match(data), _LENGTH.findall(data)
    if not status or len(lengths) != 1 or _UNUSUAL.search(data) or int(status[1]) in _WITHOUT_BODY:
        return None
    return _Head(int(status[1]), int(lengths[0]))


class _Received:
    """What http.client takes for a socket: it asks no more of one."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def makefile(self, _: str) -> BytesIO:
        """The bytes that were received."""
        return BytesIO(self._data)


class Response:
    """A response as it comes in."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._head: _Head | HTTPResponse | None = None
        self._body_at = 0

    def add(self, data: bytes) -> bool:
        """Take what was received, nothing at the end of the connection; returns whether it is whole now.

        Raises HTTPException where it never will be, and ValueError.
        """
        self._data += data
        is_whole = self._is_whole(ended=not data)
        if not is_whole and not data:
            raise IncompleteRead(bytes(self._data))
        return is_whole or len(self._data) >= ENOUGH

    @property
    def is_good(self) -> bool:
        """Whether its status is one of success; call it once it is whole."""
        return self._head is not None and self._head.status in _GOOD

    def _is_whole(self, *, ended: bool) -> bool:
        head = self._head
        if head is None:
            end = self._data.find(_HEAD_END)
            if end < 0:
                return False
            self._body_at = end + len(_HEAD_END)
            received = self._data[: self._body_at]
            head = self._head = plain_head(received) or self._parse(received)
        if head.chunked:
            return self._data.endswith(_HEAD_END) and self._is_dechunked()
        if head.length is None:  # the end of the connection is the end of the body
            return ended
        return len(self._data) - self._body_at >= head.length

    def _is_dechunked(self) -> bool:
        try:
            self._parse(self._data).read()
        except IncompleteRead:
            return False
        return True

    @staticmethod
    def _parse(data: bytearray) -> HTTPResponse:
        response = HTTPResponse(_Received(data))  # type: ignore[arg-type]
        response.begin()
        return response


def request(check: Check) -> bytes:
    """What is sent."""
    host = f"[{check.address}]" if check.family is IPFamily.IPV6 else check.address
    lines = (
        f"GET {check.path} HTTP/1.1",
        f"Host: {host}:{check.port}",
        f"User-Agent: {_AGENT}",
        "Accept: */*",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()


class Curl:
    """Asks one pod's HTTP server."""

    def __init__(self, selector: selectors.BaseSelector, check: Check, end: Callable[[float | None], None]) -> None:
        """Take what to call with the seconds that a good response took, or with None."""
        self._selector = selector
        self._family = socket.AF_INET if check.family is IPFamily.IPV4 else socket.AF_INET6
        self._to = (check.address, check.port)
        self._request = request(check)
        self._end = end
        self._socket: socket.socket | None = None
        self._response = Response()
        self._began = 0.0

    def begin(self) -> None:
        """Connect. Raises OSError, ProbeError."""
        made = open_socket("curl", self._family, socket.SOCK_STREAM, 0)
        self._began, self._response = time.monotonic(), Response()
        refused = made.connect_ex(self._to)
        if refused not in (0, errno.EINPROGRESS):
            made.close()
            raise OSError(refused, os.strerror(refused))
        try:
            made.send(self._request)  # a pod of this node has mostly answered by now
        except BlockingIOError:
            self._selector.register(made, selectors.EVENT_WRITE, self._connected)
        except OSError:
            made.close()
            raise
        else:
            self._selector.register(made, selectors.EVENT_READ, self._readable)
        self._socket = made

    def abandon(self) -> None:
        """Close the connection."""
        if self._socket:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _connected(self, _: int) -> None:
        made = self._socket
        assert made  # noqa: S101 - it is registered
        try:
            made.send(self._request)
        except OSError:  # refused, reset, unreachable
            self._finish(is_good=False)
            return
        self._selector.modify(made, selectors.EVENT_READ, self._readable)

    def _readable(self, _: int) -> None:
        made = self._socket
        assert made  # noqa: S101
        try:
            is_whole = self._response.add(made.recv(ENOUGH))
        except BlockingIOError:
            return
        except (OSError, HTTPException, ValueError):  # reset; half a response; none at all
            self._finish(is_good=False)
            return
        if is_whole:
            self._finish(is_good=self._response.is_good)

    def _finish(self, *, is_good: bool) -> None:
        seconds = time.monotonic() - self._began
        self.abandon()
        self._end(seconds if is_good else None)
