"""What a drain takes out of the tables of events."""

import ctypes
import os
from types import SimpleNamespace

import pytest

from dolphin_agent.bpf.events import Drained, EventMap
from dolphin_agent.bpf.layouts import CPU_PARTITIONS, EVENT_GROUPS, EVENTS, Direction, Event, EventTable, Family, Kind

POD, FLOW = range(EVENT_GROUPS)
CLAIMED_BY_NOBODY = 2


@pytest.fixture
def tables():
    """An EventMap, and the elements of its map: memory like the kernel's."""
    elements = EventTable * (EVENT_GROUPS * CPU_PARTITIONS)
    fd = os.memfd_create("event_tables")
    os.ftruncate(fd, ctypes.sizeof(elements))
    found = EventMap(SimpleNamespace(fd=fd, size=ctypes.sizeof(elements)))
    yield found, elements.from_buffer(found._tables._memory)
    os.close(fd)


def put(table, place, reason, packets, flow=(0,) * 5):
    """As a program fills an entry."""
    entry = table.entries[place]
    entry.event = Event(7, Kind.IP_DROP, Family.IPV6, Direction.OUTGOING, 6 if flow[0] else 0, reason, flow)
    entry.packets, entry.digest, entry.claims = packets, 1 << 60, 1
    table.table.used += 1


def test_takes_what_pods_and_flows_have_and_leaves_the_other_buffer(tables):
    """Each entry once, wherever in the table it is; afterwards that buffer is empty."""
    found, elements = tables
    flow = (1 | 80 << 32, 2, 3, 4, 5)
    put(elements[POD * CPU_PARTITIONS], EVENTS - 1, 5, 11)
    put(elements[FLOW * CPU_PARTITIONS], 0, 6, 12, flow)
    put(elements[POD * CPU_PARTITIONS + 1], 3, 8, 13)
    common = 7, Kind.IP_DROP, Family.IPV6, Direction.OUTGOING
    assert list(found.drain(0)) == [
        Drained(*common, 0, 5, bytes(40), 11),
        Drained(*common, 6, 6, b"".join(word.to_bytes(8, "little") for word in flow), 12),
    ]
    assert list(found.drain(0)) == []
    assert [event.packets for event in found.drain(1)] == [13]
    assert bytes(elements) == bytes(ctypes.sizeof(elements))


def test_an_entry_that_nobody_filled_is_nothing(tables):
    """Programs that raised its claims at once have gone on to the next one."""
    found, elements = tables
    table = elements[POD * CPU_PARTITIONS]
    table.entries[0].claims = CLAIMED_BY_NOBODY
    put(table, 1, 5, 11)
    assert [event.packets for event in found.drain(0)] == [11]
    assert bytes(table) == bytes(ctypes.sizeof(table))
