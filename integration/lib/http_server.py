"""An HTTP server in a pod that answers as it is told to."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.topology import Pod

_POLL = 0.1
_REQUEST = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What every connection gets."""

    data: bytes = b""
    delay: float = 0.0
    """Seconds before it is sent."""
    hangs: bool = False
    """Whether the connection then stays open, for as long as the server runs."""


def page(status: int, *, body: bytes = b"ok\n", delay: float = 0.0) -> Answer:
    """A whole response."""
    return Answer(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body, delay)


HALF = Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
HALF_AND_SILENT = Answer(HALF.data, hangs=True)
NEVER = Answer(hangs=True)


@contextmanager
def serving(pod: Pod, port: int, answer: Answer) -> Iterator[list[bytes]]:
    """Serve both families for the length of a block; gives the requests so far."""
    with pod.netns.entered():
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    listener.settimeout(_POLL)
    requests: list[bytes] = []
    held: list[socket.socket] = []
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.settimeout(None)
        try:
            requests.append(connection.recv(_REQUEST))
            time.sleep(answer.delay)
            connection.sendall(answer.data)
        except OSError:  # the client gave up
            pass
        if not answer.hangs:
            connection.close()

    def run() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            held.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield requests
    finally:
        stop.set()
        thread.join()
        for one in (listener, *held):
            one.close()
