"""Which BPF programs the kernel holds, whoever loaded them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

_NUMBERS = {"x86_64": 321, "aarch64": 280}
"""Numbers of the system call bpf(2)."""

_PROG_GET_NEXT_ID = 11
_LIBC = ctypes.CDLL(None, use_errno=True)


class _NextId(ctypes.Structure):
    """The part of union bpf_attr that walks over identifiers."""

    _fields_ = (("start", ctypes.c_uint32), ("next", ctypes.c_uint32), ("flags", ctypes.c_uint32))


def program_ids() -> frozenset[int]:
    """Return the identifiers of all loaded BPF programs; raises OSError, EPERM without CAP_SYS_ADMIN."""
    found: set[int] = set()
    attributes = _NextId()
    number = _NUMBERS[platform.machine()]
    size = ctypes.sizeof(attributes)
    while _LIBC.syscall(number, _PROG_GET_NEXT_ID, ctypes.byref(attributes), size) == 0:
        found.add(attributes.next)
        attributes.start = attributes.next
    if (code := ctypes.get_errno()) != errno.ENOENT:
        raise OSError(code, f"BPF_PROG_GET_NEXT_ID: {os.strerror(code)}")
    return frozenset(found)
