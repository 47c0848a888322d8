"""Packets made byte by byte, right or wrong, and put on a pod's wire past its IP stack."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from integration.lib.packets import checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.counters import Family
    from integration.lib.topology import Pod

UNKNOWN_PROTOCOL = 253
"""For experiments (RFC 3692): nobody speaks it."""
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
EVERYBODY = b"\xff" * 6
"""The hardware address of all."""

_ETHERTYPE: dict[Family, int] = {"ipv4": 0x0800, "ipv6": 0x86DD}
_ADDRESS_FAMILY: dict[Family, socket.AddressFamily] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_TCP_HEADER = 20
_UDP_HEADER = 8
_WRONG = 0x5555
"""What turns a checksum into another one."""
_ANY_PROTOCOL = 3
_LONGEST = 65536
_TIMEOUT = 10


def address(family: Family, text: str) -> bytes:
    """Return an IP address as packets have it."""
    return socket.inet_pton(_ADDRESS_FAMILY[family], text)


def ipv4(  # noqa: PLR0913 - a header has many fields
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = UNKNOWN_PROTOCOL,
    options: bytes = b"",
    version: int = 4,
    size: int | None = None,
    total: int | None = None,
    ttl: int = 64,
    wrong_sum: bool = False,
) -> bytes:
    """Return an IPv4 packet; what is left out is right. `size` is that of the header, in 32-bit words."""
    words = 5 + len(options) // 4 if size is None else size
    length = 20 + len(options) + len(payload) if total is None else total
    ends = address("ipv4", source) + address("ipv4", destination) + options
    fields = (version << 4 | words, 0, length, 0, 0, ttl, protocol)
    summed = checksum(struct.pack("!BBHHHBBH", *fields, 0) + ends)
    return struct.pack("!BBHHHBBH", *fields, summed ^ (_WRONG if wrong_sum else 0)) + ends + payload


def ipv6(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = UNKNOWN_PROTOCOL,
    version: int = 6,
    length: int | None = None,
    hop_limit: int = 64,
) -> bytes:
    """Return an IPv6 packet; what is left out is right. `length` is that of the payload."""
    bytes_of_payload = len(payload) if length is None else length
    start = struct.pack("!IHBB", version << 28, bytes_of_payload, protocol, hop_limit)
    return start + address("ipv6", source) + address("ipv6", destination) + payload


def transported(
    family: Family, source: str, destination: str, protocol: int, segment: bytes, *, at: int, wrong_sum: bool = False
) -> bytes:
    """Return a packet with a transport header whose checksum, `at` that offset, is still to be filled in."""
    ends = address(family, source) + address(family, destination)
    pseudo = ends + struct.pack("!HBBH" if family == "ipv4" else "!HBBI", 0, 0, protocol, len(segment))
    if family == "ipv6":
        pseudo = ends + struct.pack("!IHBB", len(segment), 0, 0, protocol)
    summed = checksum(pseudo + segment + bytes(len(segment) % 2)) ^ (_WRONG if wrong_sum else 0)
    filled = segment[:at] + struct.pack("!H", summed or 0xFFFF) + segment[at + 2 :]
    if family == "ipv4":
        return ipv4(source, destination, filled, protocol=protocol)
    return ipv6(source, destination, filled, protocol=protocol)


def tcp(  # noqa: PLR0913 - a header has many fields
    family: Family,
    source: tuple[str, int],
    destination: tuple[str, int],
    flags: int,
    *,
    sequence: int = 0,
    acknowledged: int = 0,
    payload: bytes = b"",
    options: bytes = b"",
    size: int | None = None,
    wrong_sum: bool = False,
) -> bytes:
    """Return a packet with a TCP segment; `size` is that of its header, in 32-bit words, where it is not true."""
    words = 5 + len(options) // 4 if size is None else size
    ports = (source[1], destination[1])
    numbers = (sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF)
    header = struct.pack("!HHIIBBHHH", *ports, *numbers, words << 4, flags, 8192, 0, 0)
    segment = header + options + payload
    return transported(
        family, source[0], destination[0], socket.IPPROTO_TCP, segment, at=_TCP_HEADER - 4, wrong_sum=wrong_sum
    )


def udp(
    family: Family, source: tuple[str, int], destination: tuple[str, int], payload: bytes, *, wrong_sum: bool = False
) -> bytes:
    """Return a packet with a UDP datagram."""
    datagram = struct.pack("!HHHH", source[1], destination[1], _UDP_HEADER + len(payload), 0) + payload
    return transported(
        family, source[0], destination[0], socket.IPPROTO_UDP, datagram, at=_UDP_HEADER - 2, wrong_sum=wrong_sum
    )


class Wire:
    """A pod's device, by which frames reach the pod at the other end of it."""

    def __init__(self, opened: socket.socket, source: bytes, destination: bytes) -> None:
        """Take over a packet socket that is bound to the device."""
        self._socket = opened
        self._source = source
        self._destination = destination

    def send(self, packet: bytes, family: Family, *, to: bytes | None = None) -> None:
        """Send a packet as what the family's frames hold; its checksums are left to nobody."""
        frame = (to or self._destination) + self._source + struct.pack("!H", _ETHERTYPE[family])
        self._socket.send(frame + packet)

    def answer(self, family: Family, source: tuple[str, int], destination: tuple[str, int]) -> tuple[int, int]:
        """Wait for a SYN-ACK between these ends and return its sequence and acknowledgement number."""
        ends = address(family, source[0]) + address(family, destination[0])
        ports = struct.pack("!HH", source[1], destination[1])
        at, start = (14 + 20, 14 + 12) if family == "ipv4" else (14 + 40, 14 + 8)
        while True:
            frame = self._socket.recv(_LONGEST)
            if frame[start : start + len(ends)] != ends or frame[at : at + 4] != ports:
                continue
            if frame[at + 13] & (SYN | ACK) == SYN | ACK:
                sequence, acknowledged = struct.unpack_from("!II", frame, at + 4)
                return int(sequence), int(acknowledged)


