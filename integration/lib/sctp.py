"""SCTP between two pods; the kernel loads its module on demand."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from integration.lib.traffic import open_socket

if TYPE_CHECKING:
    from integration.lib.counters import Family
    from integration.lib.topology import Pod

_TIMEOUT = 60
_PIECE = 16_000


def transfer(client: Pod, server: Pod, family: Family, *, size: int, port: int = 7500, source_port: int = 0) -> int:
    """Move `size` bytes over one association, from beginning to end; returns how many arrived."""
    with open_socket(server, family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listening:
        # Bound to one address each: an association of several sends heartbeats to all.
        listening.bind((server.address(family), port))
        listening.listen()
        received: list[int] = []
        thread = threading.Thread(target=_receive, args=(listening, received))
        thread.start()
        try:
            with open_socket(client, family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as sender:
                sender.bind((client.address(family), source_port))
                sender.connect((server.address(family), port))
                for left in range(size, 0, -_PIECE):
                    sender.sendall(bytes(min(left, _PIECE)))
        finally:
            thread.join(_TIMEOUT)
        return sum(received)


def _receive(listening: socket.socket, received: list[int]) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(_TIMEOUT)
        while piece := connection.recv(2 * _PIECE):
            received.append(len(piece))
