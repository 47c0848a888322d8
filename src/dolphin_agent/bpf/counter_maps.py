"""The counters of pods: ebpf/include/state.bpf.h's maps with an element for each CPU and buffer."""

from __future__ import annotations

import ctypes
import mmap
from operator import add
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import CPU_PARTITIONS, SLOTS, MorePartition, Partition

if TYPE_CHECKING:
    from dolphin_agent.bpf.object import Map

_WORD = ctypes.sizeof(ctypes.c_int64)
MAPS = {
    name: ctypes.sizeof(layout) // _WORD // SLOTS
    for name, layout in (("partitions", Partition), ("more_partitions", MorePartition))
}
"""Map -> words of a slot in it, in the order of the kinds."""


class CounterMap:
    """One of them, as memory."""

    def __init__(self, name: str, cpus: int, found: Map) -> None:
        self.size = MAPS[name]
        """Words of a slot."""
        self._cpus = cpus
        self._memory = mmap.mmap(found.fd, found.size)
        # With a sign: what a pod forwards is taken back, and the buffers may have been flipped since it was counted.
        self._words = memoryview(self._memory).cast("q")

    def drain(self, buffer: int, slots: int) -> list[int]:
        """Takes the words of slots 0 to `slots` - 1, flat, added up over the CPUs, from a buffer that nobody writes."""
        length = slots * self.size
        zeros = memoryview(bytes(length * _WORD)).cast("q")
        total = [0] * length
        for cpu in range(self._cpus):
            start = (cpu * CPU_PARTITIONS + buffer) * SLOTS * self.size
            part = self._words[start : start + length]
            total = list(map(add, total, part))
            part[:] = zeros
        return total

    def close(self) -> None:
        """Unmaps it."""
        self._words.release()
        self._memory.close()
