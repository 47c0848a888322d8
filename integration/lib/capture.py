"""What arrives at a pod, by kind: a packet socket counts it in the pod's namespace, as tcpdump would."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.topology import Pod

_ETH_P_ALL = 3
_OUTGOING = 4  # PACKET_OUTGOING
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_SYN, _ACK = 2, 16
_POLL = 0.1
_ICMP_KINDS = {8: "ping ipv4"}
_ICMPV6_KINDS = {128: "ping ipv6"}
_SOLICITATION = 135


class Capture:
    """Requests that have arrived, as `<command> <ipfamily>`, and when the last ones did."""

    def __init__(self, pod: Pod) -> None:
        """Begin with none."""
        self._ipv4 = socket.inet_pton(socket.AF_INET, pod.ipv4)
        self._ipv6 = socket.inet_pton(socket.AF_INET6, pod.ipv6)
        self.counts: Counter[str] = Counter()
        self.times: list[float] = []
        """Monotonic seconds of each."""

    def take(self, packet: bytes) -> None:
        """Count one Ethernet frame."""
        if kind := self._kind(packet):
            self.counts[kind] += 1
            self.times.append(time.monotonic())

    def _kind(self, packet: bytes) -> str | None:
        protocol, body = int.from_bytes(packet[12:14], "big"), packet[14:]
        if protocol == _ARP:
            return "arping ipv4" if body[7] == 1 and body[24:28] == self._ipv4 else None
        if protocol == _IPV4:
            return self._internet("ipv4", body[9], body[(body[0] & 0xF) * 4 :])
        if protocol == _IPV6:
            return self._internet("ipv6", body[6], body[40:])
        return None

    def _internet(self, family: str, protocol: int, body: bytes) -> str | None:
        if protocol == socket.IPPROTO_TCP:
            return f"curl {family}" if body[13] & (_SYN | _ACK) == _SYN else None
        if protocol == socket.IPPROTO_ICMP:
            return _ICMP_KINDS.get(body[0])
        if protocol == socket.IPPROTO_ICMPV6 and body[0] == _SOLICITATION:
            return "arping ipv6" if body[8:24] == self._ipv6 else None
        return _ICMPV6_KINDS.get(body[0]) if protocol == socket.IPPROTO_ICMPV6 else None


@contextmanager
def captured(pod: Pod) -> Iterator[Capture]:
    """Count what arrives at a pod's device for the length of a block."""
    with pod.netns.entered():
        receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    receiver.bind((pod.device, _ETH_P_ALL))
    receiver.settimeout(_POLL)
    capture, stop = Capture(pod), threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                packet, address = receiver.recvfrom(2048)
            except TimeoutError:
                continue
            except OSError:  # the device went down
                continue
            if address[2] != _OUTGOING:
                capture.take(packet)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield capture
    finally:
        stop.set()
        thread.join()
        receiver.close()
