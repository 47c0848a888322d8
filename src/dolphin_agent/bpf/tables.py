"""The maps that all objects share, as memory: the pod filter, what is wanted, and the counters."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.bpf import counter_maps, events, kernel, libbpf, memory
from dolphin_agent.bpf.counter_maps import CounterMap
from dolphin_agent.bpf.events import EventMap
from dolphin_agent.bpf.flow_tables import FlowMap, Limits, entries_per_cpu, make_config, value_size
from dolphin_agent.bpf.layouts import (
    CPU_PARTITIONS,
    EVENT_KINDS,
    NETNS_FIRST,
    NETNS_NUMBERS,
    Address,
    AgentState,
    Family,
    Kind,
    Watched,
)
from dolphin_agent.bpf.memory import MIB
from dolphin_agent.bpf.object import ARRAY, Object
from dolphin_agent.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dolphin_agent.bpf.flow_tables import DrainedTable
    from dolphin_agent.bpf.object import Map

ARRAY_OF_MAPS = 12
WORDS_PER_SLOT = sum(counter_maps.MAPS.values())
ANY = 0
_IPV4 = 4
EXISTING = 2


def word(kind: Kind, family: Family) -> int:
    """Index of a counter's packets in a slot's words; its bytes come next."""
    return (kind * len(Family) + family) * 2


class Drained(NamedTuple):
    """What was counted since the last drain."""

    counters: dict[str, list[int]]
    """Per pod: map -> slots x its words, flat."""
    tables: tuple[DrainedTable, ...]
    """Per flow."""
    events: tuple[events.Drained, ...]
    """By reason, per pod or per flow."""

    def words(self, slot: int) -> list[int]:
        """Of one slot: KINDS x families x (packets, bytes), flat."""
        sizes = counter_maps.MAPS.items()
        return [number for name, size in sizes for number in self.counters[name][slot * size : (slot + 1) * size]]


class Tables:
    """Owns the maps; the kernel's programs write counters, this process writes everything else.

    Raises BpfError when the kernel refuses the maps: no CAP_BPF, or not enough memory.
    """

    def __init__(self, objects: Path, limits: Limits | None = None) -> None:
        self._lib = libbpf.load()
        self._directory = objects
        self._cpus = int(self._lib.num_possible_cpus())
        limits = limits or Limits()
        self.entries = entries_per_cpu(limits.max_flows, self._cpus)
        """Table name -> entries per CPU and buffer."""
        self._config = make_config(self.entries, fold_ports=limits.fold_ports)
        with contextlib.ExitStack() as stack:
            self._object = stack.enter_context(self.open("state"))
            maps = {m.role: m for m in self._object.maps()}
            for name in counter_maps.MAPS:
                maps[name].resize(CPU_PARTITIONS * self._cpus)
            for name, entries in self.entries.items():
                maps[name].resize(CPU_PARTITIONS * self._cpus, value_size(name, entries))
            self.memory_bytes = sum(m.size for m in maps.values() if m.is_array)
            """Kernel memory of the counters, known before any pod is watched."""
            self._load()
            self._grace = GracePeriod()
            stack.callback(self._grace.close)
            self._map_memory(maps)
            self._close = stack.pop_all().close

    def _load(self) -> None:
        room = memory.headroom() if kernel.charges_maps() else None
        if room is not None and room < self.memory_bytes:
            raise self._too_little(errno.ENOMEM, f"the memory limit leaves {room / MIB:.1f} MiB")
        try:
            self._object.load(())
        except BpfError as fault:
            if fault.errno not in (errno.ENOMEM, errno.EPERM):
                raise
            raise self._too_little(fault.errno, str(fault), fault.log) from fault

    def _too_little(self, code: int, reason: str, log: str = "") -> BpfError:
        remedy = (
            "raise the memory limit or lower --max-flows"
            if code == errno.ENOMEM
            else "kernels before 5.11 also bound maps by RLIMIT_MEMLOCK: raise it (LimitMEMLOCK=infinity), add "
            "CAP_SYS_RESOURCE, or lower --max-flows"
        )
        needed = f"the maps need {self.memory_bytes / MIB:.1f} MiB of kernel memory"
        return BpfError(f"{reason}; {needed}: {remedy}", errno=code, log=log)

    def open(self, source: str) -> Object:
        """Opens an object, the cheaper build of it where the kernel has what that needs, with its constants set.

        Raises BpfError.
        """
        suffix = ".cast.bpf.o" if kernel.has_rdonly_cast() else ".bpf.o"
        opened = Object(self._directory / f"{source}{suffix}")
        try:
            opened.configure(".rodata.config", self._config)
        except BpfError:
            opened.close()
            raise
        return opened

    def _map_memory(self, maps: Mapping[str, Map]) -> None:
        self.fds = {role: m.fd for role, m in maps.items() if not role.startswith(".rodata")}
        """Name of each shared map -> its file descriptor, for Object.reuse."""
        self._overflow = self.fds["watched_overflow"]
        self._addresses: dict[str, int] = {}
        self._state_memory = mmap.mmap(self.fds[".bss"], maps[".bss"].size)
        self._state = AgentState.from_buffer(self._state_memory)
        self._counters = {name: CounterMap(name, self._cpus, maps[name]) for name in counter_maps.MAPS}
        self._flows = [FlowMap(name, entries, self._cpus, maps[name]) for name, entries in self.entries.items()]
        self._events = EventMap(maps[events.MAP])

    def close(self) -> None:
        """Frees the maps; programs that use them must be detached before."""
        self._events.close()
        for flow_map in self._flows:
            flow_map.close()
        for counter_map in self._counters.values():
            counter_map.close()
        del self._state
        self._state_memory.close()
        self._close()

    def slot_of(self, netns: int) -> int:
        """The slot that a namespace number counts in now; 0 when none, also after the kernel cleared it."""
        index = netns - NETNS_FIRST
        if 0 <= index < NETNS_NUMBERS:
            return int(self._state.watched[index].slot)
        value = Watched()
        found = self._lib.map_lookup(self._overflow, ctypes.byref(ctypes.c_uint32(netns)), ctypes.byref(value))
        return 0 if found is None else int(value.slot)

    def watch(self, netns: int, slot: int, kinds: int) -> None:
        """Counts a namespace's traffic in a slot from now on: Kind.counted and Kind.per_flow bits."""
        index = netns - NETNS_FIRST
        if 0 <= index < NETNS_NUMBERS:
            # In this order: what has no slot yet counts nowhere.
            self._state.watched[index].slot = slot
            self._state.watched[index].wants = kinds
        else:
            self._update(netns, Watched(kinds, slot), ANY)

    def want(self, netns: int, slot: int, kinds: int) -> None:
        """Changes what is counted of a namespace that is watched in a slot; 0: nothing, and it gives up the slot.

        Nothing happens if the namespace has died meanwhile, even if its number is another one's by now.
        """
        index = netns - NETNS_FIRST
        if self.slot_of(netns) != slot:
            return
        if 0 <= index < NETNS_NUMBERS:
            self._state.watched[index].wants = kinds
            if not kinds:
                self._state.watched[index].slot = 0
            return
        try:
            if kinds:
                self._update(netns, Watched(kinds, slot), EXISTING)
            else:
                self._lib.map_delete(self._overflow, ctypes.byref(ctypes.c_uint32(netns)))
        except BpfError as fault:
            if fault.errno != errno.ENOENT:
                raise

    def locate(self, node: int, addresses: Mapping[str, int]) -> None:
        """Says in which namespace, by its number, each address is, and which one is the node's own."""
        self._state.node = node
        for address in self._addresses.keys() - addresses.keys():
            self._lib.map_delete(self.fds["addresses"], ctypes.byref(_packed(address)))
        for address, netns in addresses.items():
            if self._addresses.get(address) != netns:
                value = ctypes.c_uint32(netns)
                self._lib.map_update(self.fds["addresses"], ctypes.byref(_packed(address)), ctypes.byref(value), ANY)
        self._addresses = dict(addresses)

    def _update(self, netns: int, value: Watched, flags: int) -> None:
        self._lib.map_update(self._overflow, ctypes.byref(ctypes.c_uint32(netns)), ctypes.byref(value), flags)

    @property
    def without_partition(self) -> int:
        """Events lost so far on CPUs beyond the possible ones: stays 0 unless libbpf counts CPUs wrongly."""
        return int(self._state.no_partition)

    @property
    def without_sample(self) -> int:
        """RTT samples lost so far: their table was full, or in use by the program they interrupted."""
        return int(self._state.no_sample)

    @property
    def without_event(self) -> dict[Kind, int]:
        """Events lost so far, as their table was full."""
        return {kind: int(self._state.no_event[kind]) for kind in EVENT_KINDS}

    def fill(self) -> float:
        """The share in use of the fullest table: of flows, what does not fit any more loses its detail."""
        active = self._state.active & 1
        return max(self._events.fill(active), *(flow_map.fill(active) for flow_map in self._flows))

    def drain(self, slots: int) -> Drained:
        """Takes what was counted since the last drain; of pods, for slots 0 to `slots` - 1.

        Flips the buffers, waits until no program can still write the old one, and clears it: nothing is read twice or
        torn.
        """
        old = self._state.active & 1
        self._state.active = old ^ 1
        self._grace.wait()
        return Drained(
            {name: counter_map.drain(old, slots) for name, counter_map in self._counters.items()},
            tuple(flow_map.drain(old) for flow_map in self._flows),
            tuple(self._events.drain(old)),
        )


def _packed(address: str) -> Address:
    """As a packet has it; an IPv4 address is one of ::ffff:0:0/96."""
    found = ipaddress.ip_address(address)
    prefix = bytes(10) + b"\xff\xff" if found.version == _IPV4 else b""
    return Address.from_buffer_copy(prefix + found.packed)


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
