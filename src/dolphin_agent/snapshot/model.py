"""The immutable reading that every exporter encodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dolphin_agent.probes.items import Counter

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Point:
    """One series at one moment."""

    labels: Labels
    value: int
    start: float
    """When it began at zero, in seconds since the epoch."""


@dataclass(frozen=True)
class Family:
    """All series of one metric."""

    metric: Counter
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Snapshot:
    """All series of all metrics at one moment."""

    taken: float = 0.0
    """Seconds since the epoch."""
    families: tuple[Family, ...] = ()

    @property
    def series(self) -> int:
        """Number of series."""
        return sum(len(family.points) for family in self.families)
