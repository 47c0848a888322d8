"""libbpf's own messages: kept for the error that follows, and logged at debug level."""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

PRINT_FN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

DEBUG = 2
"""enum libbpf_print_level: 0 warn, 1 info, 2 debug; debug is never asked for (it costs the formatting)."""

KEPT_LINES = 200
_VA_LIST = 32
"""Bytes of the largest va_list, arm64's."""

_lines: deque[str] = deque(maxlen=KEPT_LINES)
_libc = ctypes.CDLL(None)
_libc.vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]


def _capture(level: int, template: bytes, arguments: int) -> int:
    """The print callback. `arguments` is a va_list, passed on by address (x86_64 and arm64 ABIs)."""
    if level >= DEBUG:
        return 0
    # A verifier log arrives as one message of megabytes, and its last lines say why. To be measured first: that uses up
    # a va_list, so a copy of it.
    copy = ctypes.create_string_buffer(ctypes.string_at(arguments, _VA_LIST), _VA_LIST)
    buffer = ctypes.create_string_buffer(_libc.vsnprintf(None, 0, template, copy) + 1)
    _libc.vsnprintf(buffer, len(buffer), template, arguments)
    for line in buffer.value.decode(errors="replace").splitlines()[-KEPT_LINES:]:
        if line.strip():
            _lines.append(line.rstrip())
            structlog.get_logger().debug("libbpf", line=line.rstrip())
    return 0


capture = PRINT_FN(_capture)
"""A module-level name, as libbpf calls it for as long as the process lives."""


@contextlib.contextmanager
def recording() -> Iterator[deque[str]]:
    """Collects what libbpf says inside the block, at most KEPT_LINES lines."""
    _lines.clear()
    yield _lines
