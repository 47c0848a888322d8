"""The flows of one pod: records that drained tables are added to, bounded in number and dropped when idle."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from struct import iter_unpack
from typing import TYPE_CHECKING, TypeVar

from dolphin_agent.bpf.layouts import BUCKET_SHIFT, Family, Kind, Record
from dolphin_agent.snapshot.model import Distribution, Labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dolphin_agent.bpf.flow_tables import DrainedTable
    from dolphin_agent.snapshot.events import Cause
    from dolphin_agent.snapshot.model import Pairs

TCP = 6
UDP = 17


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kind is counted per flow."""

    record: Record
    index: int
    """Of its packets among the record's numbers; its bytes are next."""
    protocol: int | None = None
    """Of the flows that have it; None: all."""

    def is_in(self, record: Record, protocol: int) -> bool:
        """Whether flows of a record and protocol have it."""
        return self.record == record and self.protocol in (None, protocol)


FIELDS: Mapping[Kind, Place] = {
    Kind.IP_RECEIVE: Place(Record.RECEIVED, 0),
    Kind.TCP_RECEIVE: Place(Record.RECEIVED, 2, TCP),
    Kind.UDP_RECEIVE: Place(Record.RECEIVED, 2, UDP),
    Kind.IP_SEND: Place(Record.SENT, 0),
    Kind.TCP_SEND: Place(Record.SENT, 2, TCP),
    Kind.UDP_SEND: Place(Record.SENT, 2, UDP),
    Kind.TCP_RETRANS: Place(Record.RETRANSMITTED, 0),
}
"""A flow has one protocol, so that those of TCP and those of UDP need no numbers of their own."""

COUNTED = (Record.RECEIVED, Record.SENT, Record.RETRANSMITTED)
"""The records that hold a Flow."""

OTHER = Labels(tuple((name, "other") for name in ("srcip", "dstip", "srcport", "dstport", "protocol")))
"""What could not be kept in detail."""

EPHEMERAL = "ephemeral"
PROTOCOLS = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    TCP: "tcp",
    UDP: "udp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
"""The names of IANA's list, lower case; others are shown as their number."""

# A key's bytes: protocol, record, slot and bucket (two bytes), local port, remote port, local address, remote address.
_RECORD = 1
_SLOT = slice(2, 4)
_BUCKET_BITS = BUCKET_SHIFT - 24
_ADDRESS_BYTES = {Family.IPV4: 4, Family.IPV6: 16}


class Flow:
    """One flow in one direction: four numbers, see FIELDS."""

    __slots__ = ("counts", "labels", "seen", "start")

    def __init__(self, start: float) -> None:
        self.counts = [0, 0, 0, 0]
        self.start = start
        self.seen = start
        self.labels: Labels | None = None


