"""The tables of flows as user space sees them: how large they are, and what a drain takes out of them."""

from __future__ import annotations

import ctypes
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import (
    IPV4_KEY,
    IPV6_KEY,
    Family,
    Flow4,
    Flow6,
    FlowConfig,
    Sample4,
    Sample6,
    TableSize,
)
from dolphin_agent.bpf.table_map import TableMap, table_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

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

    def __init__(self, name: str, entries: int, cpus: int, found: Map) -> None:
        self.name = name
        self._tables = TableMap(cpus, entries, ENTRIES[name], found)

    def fill(self, buffer: int) -> float:
        """The share of the fullest CPU's table that is used."""
        return self._tables.fill(buffer)

    def drain(self, buffer: int) -> DrainedTable:
        """Takes all entries of a buffer that no program writes any more, and clears it."""
        drained = DrainedTable(self.name)
        drained.chunks.extend(self._tables.drain(buffer))
        return drained

    def close(self) -> None:
        """Unmaps it."""
        self._tables.close()


def value_size(name: str, entries: int) -> int:
    """Bytes of a table: header and entries."""
    return table_bytes(entries, ENTRIES[name])
