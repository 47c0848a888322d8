"""Maps whose elements are open-addressed hash tables, each one a struct flow_table and its entries."""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import CPU_PARTITIONS, FlowTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dolphin_agent.bpf.object import Map

_CHUNK = 64
"""Entries compared with zeros at a time: most of a table is unused, and memcmp is quick."""


class TableMap:
    """One of them, in this process's memory: a table for each group (a CPU, for one) and buffer."""

    def __init__(self, groups: int, entries: int, entry: type[ctypes.Structure], found: Map) -> None:
        """Its elements: the buffers of the first group, then those of the next one; each with so many entries."""
        self._groups = groups
        self._entries = entries
        self._value = table_bytes(entries, entry)
        self._chunk = ctypes.sizeof(entry) * _CHUNK
        self._zeros = bytes(self._chunk)
        self._memory = mmap.mmap(found.fd, found.size)
        self._headers = [
            [self._header((group * CPU_PARTITIONS + buffer) * self._value) for buffer in range(CPU_PARTITIONS)]
            for group in range(groups)
        ]

    def _header(self, offset: int) -> FlowTable:
        return FlowTable.from_buffer(self._memory, offset)

    def fill(self, buffer: int) -> float:
        """The share of the fullest table that is used."""
        used: int = max(headers[buffer].used for headers in self._headers)
        return used / self._entries

    def drain(self, buffer: int) -> Iterator[bytes]:
        """Takes all entries of a buffer that no program writes any more, unused ones between them, and clears it."""
        for group, headers in enumerate(self._headers):
            if not headers[buffer].used:
                continue
            start = (group * CPU_PARTITIONS + buffer) * self._value
            yield from self._used_chunks(start + ctypes.sizeof(FlowTable), start + self._value)
            self._memory[start : start + self._value] = bytes(self._value)

    def _used_chunks(self, start: int, end: int) -> Iterator[bytes]:
        for offset in range(start, end, self._chunk):
            chunk = self._memory[offset : min(offset + self._chunk, end)]
            if chunk != self._zeros:
                yield chunk

    def close(self) -> None:
        """Unmaps it."""
        self._headers.clear()
        self._memory.close()


def table_bytes(entries: int, entry: type[ctypes.Structure]) -> int:
    """Of a table: header and entries."""
    return ctypes.sizeof(FlowTable) + entries * ctypes.sizeof(entry)
