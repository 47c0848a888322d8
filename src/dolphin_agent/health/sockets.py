"""Sockets of probes, and what the kernel says when it refuses one."""

from __future__ import annotations

import errno
import selectors
import socket
from typing import TYPE_CHECKING, Any, Protocol

from dolphin_agent.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOM = 2048
"""Bytes of the longest answer; a probe of ours is shorter than 100."""
_FULL = (errno.EAGAIN, errno.ENOBUFS)
"""What a raw socket says when its send buffer is full."""
_AT_ONCE = 256
"""Answers taken before others have their turn."""


class Probe(Protocol):
    """Asks one pod, one probe at a time."""

    def begin(self) -> None:
        """Ask. Raises OSError where the probe has failed already, ProbeError where none can be made."""

    def abandon(self) -> None:
        """Give up a probe that has not ended; it then never does."""


def open_socket(what: str, family: int, kind: int, protocol: int) -> socket.socket:
    """A socket that does not block. Raises ProbeError; `what` is what it is for."""
    try:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except PermissionError as fault:
        raise ProbeError(
            f"{what} needs the capability NET_RAW: add it to the container's securityContext or the unit's "
            "AmbientCapabilities, or use curl"
        ) from fault
    except OSError as fault:
        raise ProbeError(f"{what}: the kernel gives no socket: {fault.strerror}") from fault


class SharedSocket:
    """A raw socket that all probes of a kind send and receive by; opened at the first use.

    With one for each probe, each would get the answers to all: 250 pings a second took 6.7 % of a processor with
    icmplib, which has one for each, and 2 % with one for all (kernel 6.18). It has no SO_TIMESTAMP, with which the
    kernel would look at a clock for every packet of the node.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        make: Callable[[], socket.socket],
        received: Callable[[bytes, Any], None],
    ) -> None:
        """Take what to call with each packet: its bytes, and where it is from."""
        self._selector = selector
        self._make = make
        self._received = received
        self._sockets: list[socket.socket] = []
        """The first one receives, too."""

    def send(self, packet: bytes, address: Any) -> None:  # noqa: ANN401 - what a family's sockets take
        """Send a packet. Raises OSError, ProbeError.

        Packets to those who do not answer ARP wait in the kernel and fill a socket's buffer; others must not wait for
        them, so there is another socket then.
        """
        if not self._sockets:
            self._open()
        for one in self._sockets:
            try:
                one.sendto(packet, address)
            except OSError as fault:
                if fault.errno not in _FULL:
                    raise
            else:
                return
        self._add().sendto(packet, address)

    def fileno(self) -> int:
        """That of the socket that receives. Raises ProbeError."""
        if not self._sockets:
            self._open()
        return self._sockets[0].fileno()

    def close(self) -> None:
        """Close it until it is used again."""
        if self._sockets:
            self._selector.unregister(self._sockets[0])
        for one in self._sockets:
            one.close()
        self._sockets = []

    def _open(self) -> None:
        receiver = self._make()
        self._sockets.append(receiver)
        self._selector.register(receiver, selectors.EVENT_READ, self._receive)

    def _add(self) -> socket.socket:
        sender = self._make()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads it
        self._sockets.append(sender)
        return sender

    def _receive(self, _: int) -> None:
        receiver = self._sockets[0]
        for _ in range(_AT_ONCE):
            try:
                data, source = receiver.recvfrom(_ROOM)
            except OSError:  # nothing more, or that a device has gone down
                return
            self._received(data, source)
