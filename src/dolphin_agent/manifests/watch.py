"""Does this file have to be read again? Answered from its metadata, for callers that poll."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from pathlib import Path

_QUIET_NS = 200_000_000  # longer than an editor pauses between two writes of one save
_SETTLED_NS = 2_000_000_000  # the coarsest timestamps in use (NFS, FAT) step by two seconds


class Look(Enum):
    """What a look at a file found."""

    SAME = auto()
    """Nothing to do."""
    CHANGED = auto()
    """It has to be read; what is read may turn out to be the same."""
    GONE = auto()
    """There is no such file."""


class Watch:
    """A file, followed through symbolic links (a ConfigMap volume swaps its `..data` link).

    Saving a file is not atomic: editors truncate it and write it anew, or move it away and create another. Taking
    such a moment for the user's wish would stop a policy and start it again with its counters at zero. So a file
    that was read before is left alone while it is written to, and counts as gone at the second look.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: _Signature | None = None
        self._is_missed = False

    def look(self) -> Look:
        """Look once; the caller is to read the file, or to drop it, at once."""
        try:
            signature = _Signature.of(self._path.stat())  # before the read, so that a later write is noticed
        except FileNotFoundError:
            return self._missing()
        except OSError:
            self._seen = None
            return Look.CHANGED  # reading it tells the reason
        self._is_missed = False
        if signature == self._seen and self._seen.is_settled:
            return Look.SAME
        if self._seen and signature != self._seen and signature.is_fresh:
            return Look.SAME
        self._seen = signature
        return Look.CHANGED

    def _missing(self) -> Look:
        if self._seen and not self._is_missed:
            self._is_missed = True
            return Look.SAME
        self._seen = None
        return Look.GONE


@dataclass(frozen=True, slots=True)
class _Signature:
    """What tells two states of a file apart."""

    mtime_ns: int
    ctime_ns: int
    """Changes with permissions too, so a file made readable is read again."""
    size: int
    inode: int
    age_ns: int = field(compare=False)
    """From its last write to this look; negative where a clock is wrong."""

    @classmethod
    def of(cls, status: os.stat_result) -> _Signature:
        age = time.time_ns() - status.st_mtime_ns
        return cls(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, age)

    @property
    def is_fresh(self) -> bool:
        """Whether more writes are likely to follow."""
        return 0 <= self.age_ns < _QUIET_NS

    @property
    def is_settled(self) -> bool:
        """Whether no later write can have left the same times behind."""
        return abs(self.age_ns) > _SETTLED_NS
