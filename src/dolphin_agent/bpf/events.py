"""Rare events with a reason: the two hash tables of ebpf/include/event.bpf.h, one of which is written."""

from __future__ import annotations

import ctypes
from struct import iter_unpack
from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.bpf import libbpf
from dolphin_agent.bpf.layouts import Events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAPS = ("events0", "events1")
"""In the order of the buffers."""
FORMAT = "<IBBBBQ40sQ"
"""Of a value, for struct.unpack."""
_ELEMENT = 48 + ctypes.sizeof(ctypes.c_uint64) + ctypes.sizeof(Events)
"""The kernel's struct htab_elem, then key and value."""
_BUCKET = 16


class Drained(NamedTuple):
    """How often one thing happened since the last drain."""

    slot: int
    kind: int
    family: int
    direction: int
    protocol: int
    reason: int
    flow: bytes
    """All zeros: counted per pod. Else a flow's ports, from the fifth byte on, and its addresses."""
    packets: int


def map_bytes(entries: int, cpus: int) -> int:
    """Kernel memory of one; a hash table that is allocated beforehand has a spare element for each CPU."""
    return (entries + cpus) * _ELEMENT + entries * _BUCKET


class EventMaps:
    """Both tables."""

    def __init__(self, fds: Sequence[int], entries: int) -> None:
        self._lib = libbpf.load()
        self._fds = fds
        self._keys = (ctypes.c_uint64 * entries)()
        self._values = (Events * entries)()

    def drain(self, buffer: int) -> Iterator[Drained]:
        """Takes all entries of a buffer that no program writes any more, so that it is empty afterwards."""
        reached, start, ended = ctypes.c_uint32(), None, False
        while not ended:
            count = ctypes.c_uint32(len(self._keys))
            arguments = self._fds[buffer], start, ctypes.byref(reached), self._keys, self._values
            # What was taken is right also where there was no more.
            ended = self._lib.map_take_batch(*arguments, ctypes.byref(count), None) is None
            values = memoryview(self._values).cast("B")[: count.value * ctypes.sizeof(Events)]
            yield from map(Drained._make, iter_unpack(FORMAT, values))
            start = ctypes.byref(reached)
