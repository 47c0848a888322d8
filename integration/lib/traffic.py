"""Traffic between two pods, bounded in count and time.

Everything here returns when its last packet has been handed to the kernel; what still travels then (a FIN, an
acknowledgement) is over within the path's delay, so compare counters once they rest (`agent.settled`).
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.lib.counters import Family
    from integration.lib.netns import Netns
    from integration.lib.topology import Pod

_TIMEOUT = 60
_TCPI_RTT = 68  # offset in struct tcp_info
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def iperf3(client: Pod, server: Pod, family: Family, *options: str, size: int, port: int = 5201) -> dict[str, Any]:
    """Move `size` bytes from client to server with iperf3 and return the client's report; 0: as options say.

    The client ends once it has handed that much to the kernel, so a part may never leave the sender's buffer.
    Options are iperf3's, such as `--reverse`, `--parallel 4`, `--udp --bitrate 20M --length 4000`.
    """
    with server.netns.popen(["iperf3", "--server", "--one-off", "--port", str(port)]) as process:
        wait_until(
            lambda: process.poll() is not None or _listens(server.netns, port),
            deadline=_TIMEOUT,
            what="the iperf3 server listens",
        )
        command = ["iperf3", "--client", server.address(family), "--port", str(port), "--json"]
        amount = ["--bytes", str(size)] if size else []
        text = client.netns.run([*command, *amount, *options], timeout=_TIMEOUT)
        process.wait(_TIMEOUT)
    report: dict[str, Any] = json.loads(text)
    return report


def _listens(netns: Netns, port: int) -> bool:
    with netns.entered():
        tables = [Path("/proc/thread-self/net") / name for name in ("tcp", "tcp6")]
        lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == _LISTEN for fields in lines)


def connections(
    client: Pod, server: Pod, family: Family, *, count: int, size: int = 100, port: int = 8080, source_port: int = 0
) -> None:
    """Open `count` TCP connections one after another; on each, `size` bytes go there and come back.

    They come from the source port and those that follow it, or from ones that the kernel picks. The client closes
    first. Raises OSError where one fails.
    """
    with _listener(server, family, port) as listening:
        thread = threading.Thread(target=_echo, args=(listening, count, size))
        thread.start()
        try:
            for number in range(count):
                with open_socket(client, family, socket.SOCK_STREAM) as connection:
                    if source_port:
                        connection.bind((client.address(family), source_port + number))
                    connection.connect((server.address(family), port))
                    connection.sendall(bytes(size))
                    _receive_all(connection, size)
                    connection.shutdown(socket.SHUT_WR)
                    # The server's FIN: the connection is over at both ends.
                    connection.recv(1)
        finally:
            thread.join(_TIMEOUT)


def exchanges(
    client: Pod,
    server: Pod,
    family: Family,
    *,
    count: int,
    size: int = 100,
    port: int = 8080,
    pause: float = 0,
    before_closing: Callable[[], object] = lambda: None,
) -> list[int]:
    """Send `size` bytes there and back `count` times on one connection, `pause` seconds apart.

    Returns what the kernel says of the client's smoothed round-trip time at the start and after each, in microseconds.
    """
    with _listener(server, family, port) as listening:
        thread = threading.Thread(target=_echo, args=(listening, 1, size, count))
        thread.start()
        try:
            with open_socket(client, family, socket.SOCK_STREAM) as connection:
                connection.connect((server.address(family), port))
                times = [_srtt(connection)]
                for _ in range(count):
                    connection.sendall(bytes(size))
                    _receive_all(connection, size)
                    times.append(_srtt(connection))
                    time.sleep(pause)
                before_closing()
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
                return times
        finally:
            thread.join(_TIMEOUT)


def _srtt(connection: socket.socket) -> int:
    (microseconds,) = struct.unpack_from(
        "=I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), _TCPI_RTT
    )
    return int(microseconds)


def _echo(listening: socket.socket, count: int, size: int, exchanges: int = 1) -> None:
    for _ in range(count):
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(_TIMEOUT)
            for _ in range(exchanges):
                connection.sendall(_receive_all(connection, size))
            connection.recv(1)


def _receive_all(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionError(f"closed after {len(received)} of {size} bytes")
        received += piece
    return received


def refused(client: Pod, server: Pod, family: Family, *, count: int, port: int = 9) -> int:
    """Try to connect to a port where nobody listens and return how many attempts were refused."""
    refusals = 0
    for _ in range(count):
        with open_socket(client, family, socket.SOCK_STREAM) as connection:
            try:
                connection.connect((server.address(family), port))
            except ConnectionRefusedError:
                refusals += 1
    return refusals


def datagrams(
    client: Pod, server: Pod, family: Family, *, count: int, size: int, port: int = 7000, source_port: int = 0
) -> int:
    """Send UDP datagrams of `size` bytes, fragmented where that is over the MTU; returns how many arrived.

    They come from the source port, or from one that the kernel picks.
    """
    with (
        open_socket(server, family, socket.SOCK_DGRAM) as receiver,
        open_socket(client, family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((server.address(family), port))
        sender.bind((client.address(family), source_port))
        received = 0
        # One at a time, so that no receive buffer overflows; a lost one costs its timeout.
        receiver.settimeout(1)
        for _ in range(count):
            sender.sendto(bytes(size), (server.address(family), port))
            try:
                received += len(receiver.recv(size)) == size
            except TimeoutError:
                continue
        return received


def ping(client: Pod, server: Pod, family: Family, *, count: int, size: int = 56) -> int:
    """Send echo requests with `size` bytes of payload, fragmented over the MTU; returns how many were answered."""
    options = ["-n", "-q", "-c", str(count), "-i", "0.01", "-s", str(size), "-W", "1"]
    # Status 1 means that answers are missing, which is for the caller to judge.
    printed = client.netns.run(["ping", *options, server.address(family)], timeout=_TIMEOUT, check=False)
    answered = re.search(r"(\d+) received", printed)
    if answered is None:
        raise AssertionError(f"ping failed: {printed}")
    return int(answered[1])


def open_socket(pod: Pod, family: Family, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    """Make a socket in a pod; it stays there whichever thread uses it."""
    with pod.netns.entered():
        made = socket.socket(_FAMILIES[family], kind, protocol)
    made.settimeout(_TIMEOUT)
    return made


def _listener(pod: Pod, family: Family, port: int) -> socket.socket:
    listening = open_socket(pod, family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((pod.address(family), port))
    listening.listen()
    return listening
