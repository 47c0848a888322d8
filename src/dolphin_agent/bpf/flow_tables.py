"""The tables of flows as user space sees them: how large they are, and what a drain takes out of them."""

from __future__ import annotations

import ctypes
import mmap
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import (
    CPU_PARTITIONS,
    IPV4_KEY,
    IPV6_KEY,
    Family,
    Flow4,
    Flow6,
    FlowConfig,
    FlowTable,
    Sample4,
    Sample6,
    TableSize,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dolphin_agent.bpf.object import Map

ENTRIES: dict[str, type[ctypes.Structure]] = {
    "flows4": Flow4,
    "flows6": Flow6,
    "samples4": Sample4,
    "samples6": Sample6,
}
"""Map name -> the struct of its entries."""

MIN_ENTRIES = 2048
MAX_ENTRIES = 32768
"""Of flows4, per CPU and buffer: 1.5 MiB. No kernel takes a value above 4 MiB (5.10)."""
_CHUNK = 64
"""Entries compared with zeros at a time: most of a table is unused, and memcmp is quick."""


@dataclass(frozen=True)
class Limits:
    """What bounds the detail kept per flow."""

    max_flows: int = 20_000
    """Flow records on the node; one for each flow and direction."""
    fold_ports: bool = True


def entries_per_cpu(max_flows: int, cpus: int) -> dict[str, int]:
    """Entries of each table, per CPU and buffer: powers of two.

    A flow's packets arrive on one or two CPUs, but which ones nobody knows: four times an even share, and never more
    than what all flows need at half load. IPv6 has half of the entries, as they are half again as large, and samples
    have half, as only TCP has any.
    """
    fair = min(4 * max_flows // cpus, 2 * max_flows)
    flows4 = max(MIN_ENTRIES, min(MAX_ENTRIES, 1 << (fair - 1).bit_length()))
    return {"flows4": flows4, "flows6": flows4 // 2, "samples4": flows4 // 2, "samples6": flows4 // 4}


def make_config(entries: Mapping[str, int], *, fold_ports: bool) -> FlowConfig:
    """The constants of the programs; the hash's factors are new at every call."""
    config = FlowConfig(fold_ports=fold_ports)
    for index in range(len(config.factors)):
        config.factors[index] = secrets.randbits(64) | 1
    for name, count in entries.items():
        setattr(config, name, TableSize(mask=count - 1, shift=64 - (count - 1).bit_length()))
    return config


class DrainedTable:
    """What one table held on all CPUs: the used entries as bytes, to be unpacked by whoever adds them up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.family = Family.IPV4 if name.endswith("4") else Family.IPV6
        key = 8 * (IPV4_KEY if self.family is Family.IPV4 else IPV6_KEY)
        counters = (ctypes.sizeof(ENTRIES[name]) - key) // 8
        self.format = f"<{key}s{counters}q"
        """For struct.iter_unpack: the key, then the counters.

        These have a sign: what a pod forwards is taken back, and buffers may have been flipped since it was counted.
        """
        self.unused = bytes(key)
        """The key of an entry that holds nothing."""
        self.chunks: list[bytes] = []


class FlowMap:
    """One of the maps, in this process's memory."""

    def __init__(self, name: str, entries: int, cpus: int, bpf_map: Map) -> None:
        self.name = name
        self._cpus = cpus
        self._entries = entries
        self._value = value_size(name, entries)
        self._chunk = ctypes.sizeof(ENTRIES[name]) * _CHUNK
        self._zeros = bytes(self._chunk)
        self._memory = mmap.mmap(bpf_map.fd, bpf_map.size)
        self._headers = [
            [self._header((cpu * CPU_PARTITIONS + buffer) * self._value) for buffer in range(CPU_PARTITIONS)]
            for cpu in range(cpus)
        ]

    def _header(self, offset: int) -> FlowTable:
        return FlowTable.from_buffer(self._memory, offset)

    def fill(self, buffer: int) -> float:
        """The share of the fullest CPU's table that is used."""
        used: int = max(headers[buffer].used for headers in self._headers)
        return used / self._entries

    def drain(self, buffer: int) -> DrainedTable:
        """Takes all entries of a buffer that no program writes any more, and clears it."""
        drained = DrainedTable(self.name)
        for cpu, headers in enumerate(self._headers):
            if not headers[buffer].used:
                continue
            start = (cpu * CPU_PARTITIONS + buffer) * self._value
            first = start + ctypes.sizeof(FlowTable)
            drained.chunks.extend(self._used_chunks(first, start + self._value))
            self._memory[start : start + self._value] = bytes(self._value)
        return drained

    def _used_chunks(self, start: int, end: int) -> Iterator[bytes]:
        for offset in range(start, end, self._chunk):
            chunk = self._memory[offset : min(offset + self._chunk, end)]
            if chunk != self._zeros:
                yield chunk

    def close(self) -> None:
        """Unmaps it."""
        self._headers.clear()
        self._memory.close()


def value_size(name: str, entries: int) -> int:
    """Bytes of a table: header and entries."""
    return ctypes.sizeof(FlowTable) + entries * ctypes.sizeof(ENTRIES[name])
