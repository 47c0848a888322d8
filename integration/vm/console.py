"""What a guest's kernel printed, and whether it tells of a fault."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_LINES = 60
_FAULT = re.compile(
    r"Kernel panic"
    r"|Oops"
    r"|\bBUG\b"
    r"|WARNING: "
    r"|kernel BUG at"
    r"|general protection fault"
    r"|blocked for more than \d+ seconds"
    r"|rcu.*(?:detected stall|self-detected|kthread starved)"
    r"|soft lockup"
    r"|Out of memory"
)


def read(path: Path) -> str:
    """Return a console log's text, "" where the guest never wrote one."""
    if not path.exists():
        return ""
    return path.read_bytes().decode(errors="replace").replace("\r", "")


def find_fault(log: str) -> str | None:
    """Return the first line with which a kernel reports that something went wrong with itself."""
    for line in log.splitlines():
        if _FAULT.search(line):
            return line.strip()
    return None


def tail(log: str) -> str:
    """Return the last lines of a log."""
    return "".join(f"{line}\n" for line in log.splitlines()[-_TAIL_LINES:])
