"""The judge: the kernel's own counters of a network namespace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.lib.netns import Netns

Family = Literal["ipv4", "ipv6"]
"""An IP family, as the agent's label `ipfamily` has it."""

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")

FILES = ("snmp", "netstat", "snmp6")
"""Below /proc/net."""

# Every packet received is in exactly one, and a merged one counts as its segments.
_RECEIVED = ("InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts")
_IPV4_HEADER = 20
_IPV6_HEADER = 40
_IPV6_FRAGMENT_HEADER = 8


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading, or the difference of two: packets and bytes since the namespace began, or in between.

    Names are those of /proc/net: `Tcp.RetransSegs`, `Ip.OutRequests`, `IpExt.InOctets`, `Ip6InReceives`.
    """

    values: Mapping[str, int]

    def __sub__(self, earlier: Counters) -> Counters:
        """What happened since an earlier reading of the same namespace."""
        # ICMP types appear when they first occur.
        return Counters({name: value - earlier.values.get(name, 0) for name, value in self.values.items()})

    def __getitem__(self, name: str) -> int:
        """One counter by the kernel's name; raises KeyError where this kernel lacks it."""
        return self.values[name]

    def changed(self) -> dict[str, int]:
        """What is not zero, for messages."""
        return {name: value for name, value in self.values.items() if value}

    def ip_receive_packets(self, family: Family) -> int:
        """Packets received as they were on the wire, those to be forwarded included."""
        return sum(self._extended(family, name) for name in _RECEIVED)

    def ip_receive_bytes(self, family: Family) -> int:
        """Bytes received with IP headers; those of merged packets without the headers that merging saved."""
        return self._extended(family, "InOctets")

    def ip_send_packets(self, family: Family) -> int:
        """Packets handed to a device, each fragment counted; one that is to be segmented later counts once."""
        if self._counts_transmits(family):
            return self._ip(family, "OutTransmits")
        # Forwarded packets are in IPv4's OutRequests, but not in IPv6's.
        forwarded = self._ip("ipv6", "OutForwDatagrams") if family == "ipv6" else 0
        fragments = self._ip(family, "FragCreates") - self._ip(family, "FragOKs")
        return self._ip(family, "OutRequests") + forwarded + fragments

    def ip_send_bytes(self, family: Family) -> int:
        """Bytes handed to a device with IP headers, fragments' own included.

        Kernels without OutTransmits count IPv4 bytes that they forward twice: there this is only right for
        namespaces that do not forward.
        """
        octets = self._extended(family, "OutOctets")
        if self._counts_transmits(family):
            return octets
        # Counted before fragmenting: each fragment has a header of its own, in place of the whole packet's.
        created, whole = self._ip(family, "FragCreates"), self._ip(family, "FragOKs")
        if family == "ipv4":
            return octets + _IPV4_HEADER * (created - whole)
        return octets + (_IPV6_HEADER + _IPV6_FRAGMENT_HEADER) * created - _IPV6_HEADER * whole

    def udp_receive_datagrams(self, family: Family) -> int:
        """Datagrams that UDP took in, merged ones counting once: those read, and those that it dropped or refused.

        InErrors has those of InCsumErrors, RcvbufErrors and MemErrors too. A datagram counts once it is read.
        """
        return sum(self._udp(family, name) for name in ("InDatagrams", "InErrors", "NoPorts", "IgnoredMulti"))

    def udp_send_datagrams(self, family: Family) -> int:
        """Datagrams handed to IP, those handed over at once (UDP GSO) counting once."""
        return self._udp(family, "OutDatagrams")

    @property
    def retrans_segs(self) -> int:
        """TCP segments retransmitted, SYN and SYN-ACK included."""
        return self["Tcp.RetransSegs"]

    @property
    def active_opens(self) -> int:
        """Connections opened from here."""
        return self["Tcp.ActiveOpens"]

    @property
    def passive_opens(self) -> int:
        """Connections accepted here."""
        return self["Tcp.PassiveOpens"]

    @property
    def in_segs(self) -> int:
        """TCP segments received, merged ones counting once."""
        return self["Tcp.InSegs"]

    @property
    def out_segs(self) -> int:
        """TCP segments sent without retransmitted data; SYN-ACKs sent again are here too."""
        return self["Tcp.OutSegs"]

    def _counts_transmits(self, family: Family) -> bool:
        # By the column, not by the kernel's version: it decides which of two models the kernel has.
        return ("Ip.OutTransmits" if family == "ipv4" else "Ip6OutTransmits") in self.values

    def _ip(self, family: Family, name: str) -> int:
        return self[f"Ip.{name}" if family == "ipv4" else f"Ip6{name}"]

    def _udp(self, family: Family, name: str) -> int:
        return self[f"Udp.{name}" if family == "ipv4" else f"Udp6{name}"]

    def _extended(self, family: Family, name: str) -> int:
        return self[f"IpExt.{name}" if family == "ipv4" else f"Ip6{name}"]


def read(netns: Netns) -> Counters:
    """Read all IP, TCP, UDP and ICMP counters of a namespace."""
    directory = Path("/proc/thread-self/net")
    with netns.entered():
        return parse(*((directory / name).read_text() for name in FILES))


def parse(snmp: str, netstat: str, snmp6: str) -> Counters:
    """Make counters of the text of FILES."""
    return Counters(dict((*_tables(snmp), *_tables(netstat), *_list(snmp6))))


def _tables(text: str) -> Iterator[tuple[str, int]]:
    """Parse `Tcp: NAME NAME` followed by `Tcp: VALUE VALUE`."""
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        prefix, *columns = names.split()
        for column, value in zip(columns, values.split()[1:], strict=True):
            yield f"{prefix.removesuffix(':')}.{column}", int(value)


def _list(text: str) -> Iterator[tuple[str, int]]:
    """Parse lines of `NAME VALUE`."""
    for line in text.splitlines():
        name, value = line.split()
        yield name, int(value)
