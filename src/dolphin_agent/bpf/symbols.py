"""The functions that addresses of code are in.

/proc/kallsyms shows addresses only to those with CAP_SYSLOG, which the agent does without. A BPF iterator may print
them by name as the kernel does in a backtrace (ebpf/symbol.bpf.c), with what the agent has anyway.
"""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING

from dolphin_agent.bpf import libbpf
from dolphin_agent.bpf.object import Object, objects_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

HOOK = "iter/bpf_map"

ASKED = 32
"""Addresses at a time, as in ebpf/symbol.bpf.c."""

_SYMBOL = re.compile(r"([A-Za-z_]\w*)(?:\.[\w.]+)?\+0x")
"""What is printed: `ip_forward+0x1b2/0x4c0`, of a module's with its name behind; the compiler's suffix is left out."""


def resolve(addresses: Sequence[int]) -> list[str]:
    """The name of the function that each address, of an instruction behind a call, is in; empty where there is none.

    At most ASKED at a time. Raises BpfError.
    """
    lib = libbpf.load()
    with Object(objects_directory() / "symbol.bpf.o") as symbols:
        symbols.load(["name_symbols"])
        (asked,) = (one for one in symbols.maps() if one.role == "asked")
        for index, address in enumerate(addresses):
            key, value = ctypes.c_uint32(index), ctypes.c_uint64(address)
            lib.map_update(asked.fd, ctypes.byref(key), ctypes.byref(value), 0)
        lines = symbols.read("name_symbols").splitlines()
    return [found[1] if (found := _SYMBOL.match(line)) else "" for line in lines]
