"""Packets from a virtual machine: merged ones that do not say how many they stand for.

A hypervisor hands them to a tap or tun device with a `virtio_net_hdr`, which has the payload bytes per packet and no
number of packets; the kernel leaves `gso_segs` at 0 (and marks them as not to be trusted).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from integration.lib import counters, wait
from integration.lib.packets import checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.counters import Family
    from integration.lib.netns import Netns

DEVICE = "guest0"
GUEST: dict[Family, str] = {"ipv4": "10.77.0.9", "ipv6": "fd77::9"}
"""The virtual machine's addresses."""
HOST: dict[Family, str] = {"ipv4": "10.77.0.1", "ipv6": "fd77::1"}
"""The device's."""
HEADERS: dict[Family, int] = {"ipv4": 40, "ipv6": 60}
"""Bytes of the IP and the TCP header of each packet."""

_TUNSETIFF = 0x400454CA
_FLAGS = 0x1 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
# struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
_VIRTIO = "=BBHHHH"
_NEEDS_CHECKSUM = 1
_GSO: dict[Family, int] = {"ipv4": 1, "ipv6": 4}
_TCP_CHECKSUM_OFFSET = 16
_TCP_HEADER = 20
_ACK = 0x10
_PREFIX: dict[Family, int] = {"ipv4": 24, "ipv6": 64}
_QUIET = 0.3
_DEADLINE = 30


@dataclass(frozen=True, slots=True)
class Guest:
    """The virtual machine's end of the device."""

    descriptor: int

    def send(self, family: Family, to: str, *, size: int, segment: int, partial: bool = True) -> None:
        """Send one TCP packet of `size` payload bytes, to be split into packets of `segment`.

        `partial`: its checksum is left to the receiver, as by every hypervisor that negotiates offloads. If not, the
        kernel has to look for the headers by itself, and TCP drops the packet, whose checksum is not there.
        """
        internet = HEADERS[family] - _TCP_HEADER
        flags, start, offset = (_NEEDS_CHECKSUM, internet, _TCP_CHECKSUM_OFFSET) if partial else (0, 0, 0)
        virtio = struct.pack(_VIRTIO, flags, _GSO[family], HEADERS[family], segment, start, offset)
        tcp = struct.pack("!HHIIBBHHH", 1000, 1001, 1, 1, _TCP_HEADER // 4 << 4, _ACK, 1000, 0, 0)
        header = _header(family, to, len(tcp) + size)
        os.write(self.descriptor, virtio + header + tcp + bytes(size))


def _header(family: Family, to: str, length: int) -> bytes:
    if family == "ipv6":
        start = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_TCP, 64)
        return start + b"".join(socket.inet_pton(socket.AF_INET6, one) for one in (GUEST[family], to))
    addresses = socket.inet_aton(GUEST[family]) + socket.inet_aton(to)
    fields = (0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_TCP)
    summed = checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses)
    return struct.pack("!BBHHHBBH", *fields, summed) + addresses


@contextmanager
def guest(netns: Netns) -> Iterator[Guest]:
    """Attach a virtual machine to a namespace by a tun device, addressed and quiet, for the length of a block."""
    subprocess.run(["modprobe", "tun"], check=True, timeout=_DEADLINE)
    with netns.entered():
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _FLAGS))
        with netns.routes() as routes:
            (index,) = routes.link_lookup(ifname=DEVICE)
            for family, address in HOST.items():
                routes.addr("add", index=index, address=address, prefixlen=_PREFIX[family])
            routes.link("set", index=index, state="up")
        reading = partial(counters.read, netns)
        wait.unchanged(reading, seconds=_QUIET, deadline=_DEADLINE, what="the namespace is quiet")
        yield Guest(descriptor)
    finally:
        os.close(descriptor)
