"""The results of all checks as families of the snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.probes.items import MetricType
from dolphin_agent.snapshot.model import DistributionPoint, Family, Point

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dolphin_agent.health.tally import Result
    from dolphin_agent.snapshot.model import Snapshot


class HealthMetric(NamedTuple):
    """One exported metric."""

    name: str
    help: str
    type: MetricType
    unit: str


STATUS = HealthMetric(
    "dolphin_health_check_status", "Whether the pod is healthy: 1, or 0 where it is not.", MetricType.GAUGE, ""
)
SUCCESSFUL = HealthMetric(
    "dolphin_health_check_successful_total", "Probes that the pod answered in time.", MetricType.COUNTER, "{probe}"
)
FAILED = HealthMetric(
    "dolphin_health_check_failed_total",
    "Probes that the pod did not answer in time, or not well.",
    MetricType.COUNTER,
    "{probe}",
)
DURATION = HealthMetric(
    "dolphin_health_check_duration_seconds", "How long successful probes took.", MetricType.HISTOGRAM, "s"
)


def added(snapshot: Snapshot, results: Sequence[Result]) -> Snapshot:
    """The snapshot with the series of health checks as well."""
    if not results:
        return snapshot
    keys = {
        (one.check.task, name): key
        for one in results
        for (name, _), key in zip(one.check.labels, one.check.keys, strict=True)
    }
    return replace(
        snapshot,
        families=(*snapshot.families, *_families(results)),
        label_keys={**snapshot.label_keys, **keys},
    )


def _families(results: Sequence[Result]) -> Iterator[Family]:
    """A status that is not known has no series."""
    known = (Point(one.common, int(one.healthy), one.start) for one in results if one.healthy is not None)
    if points := tuple(known):
        yield Family(STATUS, points)
    yield Family(SUCCESSFUL, tuple(Point(one.common, one.successful, one.start) for one in results))
    yield Family(FAILED, tuple(Point(one.common, one.failed, one.start) for one in results))
    yield Family(DURATION, (), tuple(DistributionPoint(one.common, one.durations, one.start) for one in results))
