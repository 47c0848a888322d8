"""libbpf's C functions: one line each, with its types and its error check.

Three checks cover the API (libbpf >= 1.0, `libbpf_set_strict_mode` rules): a negative int is -errno, a NULL pointer
leaves the reason in errno, and an iterator's NULL is its end. Call sites therefore hold no `if`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog

from dolphin_agent.bpf import log
from dolphin_agent.errors import BpfError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIBRARY = "libbpf.so.1"
REMEDY = "install libbpf 1.0 or newer (Debian and Ubuntu: apt-get install libbpf1)"


class BpfObject(ctypes.Structure):
    """struct bpf_object, opaque."""


class BpfProgram(ctypes.Structure):
    """struct bpf_program, opaque."""


class BpfMap(ctypes.Structure):
    """struct bpf_map, opaque."""


class BpfLink(ctypes.Structure):
    """struct bpf_link, opaque."""


class Btf(ctypes.Structure):
    """struct btf, opaque."""


class BtfType(ctypes.Structure):
    """struct btf_type (linux/btf.h); what it has follows."""

    _fields_ = (("name_off", c_uint32), ("info", c_uint32), ("size", c_uint32))


class Opts(ctypes.Structure):
    """Base of the `*_opts` structs: libbpf learns from `sz` which fields the caller knows; the rest counts as zero."""

    def __init__(self, **fields: int) -> None:
        super().__init__(**fields)
        self.sz = ctypes.sizeof(self)


class MapCreateOpts(Opts):
    """struct bpf_map_create_opts up to map_flags."""

    _fields_ = (
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
    )


class ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info up to `verified_insns` (linux/bpf.h).

    A kernel that knows less leaves the tail zero: `recursion_misses` reads 0 before 5.12.
    """

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
    )


LIBBPF_ERRNO_START = 4000
ENOTSUPP = 524
"""The kernel's own; it reaches user space by mistake and has no text there."""


def describe(code: int) -> str:
    """An errno, ENOTSUPP or code of libbpf's as text."""
    if code >= LIBBPF_ERRNO_START:
        return f"libbpf error {code}"
    return "Operation not supported by this kernel" if code == ENOTSUPP else os.strerror(code)


def negative_errno(result: int, func: Any, _args: object) -> int:  # noqa: ANN401 - ctypes calls it so
    """Check for functions that return -errno."""
    if result < 0:
        raise BpfError(f"{func.__name__}: {describe(-result)}", errno=-result)
    return result


def absent_errno(result: int, func: Any, args: object) -> int | None:  # noqa: ANN401
    """Check for lookups: -ENOENT means there is none."""
    return None if result == -errno.ENOENT else negative_errno(result, func, args)


def null_errno(result: Any, func: Any, _args: object) -> Any:  # noqa: ANN401
    """Check for functions that return NULL and set errno."""
    if not result:
        code = ctypes.get_errno()
        raise BpfError(f"{func.__name__}: {describe(code)}", errno=code)
    return result


def null_end(result: Any, _func: object, _args: object) -> Any:  # noqa: ANN401
    """Check for iterators, which cannot fail: NULL is the end, and errno is some earlier call's."""
    return result or None


