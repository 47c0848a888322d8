"""Many small exchanges at once, by processes in the pods: nothing of the test's own process slows them down.

Run as a program, this file is one end of them.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from integration.lib.topology import Pod

THREADS = 32
PER_CONNECTION = 20
"""Exchanges until a connection is closed and another one opened."""
_SIZE = 100
_PORT = 8080
_TIMEOUT = 60
_BACKLOG = 128
_FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


@dataclass
class Load:
    """What a load did."""

    exchanges: int = 0
    """Known when it is over."""


@contextmanager
def exchanging(client: Pod, server: Pod, *, threads: int = THREADS) -> Iterator[Load]:
    """Have threads exchange 100 bytes over TCP, half of them over IPv6, for the length of a block.

    Afterwards every connection is closed at both ends. Raises AssertionError with what an end printed where it fails.
    """
    load = Load()
    command = [sys.executable, "-I", "-S", __file__]
    with server.netns.popen([*command, "serve", server.ipv4, server.ipv6]) as serving:
        _wait_begun(serving)
        with client.netns.popen([*command, "exchange", server.ipv4, server.ipv6, str(threads)]) as exchanging_:
            _wait_begun(exchanging_)
            yield load
            load.exchanges = int(_end(exchanging_))
        _end(serving)


def _wait_begun(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if (line := process.stdout.readline()) != "begun\n":
        raise AssertionError(f"no load: {line}{process.stdout.read()}")


def _end(process: subprocess.Popen[str]) -> str:
    process.terminate()
    printed, _ = process.communicate(timeout=_TIMEOUT)
    if process.returncode != 0:
        raise AssertionError(f"the load failed with status {process.returncode}: {printed}")
    return printed


def _serve(over: threading.Event, addresses: Sequence[str]) -> None:
    """Echo whatever arrives until it is over."""
    selector = selectors.DefaultSelector()
    for family, address in zip(_FAMILIES.values(), addresses, strict=True):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, _PORT))
        listening.listen(_BACKLOG)
        selector.register(listening, selectors.EVENT_READ, data=True)
    print("begun", flush=True)
    while not over.is_set():
        for key, _ in selector.select(0.1):
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if key.data:
                connection, _ = ready.accept()
                selector.register(connection, selectors.EVENT_READ)
            elif received := ready.recv(_SIZE):
                ready.sendall(received)
            else:
                selector.unregister(ready)
                ready.close()


def _exchange(over: threading.Event, addresses: Sequence[str], threads: int) -> None:
    """Exchange on one connection a thread, time and again, until it is over."""
    counts = [0] * threads

    def one(number: int) -> None:
        family, address = list(zip(_FAMILIES.values(), addresses, strict=True))[number % 2]
        while not over.is_set():
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(_TIMEOUT)
                connection.connect((address, _PORT))
                for _ in range(PER_CONNECTION):
                    connection.sendall(bytes(_SIZE))
                    missing = _SIZE
                    while missing:
                        missing -= len(connection.recv(missing)) or missing + 1
                    counts[number] += 1
                connection.shutdown(socket.SHUT_WR)
                # The server's FIN: the connection is over at both ends.
                if connection.recv(1):
                    raise ConnectionError("more came back than was sent")

    failed: list[threading.ExceptHookArgs] = []
    threading.excepthook = failed.append
    running = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    print("begun", flush=True)
    for thread in running:
        thread.join()
    if failed:
        sys.exit(f"{len(failed)} threads failed, the first: {failed[0].exc_value!r}")
    print(sum(counts))


def _main() -> None:
    over = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        over.set()

    signal.signal(signal.SIGTERM, end)
    role, ipv4, ipv6, *rest = sys.argv[1:]
    if role == "serve":
        _serve(over, (ipv4, ipv6))
    else:
        _exchange(over, (ipv4, ipv6), int(rest[0]))


if __name__ == "__main__":
    _main()