class Rtt:
    """The round-trip times of one flow."""

    __slots__ = ("counts", "labels", "seen", "start", "sum")

    def __init__(self, start: float) -> None:
        self.counts: dict[int, int] = {}
        self.sum = 0
        self.start = start
        self.seen = start
        self.labels: Labels | None = None

    def add(self, other: Rtt) -> None:
        """Adds up two."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.sum += other.sum

    def freeze(self) -> Distribution:
        """An immutable copy."""
        return Distribution(dict(self.counts), self.sum)


class Book:
    """All flows of one pod, per family."""

    def __init__(self) -> None:
        self.flows: dict[tuple[Family, Record], dict[bytes, Flow]] = {}
        self.rtts: dict[Family, dict[bytes, Rtt]] = {family: {} for family in Family}
        self.other_rtts: dict[Family, Rtt] = {}
        """Samples of flows that found no room or have gone idle."""
        self.events: dict[Cause, dict[bytes, Flow]] = {}
        for family in Family:
            for record in COUNTED:
                self.flows[family, record] = {}

    @property
    def size(self) -> int:
        """Number of records."""
        flows = (*self.flows.values(), *self.events.values())
        return sum(map(len, flows)) + sum(map(len, self.rtts.values()))


Sums = dict[tuple[int, Record, int], list[int]]
"""Slot, record and protocol -> the four numbers of all such flows together."""


class Books:
    """The books of all pods, under one limit."""

    def __init__(self, max_flows: int) -> None:
        self._max_flows = max_flows
        self.size = 0
        """Records kept now."""
        self.refused = 0
        """How often a flow's counts went to `other` as there was no room for its record."""

    def credit(self, table: DrainedTable, books: Mapping[int, Book], now: float) -> Sums:
        """Adds a drained table to the books, slot -> book; entries of other slots are dropped.

        Returns what was added, whether or not there was room for its flow.
        """
        if table.name.startswith("samples"):
            return self._credit_samples(table, books, now)
        return self._credit_traffic(table, books, now)

    def _credit_traffic(self, table: DrainedTable, books: Mapping[int, Book], now: float) -> Sums:
        places = {
            bytes((record,)) + slot.to_bytes(2, "little"): book.flows[table.family, record]
            for slot, book in books.items()
            for record in COUNTED
        }
        known: dict[bytes, tuple[dict[bytes, Flow], list[int]]] = {}
        unused = table.unused
        for chunk in table.chunks:
            for key, packets, octets, segments, payload in iter_unpack(table.format, chunk):
                if key == unused:
                    continue
                tag = key[:4]
                found = known.get(tag)
                if found is None:
                    if tag[1:] not in places:
                        continue
                    found = known[tag] = (places[tag[1:]], [0, 0, 0, 0])
                place, total = found
                total[0] += packets
                total[1] += octets
                total[2] += segments
                total[3] += payload
                flow = place.get(key)
                if flow is None:
                    if not self._has_room():
                        continue
                    flow = place[key] = Flow(now)
                counts = flow.counts
                counts[0] += packets
                counts[1] += octets
                counts[2] += segments
                counts[3] += payload
                flow.seen = now
        return {
            (int.from_bytes(tag[_SLOT], "little"), Record(tag[_RECORD]), tag[0]): total
            for tag, (_, total) in known.items()
        }

    def _credit_samples(self, table: DrainedTable, books: Mapping[int, Book], now: float) -> Sums:
        sums: Sums = {}
        unused = table.unused
        for chunk in table.chunks:
            for key, count, total in iter_unpack(table.format, chunk):
                if key == unused:
                    continue
                slot = key[2] | (key[3] & (1 << _BUCKET_BITS) - 1) << 8
                book = books.get(slot)
                if book is None:
                    continue
                if key[_RECORD] == Record.RTT:
                    self._add_rtt(book, table.family, key, count, total, now)
                    continue
                added = sums.setdefault((slot, Record.RETRANSMITTED, TCP), [0, 0, 0, 0])
                added[0] += total
                place = book.flows[table.family, Record.RETRANSMITTED]
                flow = place.get(key)
                if flow is None:
                    if not self._has_room():
                        continue
                    flow = place[key] = Flow(now)
                flow.counts[0] += total
                flow.seen = now
        return sums

    def _add_rtt(self, book: Book, family: Family, key: bytes, count: int, total: int, now: float) -> None:
        bucket = key[3] >> _BUCKET_BITS
        key = key[:3] + bytes((key[3] & (1 << _BUCKET_BITS) - 1,)) + key[4:]
        rtts = book.rtts[family]
        rtt = rtts.get(key)
        if rtt is None:
            if self._has_room():
                rtt = rtts[key] = Rtt(now)
            else:
                rtt = book.other_rtts.setdefault(family, Rtt(now))
        rtt.counts[bucket] = rtt.counts.get(bucket, 0) + count
        rtt.sum += total
        rtt.seen = now

    def credit_event(self, book: Book, cause: Cause, key: bytes, packets: int, now: float) -> None:
        """Adds an event to its flow's record, if there is room for one."""
        flows = book.events.setdefault(cause, {})
        flow = flows.get(key)
        if flow is None:
            if not self._has_room():
                return
            flow = flows[key] = Flow(now)
        flow.counts[0] += packets
        flow.seen = now

    def _has_room(self) -> bool:
        """Takes a place, if there is one."""
        if self.size >= self._max_flows:
            self.refused += 1
            return False
        self.size += 1
        return True

    def expire(self, books: Iterable[Book], before: float) -> None:
        """Forgets flows not seen since; their counts stay in the pod's totals, so that they move to `other`."""
        for book in books:
            for flows in (*book.flows.values(), *book.events.values()):
                for key in [key for key, flow in flows.items() if flow.seen < before]:
                    del flows[key]
                    self.size -= 1
            for family, rtts in book.rtts.items():
                for key in [key for key, rtt in rtts.items() if rtt.seen < before]:
                    gone = rtts.pop(key)
                    book.other_rtts.setdefault(family, Rtt(gone.start)).add(gone)
                    self.size -= 1

    def forget(self, book: Book) -> None:
        """Frees the places of a pod that is gone."""
        self.size -= book.size


def labels_of(key: bytes, family: Family) -> Pairs:
    """The five labels of a flow, source and destination as in its packets."""
    size = _ADDRESS_BYTES[family]
    protocol = key[0]
    ports = int.from_bytes(key[6:8], "little"), int.from_bytes(key[4:6], "little")
    local, remote = ports
    # Both are 0 where there are none: later fragments, ICMP. One is 0 where it was folded.
    shown = tuple(str(port) if port or not (local or remote) else EPHEMERAL for port in ports)
    ends = [(_address(key[8 : 8 + size]), shown[0]), (_address(key[8 + size : 8 + 2 * size]), shown[1])]
    if key[_RECORD] == Record.RECEIVED:
        ends.reverse()
    (source, source_port), (destination, destination_port) = ends
    return (
        ("srcip", source),
        ("dstip", destination),
        ("srcport", source_port),
        ("dstport", destination_port),
        ("protocol", PROTOCOLS.get(protocol) or str(protocol)),
    )


@lru_cache(maxsize=4096)
def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


class FlowLabels(Labels):
    """A flow's labels, made of its key whenever they are asked for: kept, they would take ten times its size."""

    __slots__ = ("_family", "_key")

    def __init__(self, key: bytes, family: Family) -> None:
        super().__init__()
        self._key = key
        self._family = family

    @property
    def pairs(self) -> Pairs:
        """The five, source and destination as in its packets."""
        return labels_of(self._key, self._family)


R = TypeVar("R", Flow, Rtt)


def labelled(records: Mapping[bytes, R], family: Family, protocol: int | None = None) -> Iterator[tuple[R, Labels]]:
    """The records and their labels, made once in a record's life, as it takes longer than all the rest."""
    for key, record in records.items():
        if protocol is not None and key[0] != protocol:
            continue
        labels = record.labels
        if labels is None:
            labels = record.labels = FlowLabels(key, family)
        yield record, labels
