"""Rare events with a reason: the tables of ebpf/include/event.bpf.h."""

from __future__ import annotations

from struct import iter_unpack
from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.bpf.layouts import EVENT_GROUPS, EVENTS, Events
from dolphin_agent.bpf.table_map import TableMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dolphin_agent.bpf.object import Map

MAP = "event_tables"
FORMAT = "<IBBBBQ40sQ16x"
"""Of an entry, for struct.unpack: without what only the programs need."""


class Drained(NamedTuple):
    """How often one thing happened since the last drain; there may be two of the same, to be added up."""

    slot: int
    kind: int
    family: int
    direction: int
    protocol: int
    reason: int
    flow: bytes
    """All zeros: counted per pod. Else a flow's ports, from the fifth byte on, and its addresses."""
    packets: int


class EventMap:
    """The tables of pods and of flows."""

    def __init__(self, found: Map) -> None:
        self._tables = TableMap(EVENT_GROUPS, EVENTS, Events, found)

    def fill(self, buffer: int) -> float:
        """The share of the fuller table that is used."""
        return self._tables.fill(buffer)

    def drain(self, buffer: int) -> Iterator[Drained]:
        """Takes all events of a buffer that no program writes any more, so that it is empty afterwards."""
        for chunk in self._tables.drain(buffer):
            yield from (event for event in map(Drained._make, iter_unpack(FORMAT, chunk)) if event.slot)

    def close(self) -> None:
        """Unmaps it."""
        self._tables.close()