class Libbpf:
    """The functions used, as attributes named like C's without their prefix."""

    def __init__(self, dll: ctypes.CDLL) -> None:
        def c(name: str, result: Any, args: Sequence[Any], check: Callable[[Any, Any, Any], Any] | None = None) -> Any:  # noqa: ANN401
            function = getattr(dll, name)
            function.restype, function.argtypes = result, args
            if check:
                function.errcheck = check
            return function

        obj, prog, mp, link = (POINTER(t) for t in (BpfObject, BpfProgram, BpfMap, BpfLink))
        self.version = c("libbpf_version_string", c_char_p, [])
        self.set_print = c("libbpf_set_print", c_void_p, [log.PRINT_FN])
        self.num_possible_cpus = c("libbpf_num_possible_cpus", c_int, [], negative_errno)

        self.object_open = c("bpf_object__open_file", obj, [c_char_p, c_void_p], null_errno)
        self.object_load = c("bpf_object__load", c_int, [obj], negative_errno)
        self.object_close = c("bpf_object__close", None, [obj])
        self.object_next_map = c("bpf_object__next_map", mp, [obj, mp], null_end)
        self.object_next_program = c("bpf_object__next_program", prog, [obj, prog], null_end)

        self.program_name = c("bpf_program__name", c_char_p, [prog], null_errno)
        self.program_set_autoload = c("bpf_program__set_autoload", c_int, [prog, c_bool], negative_errno)
        self.program_fd = c("bpf_program__fd", c_int, [prog], negative_errno)
        self.program_attach = c("bpf_program__attach", link, [prog], null_errno)
        self.link_fd = c("bpf_link__fd", c_int, [link], negative_errno)
        self.iter_create = c("bpf_iter_create", c_int, [c_int], negative_errno)
        self.link_destroy = c("bpf_link__destroy", c_int, [link], negative_errno)

        self.map_name = c("bpf_map__name", c_char_p, [mp], null_errno)
        self.map_type = c("bpf_map__type", c_uint, [mp])
        self.map_fd = c("bpf_map__fd", c_int, [mp], negative_errno)
        self.map_value_size = c("bpf_map__value_size", c_uint32, [mp])
        self.map_max_entries = c("bpf_map__max_entries", c_uint32, [mp])
        self.map_set_value_size = c("bpf_map__set_value_size", c_int, [mp, c_uint32], negative_errno)
        self.map_initial_value = c("bpf_map__initial_value", c_void_p, [mp, POINTER(c_size_t)], null_errno)
        self.map_set_max_entries = c("bpf_map__set_max_entries", c_int, [mp, c_uint32], negative_errno)
        self.map_reuse_fd = c("bpf_map__reuse_fd", c_int, [mp, c_int], negative_errno)

        create_args = [c_uint, c_char_p, c_uint32, c_uint32, c_uint32, POINTER(MapCreateOpts)]
        self.map_create = c("bpf_map_create", c_int, create_args, negative_errno)
        self.map_lookup = c("bpf_map_lookup_elem", c_int, [c_int, c_void_p, c_void_p], absent_errno)
        self.map_update = c("bpf_map_update_elem", c_int, [c_int, c_void_p, c_void_p, c_uint64], negative_errno)
        self.map_delete = c("bpf_map_delete_elem", c_int, [c_int, c_void_p], negative_errno)
        btf = POINTER(Btf)
        self.btf_parse = c("btf__parse", btf, [c_char_p, c_void_p], null_errno)
        self.btf_find = c("btf__find_by_name_kind", c_int, [btf, c_char_p, c_uint32], absent_errno)
        self.btf_type = c("btf__type_by_id", POINTER(BtfType), [btf, c_uint32], null_errno)
        self.btf_name = c("btf__name_by_offset", c_char_p, [btf, c_uint32], null_errno)
        self.btf_free = c("btf__free", None, [btf])
        info_args = [c_int, c_void_p, POINTER(c_uint32)]
        self.obj_get_info = c("bpf_obj_get_info_by_fd", c_int, info_args, negative_errno)


@cache
def load() -> Libbpf:
    """The system's libbpf, opened once; its messages go to the log.

    Raises UnavailableError when the library is missing or older than 1.0.
    """
    try:
        dll = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as fault:
        raise UnavailableError(f"{LIBRARY} cannot be loaded ({fault}): {REMEDY}") from fault
    dll.libbpf_major_version.restype = c_uint32
    if (major := dll.libbpf_major_version()) != 1:
        raise UnavailableError(f"{LIBRARY} is version {major}.x, but 1.x is needed: {REMEDY}")
    libbpf = Libbpf(dll)
    libbpf.set_print(log.capture)
    structlog.get_logger().debug("libbpf loaded", version=libbpf.version().decode())
    return libbpf