@contextmanager
def wire(pod: Pod, other: Pod) -> Iterator[Wire]:
    """Open a pod's end of the wire to another one, for the length of a block."""
    with pod.netns.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ANY_PROTOCOL))
    with opened:
        opened.bind((pod.device, _ANY_PROTOCOL))
        opened.settimeout(_TIMEOUT)
        yield Wire(opened, _hardware(pod), _hardware(other))


def _hardware(pod: Pod) -> bytes:
    with pod.netns.routes() as routes:
        (link,) = routes.link("get", ifname=pod.device)
    return bytes.fromhex(str(link.get_attr("IFLA_ADDRESS")).replace(":", ""))


class Stranger:
    """Somebody beyond a pod's wire who speaks TCP, as far as it suits a test, from an address that no pod has."""

    ADDRESS: ClassVar[dict[Family, str]] = {"ipv4": "10.8.0.50", "ipv6": "fd08::50"}

    def __init__(self, line: Wire, family: Family, server: tuple[str, int], port: int) -> None:
        """Begin without a connection; `port` is the stranger's."""
        self._wire = line
        self._family = family
        self._server = server
        self._own = (self.ADDRESS[family], port)
        self.sequence = 1000
        self.acknowledged = 0

    def send(self, flags: int, **fields: int | bytes | bool | None) -> None:
        """Send a segment of the connection; fields are those of `tcp`, and may be wrong."""
        numbers = {"sequence": self.sequence, "acknowledged": self.acknowledged} | fields
        self._wire.send(tcp(self._family, self._own, self._server, flags, **numbers), self._family)  # type: ignore[arg-type]

    def ask(self, options: bytes = b"") -> None:
        """Send a SYN, and wait for the answer."""
        self.send(SYN, acknowledged=0, options=options)
        answered, self.sequence = self._wire.answer(self._family, self._server, self._own)
        self.acknowledged = answered + 1

    def connect(self, options: bytes = b"") -> None:
        """Open the connection."""
        self.ask(options)
        self.send(ACK)
