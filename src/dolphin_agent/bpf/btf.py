"""What the kernel's BTF, or an object's, says of an enum."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int32, c_uint32
from typing import TYPE_CHECKING

from dolphin_agent.bpf import libbpf
from dolphin_agent.bpf.kernel import VMLINUX_BTF

if TYPE_CHECKING:
    from pathlib import Path

_ENUM = 6
"""BTF_KIND_ENUM (linux/btf.h)."""


class _Enumerator(ctypes.Structure):
    """struct btf_enum."""

    _fields_ = (("name_off", c_uint32), ("val", c_int32))


def enumerators(name: str, path: Path = VMLINUX_BTF) -> dict[int, str]:
    """The names of an enum's values; of two with the same value the first. Empty where there is no such enum.

    Raises BpfError when the BTF cannot be read.
    """
    lib = libbpf.load()
    btf = lib.btf_parse(str(path).encode(), None)
    try:
        number = lib.btf_find(btf, name.encode(), _ENUM)
        if number is None:
            return {}
        found = lib.btf_type(btf, number)
        count = found.contents.info & 0xFFFF
        values = ctypes.cast(ctypes.byref(found.contents, ctypes.sizeof(libbpf.BtfType)), POINTER(_Enumerator * count))
        named: dict[int, str] = {}
        for one in values.contents:
            named.setdefault(one.val, lib.btf_name(btf, one.name_off).decode())
        return named
    finally:
        lib.btf_free(btf)
