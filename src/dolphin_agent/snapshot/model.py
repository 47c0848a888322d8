"""The immutable reading that every exporter encodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.probes.items import Counter, Histogram

Labels = tuple[tuple[str, str], ...]


def nanoseconds(seconds: float) -> int:
    """A time as both exits write it: whole microseconds, which is what a float of this size tells apart."""
    return round(seconds * 1e6) * 1000


class Point(NamedTuple):
    """One series of a counter at one moment."""

    labels: Labels
    value: int
    start: float
    """When it began at zero, in seconds since the epoch."""


@dataclass(frozen=True)
class Distribution:
    """A histogram in the kernel's buckets (snapshot/buckets.py)."""

    counts: Mapping[int, int] = field(default_factory=dict)
    """Bucket index -> samples; empty buckets are left out."""
    sum: int = 0

    @property
    def count(self) -> int:
        """All samples."""
        return sum(self.counts.values())


class DistributionPoint(NamedTuple):
    """One series of a histogram at one moment."""

    labels: Labels
    value: Distribution
    start: float


@dataclass(frozen=True)
class Family:
    """All series of one metric."""

    metric: Counter | Histogram
    points: tuple[Point, ...] = ()
    distributions: tuple[DistributionPoint, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """All series of all metrics at one moment."""

    taken: float = 0.0
    """Seconds since the epoch."""
    families: tuple[Family, ...] = ()
    label_keys: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(task, label of a podLabel key) -> the key as it is on the pod."""

    @property
    def series(self) -> int:
        """Number of series; a histogram is one."""
        return sum(len(family.points) + len(family.distributions) for family in self.families)
