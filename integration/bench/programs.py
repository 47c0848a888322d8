"""What the kernel itself measures of each BPF program: how often it ran, and for how long."""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent.bpf import libbpf
from integration.lib import bpf

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
_LIBBPF = ctypes.CDLL(libbpf.LIBRARY, use_errno=True)


@dataclass(frozen=True, slots=True)
class Runs:
    """One reading, or the difference of two."""

    count: int = 0
    nanoseconds: int = 0
    """In a counted guest these are instructions, those of the measurement (50 to 85 a run) included."""

    def __sub__(self, earlier: Runs) -> Runs:
        """What happened since an earlier reading of the same program."""
        return Runs(self.count - earlier.count, self.nanoseconds - earlier.nanoseconds)


class Programs:
    """Programs by name, as they were when this was made."""

    def __init__(self, descriptors: dict[str, int]) -> None:
        self._descriptors = descriptors

    def read(self) -> dict[str, Runs]:
        """Read the statistics of each."""
        return {name: _runs(_info(descriptor)) for name, descriptor in self._descriptors.items()}


@contextmanager
def loaded() -> Iterator[Programs]:
    """Hold the programs that are loaded now; raises OSError, and AssertionError where two have one name."""
    with ExitStack() as stack:
        descriptors: dict[str, int] = {}
        for identifier in bpf.program_ids():
            descriptor = _LIBBPF.bpf_prog_get_fd_by_id(ctypes.c_uint32(identifier))
            if descriptor < 0:
                raise OSError(-descriptor, f"BPF program {identifier}: {os.strerror(-descriptor)}")
            stack.callback(os.close, descriptor)
            name = _info(descriptor).name.decode()
            if name in descriptors:
                raise AssertionError(f"two BPF programs are called {name}")
            descriptors[name] = descriptor
        yield Programs(descriptors)


@contextmanager
def statistics() -> Iterator[None]:
    """Have the kernel measure, which costs a little itself, for the length of a block."""
    _STATS.write_text("1\n")
    try:
        yield
    finally:
        _STATS.write_text("0\n")


def _info(descriptor: int) -> libbpf.ProgramInfo:
    info = libbpf.ProgramInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    libbpf.load().obj_get_info(descriptor, ctypes.byref(info), ctypes.byref(size))
    return info


def _runs(info: libbpf.ProgramInfo) -> Runs:
    return Runs(int(info.run_cnt), int(info.run_time_ns))
