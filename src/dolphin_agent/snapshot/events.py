"""Rare events as the ledger adds them up: by what happened and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.bpf.layouts import Direction, Family, Kind
from dolphin_agent.probes.items import EVENT_COUNTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.bpf import events
    from dolphin_agent.probes.items import EventCounter

_FLOW_PORTS = 4
_FLOW_BYTES = {Family.IPV4: 16, Family.IPV6: 40}


class Cause(NamedTuple):
    """What happened, in which direction and why."""

    kind: Kind
    family: Family
    direction: Direction
    reason: str


Causes = dict[Cause, int]
"""How often each happened."""


def causes_of(event: events.Drained, declared: Mapping[Kind, EventCounter] = EVENT_COUNTERS) -> tuple[Cause, ...]:
    """What an event says, with its reason in words: what tells series apart is the words. None: it was no event."""
    counter = declared[Kind(event.kind)]
    reason = counter.reason(event.reason)
    kinds = [kind for kind in (counter.kind, counter.part_of) if kind is not None and reason]
    return tuple(Cause(kind, Family(event.family), Direction(event.direction), reason) for kind in kinds)


def flow_key(event: events.Drained) -> bytes:
    """The key of its flow as those of flow tables are, so that it has the same labels; empty where it has none."""
    if not any(event.flow):
        return b""
    # A packet's record is its direction.
    head = bytes((event.protocol, event.direction)) + event.slot.to_bytes(2, "little")
    return head + event.flow[_FLOW_PORTS : _FLOW_BYTES[Family(event.family)]]
