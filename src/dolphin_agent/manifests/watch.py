"""Has this file changed since it was last read?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

_SETTLED_NS = 2_000_000_000  # the coarsest timestamps in use (NFS, FAT) step by two seconds


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells two states of a file apart without reading it. Symbolic links are followed."""

    mtime_ns: int
    ctime_ns: int
    """Changes with permissions too, so a file made readable is read again."""
    size: int
    inode: int
    """Changes when a ConfigMap volume swaps its `..data` link, or an editor renames a new file into place."""
    settled: bool
    """False while a further write could leave the same times behind: such a file is read again next time."""

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        """Take the signature from a stat made *before* the file is read."""
        newest = max(status.st_mtime_ns, status.st_ctime_ns)
        settled = abs(time.time_ns() - newest) > _SETTLED_NS
        return cls(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, settled)

    def still(self, seen: Signature | None) -> bool:
        """Tell whether what was read under `seen` is surely still what the file holds."""
        return seen is not None and seen.settled and self == seen
