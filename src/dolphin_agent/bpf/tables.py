"""The maps that all objects share, as memory: the pod filter, what is wanted, and the counters."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from operator import add
from typing import TYPE_CHECKING

from dolphin_agent.bpf import libbpf
from dolphin_agent.bpf.layouts import (
    CPU_PARTITIONS,
    NETNS_FIRST,
    NETNS_NUMBERS,
    SLOTS,
    AgentState,
    Family,
    Kind,
    Partition,
)
from dolphin_agent.bpf.object import Object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dolphin_agent.bpf.object import Map

ARRAY = 2
ARRAY_OF_MAPS = 12
WORDS_PER_SLOT = ctypes.sizeof(Partition) // ctypes.sizeof(ctypes.c_uint64) // SLOTS
ANY = 0


def word(kind: Kind, family: Family) -> int:
    """Index of a counter's packets in a slot's words; its bytes come next."""
    return (kind * len(Family) + family) * 2


class Tables:
    """Owns the maps; the kernel's programs write counters, this process writes everything else.

    Raises BpfError when the kernel refuses the maps: no CAP_BPF, or not enough memory.
    """

    def __init__(self, objects: Path) -> None:
        self._lib = libbpf.load()
        self._cpus = int(self._lib.num_possible_cpus())
        with contextlib.ExitStack() as stack:
            self._object = stack.enter_context(Object(objects / "state.bpf.o"))
            maps = {m.role: m for m in self._object.maps()}
            maps["partitions"].resize(CPU_PARTITIONS * self._cpus)
            self._object.load(())
            self._grace = GracePeriod()
            stack.callback(self._grace.close)
            self._map_memory(maps)
            self._close = stack.pop_all().close

    def _map_memory(self, maps: Mapping[str, Map]) -> None:
        self.fds = {role: m.fd for role, m in maps.items()}
        """Name of each shared map -> its file descriptor, for Object.reuse."""
        self._overflow = self.fds["slot_overflow"]
        self._state_memory = mmap.mmap(self.fds[".bss"], maps[".bss"].size)
        self._state = AgentState.from_buffer(self._state_memory)
        self._partition_memory = mmap.mmap(self.fds["partitions"], maps["partitions"].size)
        self._words = memoryview(self._partition_memory).cast("Q")
        self.memory_bytes = sum(m.size for m in maps.values())
        """Kernel memory of the array maps, known before any pod is watched."""

    def close(self) -> None:
        """Frees the maps; programs that use them must be detached before."""
        self._words.release()
        self._partition_memory.close()
        del self._state
        self._state_memory.close()
        self._close()

    def slot_of(self, netns: int) -> int:
        """The slot that a namespace number counts in now; 0 when none, also after the kernel cleared it."""
        index = netns - NETNS_FIRST
        if 0 <= index < NETNS_NUMBERS:
            return int(self._state.slot[index])
        value = ctypes.c_uint32()
        found = self._lib.map_lookup(self._overflow, ctypes.byref(ctypes.c_uint32(netns)), ctypes.byref(value))
        return 0 if found is None else int(value.value)

    def assign(self, netns: int, slot: int) -> None:
        """Counts a namespace's traffic in a slot from now on; slot 0 stops it."""
        index = netns - NETNS_FIRST
        if 0 <= index < NETNS_NUMBERS:
            self._state.slot[index] = slot
            return
        key = ctypes.byref(ctypes.c_uint32(netns))
        if slot:
            self._lib.map_update(self._overflow, key, ctypes.byref(ctypes.c_uint32(slot)), ANY)
        elif self.slot_of(netns):
            self._lib.map_delete(self._overflow, key)

    def want(self, slot: int, kinds: int) -> None:
        """Sets the kinds counted for a slot, one bit each."""
        self._state.wants[slot] = kinds

    @property
    def without_partition(self) -> int:
        """Events lost so far on CPUs beyond the possible ones: stays 0 unless libbpf counts CPUs wrongly."""
        return int(self._state.no_partition)

    def drain(self, slots: int) -> list[int]:
        """Takes what was counted since the last drain, for slots 0 to `slots` - 1.

        Shape: `slots` x KINDS x families x (packets, bytes), flat, added up over the CPUs. Flips the buffers, waits
        until no program can still write the old one, and clears it: nothing is read twice or torn.
        """
        old = self._state.active
        self._state.active = old ^ 1
        self._grace.wait()
        length = slots * WORDS_PER_SLOT
        stride = len(self._words) // (CPU_PARTITIONS * self._cpus)
        zeros = memoryview(bytes(length * 8)).cast("Q")
        total = [0] * length
        for cpu in range(self._cpus):
            start = (cpu * CPU_PARTITIONS + old) * stride
            part = self._words[start : start + length]
            total = list(map(add, total, part))
            part[:] = zeros
        return total


class GracePeriod:
    """Waits until every BPF program that runs now has ended.

    Updating a map of maps does that: the kernel calls synchronize_rcu() there, so that user space knows the old inner
    map is out of use (kernel/bpf/syscall.c, maybe_wait_bpf_programs). membarrier(GLOBAL) would too, but not on nodes
    booted with nohz_full.
    """

    def __init__(self) -> None:
        self._lib = libbpf.load()
        self._inner = self._lib.map_create(ARRAY, b"grace_inner", 4, 4, 1, None)
        options = libbpf.MapCreateOpts(inner_map_fd=self._inner)
        self._outer = self._lib.map_create(ARRAY_OF_MAPS, b"grace", 4, 4, 1, ctypes.byref(options))

    def wait(self) -> None:
        """Blocks for 3-30 ms, without holding the GIL."""
        key, inner = ctypes.c_uint32(0), ctypes.c_uint32(self._inner)
        self._lib.map_update(self._outer, ctypes.byref(key), ctypes.byref(inner), ANY)

    def close(self) -> None:
        """Frees both maps."""
        os.close(self._outer)
        os.close(self._inner)
