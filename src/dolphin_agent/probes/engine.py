"""Moves the kernel from what is attached and counted to what the plan wants, by difference, and reads the counts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from dolphin_agent.bpf import kernel
from dolphin_agent.bpf.layouts import EVENT_KINDS, SLOTS, Kind
from dolphin_agent.bpf.object import objects_directory
from dolphin_agent.bpf.tables import Tables
from dolphin_agent.errors import BpfError
from dolphin_agent.probes import ladder
from dolphin_agent.probes.items import EVENT_COUNTERS, ITEMS, NETNS_EXIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.bpf import events
    from dolphin_agent.bpf.flow_tables import DrainedTable, Limits
    from dolphin_agent.pods.backend import BackendKey
    from dolphin_agent.probes.items import Ladder, Probe
    from dolphin_agent.probes.ladder import Attached, Choice, Refusal
    from dolphin_agent.probes.plan import Plan

log = structlog.get_logger()

Counts = list[int]
"""What one backend counted: KINDS x families x (packets, bytes), flat."""


@dataclass(frozen=True)
class Drain:
    """What was counted since the last one."""

    pods: Mapping[BackendKey, Counts] = field(default_factory=dict)
    """What is not in the tables, events left out."""
    owners: Mapping[int, BackendKey] = field(default_factory=dict)
    """Slot -> the backend that the keys of tables and events mean by it."""
    tables: tuple[DrainedTable, ...] = ()
    events: tuple[events.Drained, ...] = ()


@dataclass(frozen=True)
class EngineStatus:
    """What the kernel side does now; immutable, for other threads."""

    choices: tuple[Choice, ...] = ()
    guard: Refusal | None = None
    """Why the namespace guard is not attached although pods are watched; None where it is, or nothing is."""
    hooks: tuple[str, ...] = ()
    """Hooks attached now."""
    without_slot: tuple[BackendKey, ...] = ()
    """Backends beyond the table: not counted."""
    backends: int = 0
    kinds: frozenset[Kind] = frozenset()
    """What is really counted."""
    fault: str = ""
    """Why nothing at all can be counted, such as a kernel without BTF."""


@dataclass
class _Lost:
    """Events lost so far, those of tables that are closed already included."""

    without_partition: int = 0
    without_sample: int = 0
    without_event: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(EVENT_KINDS, 0))

    def add(self, tables: Tables) -> None:
        """What these have lost."""
        self.without_partition += tables.without_partition
        self.without_sample += tables.without_sample
        for kind, lost in tables.without_event.items():
            self.without_event[kind] += lost


class Engine:
    """Owns everything in the kernel. Used by one thread."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits
        self._tables: Tables | None = None
        self._climber = ladder.Climber(self._attach)
        self._slots: dict[BackendKey, int] = {}
        self._free: list[int] = []
        self._retired: list[tuple[BackendKey, int]] = []
        self._closed = _Lost()
        self._asked: set[Ladder] = set()
        """Those that were ever wanted: only of their items can anything be lost."""
        self.status = EngineStatus()

    def apply(self, plan: Plan) -> None:
        """Attaches, then watches, then forgets, then detaches: untouched backends never notice.

        Never raises for what the kernel refuses; `status` says it.
        """
        try:
            tables = self._open() if plan.wants else self._tables
        except BpfError as fault:
            self.status = EngineStatus(fault=str(fault))
            log.exception("nothing can be counted", reason=str(fault), log=fault.log)
            return
        if tables is None:
            return
        self._asked.update(plan.ladders)
        self._climber.climb(dict.fromkeys((*plan.ladders, *self._climber.choices)), always=(NETNS_EXIT,))
        without_slot = self._watch(tables, plan)
        watched = {netns for _, netns, _ in self._slots}
        # There is room for as many addresses as for pods.
        tables.locate(plan.node, {address: netns for address, netns in plan.addresses.items() if netns in watched})
        self._climber.climb(plan.ladders, always=(NETNS_EXIT,) if plan.wants else ())
        self.status = EngineStatus(
            choices=tuple(self._climber.choices.values()),
            guard=self._climber.refusal(NETNS_EXIT) if plan.wants else None,
            hooks=tuple(program.hook for probe in self._climber.probes for program in probe.programs),
            without_slot=tuple(without_slot),
            backends=len(self._slots),
            kinds=frozenset(k for c in self._climber.choices.values() if c.rung for k in c.ladder.kinds),
        )
        if not plan.wants:
            self._close_tables()

    def drain(self) -> Drain:
        """What every backend counted since the last drain."""
        if self._tables is None:
            return Drain()
        owners = {slot: key for key, slot in (*self._slots.items(), *self._retired)}
        drained = self._tables.drain(max(owners, default=0) + 1)
        # Retired before this flip, so that no program can still be on its way to their slot after it.
        self._free.extend(slot for _, slot in self._retired)
        self._retired = []
        pods = {key: drained.words(slot) for slot, key in owners.items()}
        return Drain(pods, owners, drained.tables, drained.events)

    @property
    def has_room(self) -> bool:
        """Whether backends that found no slot would find one now: slots given up are free after the next drain."""
        return bool(self.status.without_slot and (self._free or self._retired))

    def fill(self) -> float:
        """The share in use of the fullest flow table."""
        return self._tables.fill() if self._tables else 0.0

    @property
    def map_bytes(self) -> int:
        """Kernel memory of the counters now; 0 while nobody asks for anything."""
        return self._tables.memory_bytes if self._tables else 0

    def died(self) -> set[BackendKey]:
        """Backends whose namespace the kernel has seen dying since they were assigned."""
        if self._tables is None:
            return set()
        return {key for key, slot in self._slots.items() if self._tables.slot_of(key[1]) != slot}

    def lost(self) -> dict[tuple[str, str], int]:
        """Events that may be missing, by (item, reason), since the agent started: upper bounds. `all`: of any item.

        Items that nobody has asked for yet are not there.
        """
        misses = self._climber.misses()
        lost = copy.deepcopy(self._closed)
        if self._tables:
            lost.add(self._tables)
        found: dict[tuple[str, str], int] = {("all", "no_partition"): lost.without_partition}
        for item in (item for item in ITEMS if self._asked.intersection(item.ladders)):
            found[item.name, "recursion_misses"] = sum(misses.get(probe, 0) for probe in item.probes)
            parts = {kind for kind, one in EVENT_COUNTERS.items() if one.part_of in item.kinds}
            if kinds := (parts | set(item.kinds)) & lost.without_event.keys():
                found[item.name, "table_full"] = sum(lost.without_event[kind] for kind in kinds)
            if Kind.TCP_RTT in item.kinds:
                found[item.name, "table_full"] = lost.without_sample
        return found

    def close(self) -> None:
        """Detaches and frees everything."""
        self._climber.close()
        self._close_tables()

    def _open(self) -> Tables:
        if self._tables is None:
            kernel.require_privileges()
            kernel.require_btf()
            self._tables = Tables(objects_directory(), self._limits)
            self._free = list(range(SLOTS - 1, 0, -1))
        return self._tables

    def _close_tables(self) -> None:
        if self._tables is not None:
            self._closed.add(self._tables)
            self._tables.close()
        self._tables = None
        self._slots, self._retired = {}, []

    def _attach(self, probe: Probe) -> Attached:
        return ladder.attach(probe, self._open())

    def _watch(self, tables: Tables, plan: Plan) -> list[BackendKey]:
        """Makes the filter and the wants what the plan says. Returns the backends for which there is no slot."""
        for key in [key for key in self._slots if key not in plan.wants]:
            slot = self._slots.pop(key)
            tables.want(key[1], slot, 0)
            self._retired.append((key, slot))
        without_slot = []
        for key, kinds in plan.wants.items():
            if key in self._slots:
                tables.want(key[1], self._slots[key], kinds)
            elif self._free:
                slot = self._slots[key] = self._free.pop()
                tables.watch(key[1], slot, kinds)
            else:
                without_slot.append(key)
        return without_slot
