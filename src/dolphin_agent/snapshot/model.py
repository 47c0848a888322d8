"""The immutable reading that every exporter encodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dolphin_agent.snapshot.buckets import MICROSECONDS, Scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.probes.items import MetricType

Pairs = tuple[tuple[str, str], ...]
"""(name, value) of each label."""


class Labels:
    """Labels that points share, and the same points of later snapshots.

    Writing them down takes an encoder longer than all the rest of a point: each keeps what it made of them here.
    """

    __slots__ = ("_pairs", "otlp", "protobuf", "text")

    def __init__(self, pairs: Pairs = ()) -> None:
        self._pairs = pairs
        self.text: str | None = None
        """Of export/prometheus.py."""
        self.protobuf: bytes | None = None
        """Of export/protobuf.py."""
        self.otlp: tuple[type, bytes] | None = None
        """Of export/otlp_request.py: for which kind of point, and as its bytes."""

    @property
    def pairs(self) -> Pairs:
        """Name and value of each."""
        return self._pairs


NONE = Labels()


def nanoseconds(seconds: float) -> int:
    """A time as both exits write it: whole microseconds, which is what a float of this size tells apart."""
    return round(seconds * 1e6) * 1000


class Point(NamedTuple):
    """One series of a counter or gauge at one moment."""

    common: Labels
    """Those of the pod, task and metric."""
    value: int
    start: float
    """When it began at zero, in seconds since the epoch; of no meaning for a gauge."""
    flow: Labels = NONE
    """Those of the flow, if it is one's."""

    @property
    def labels(self) -> Pairs:
        """All of them."""
        return self.common.pairs + self.flow.pairs


@dataclass(frozen=True)
class Distribution:
    """A histogram in the buckets of snapshot/buckets.py."""

    counts: Mapping[int, int] = field(default_factory=dict)
    """Bucket index -> samples; empty buckets are left out."""
    sum: float = 0
    scale: Scale = MICROSECONDS

    @property
    def count(self) -> int:
        """All samples."""
        return sum(self.counts.values())


class DistributionPoint(NamedTuple):
    """One series of a histogram at one moment; labels and start as those of a Point."""

    common: Labels
    value: Distribution
    start: float
    flow: Labels = NONE

    @property
    def labels(self) -> Pairs:
        """All of them."""
        return self.common.pairs + self.flow.pairs


class Metric(Protocol):
    """What an exit says of all series of a metric, wherever it is declared."""

    @property
    def name(self) -> str:
        """That of Prometheus; a counter's ends in `_total`."""

    @property
    def help(self) -> str:
        """One sentence."""

    @property
    def unit(self) -> str:
        """By UCUM, as OpenTelemetry writes them; empty where there is none."""

    @property
    def type(self) -> MetricType:
        """A histogram has distributions, all others have points."""


@dataclass(frozen=True)
class Family:
    """All series of one metric."""

    metric: Metric
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
