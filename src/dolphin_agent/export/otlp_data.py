"""The snapshot as the OpenTelemetry SDK's own MetricsData, under semantic-convention attributes.

pod, podLabel keys   k8s.namespace.name, k8s.pod.name, k8s.pod.label.<key>
ipfamily, protocol   network.type, network.transport
srcip, srcport       source.address, source.port (a number; left out where it is folded), destination.* likewise
task, direction, command, reason
                     dolphin.task, dolphin.direction and so on: the conventions have no word for them
other                dolphin.flow: other, in place of all of a flow's
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from dolphin_agent.probes.items import MetricType
from dolphin_agent.snapshot.buckets import PER_OCTAVE
from dolphin_agent.snapshot.flows import EPHEMERAL, OTHER
from dolphin_agent.snapshot.model import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from dolphin_agent.snapshot.buckets import Scale
    from dolphin_agent.snapshot.model import DistributionPoint, Family, Pairs, Point, Snapshot

BATCH = 2000
"""Data points in one request: about 1 MB before compression, and a collector takes 4 MiB by default (gRPC)."""

SCALE = 2
"""Index i ends at 2^((i + 1)/4). Bucket 0 has what is smaller as well, the last one what is larger: neither has a place
of its own in an exponential histogram."""

_NAMES = {
    "ipfamily": "network.type",
    "protocol": "network.transport",
    "srcip": "source.address",
    "dstip": "destination.address",
    "task": "dolphin.task",
    "direction": "dolphin.direction",
    "command": "dolphin.command",
    "reason": "dolphin.reason",
}
_PORTS = {"srcport": "source.port", "dstport": "destination.port"}
_OTHER = dict(OTHER.pairs)
_NO_START = 0
_NOTHING_NEGATIVE = Buckets(offset=0, bucket_counts=[])

Attributes = dict[str, str | int]


class Part(NamedTuple):
    """Points of one metric that go into one request."""

    family: Family
    points: list[Point]
    distributions: list[DistributionPoint]


def batches(snapshot: Snapshot, resource: Resource, scope: InstrumentationScope) -> Iterator[MetricsData]:
    """All of a snapshot, in requests that a collector takes; made one at a time, so that none waits in memory."""
    taken = nanoseconds(snapshot.taken)
    for parts in split(snapshot):
        metrics = [_metric(part, taken, snapshot.label_keys) for part in parts]
        found = ResourceMetrics(resource, [ScopeMetrics(scope, metrics, scope.schema_url or "")], resource.schema_url)
        yield MetricsData([found])


def split(snapshot: Snapshot) -> Iterator[list[Part]]:
    """All points, in as many lists as there must be requests."""
    parts: list[Part] = []
    room = BATCH
    for family in snapshot.families:
        points, distributions = list(family.points), list(family.distributions)
        while points or distributions:
            part = Part(family, points[:room], distributions[: max(0, room - len(points))])
            points, distributions = points[len(part.points) :], distributions[len(part.distributions) :]
            parts.append(part)
            room -= len(part.points) + len(part.distributions)
            if not room:
                yield parts
                parts, room = [], BATCH
    if parts:
        yield parts


def _metric(part: Part, taken: int, keys: Mapping[tuple[str, str], str]) -> Metric:
    declared = part.family.metric
    data: Sum | Gauge | ExponentialHistogram
    match declared.type:
        case MetricType.COUNTER:
            points = [_number(point, taken, keys, nanoseconds(point.start)) for point in part.points]
            data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        case MetricType.GAUGE:
            data = Gauge([_number(point, taken, keys, _NO_START) for point in part.points])
        case MetricType.HISTOGRAM:
            distributions = [_distribution(point, taken, keys) for point in part.distributions]
            data = ExponentialHistogram(distributions, AggregationTemporality.CUMULATIVE)
    return Metric(declared.name, declared.help, declared.unit, data)


def _number(point: Point, taken: int, keys: Mapping[tuple[str, str], str], start: int) -> NumberDataPoint:
    return NumberDataPoint(attributes(point.labels, keys), start, taken, point.value)


def _distribution(
    point: DistributionPoint, taken: int, keys: Mapping[tuple[str, str], str]
) -> ExponentialHistogramDataPoint:
    value = point.value
    first, last = min(value.counts, default=0), max(value.counts, default=-1)
    counts = [value.counts.get(bucket, 0) for bucket in range(first, last + 1)]
    return ExponentialHistogramDataPoint(
        attributes=attributes(point.labels, keys),
        start_time_unix_nano=nanoseconds(point.start),
        time_unix_nano=taken,
        count=value.count,
        sum=value.sum,
        scale=SCALE,
        zero_count=0,
        positive=Buckets(offset=first_index(value.scale) + first, bucket_counts=counts),
        negative=_NOTHING_NEGATIVE,
        flags=0,
        # Not known: the kernel keeps the counts and the sum. Both are optional on the wire, though not in the SDK.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )


def first_index(scale: Scale) -> int:
    """The index of bucket 0."""
    return scale.first * PER_OCTAVE - 1


def attributes(labels: Pairs, keys: Mapping[tuple[str, str], str]) -> Attributes:
    """A series' labels under the names of the semantic conventions; `keys` are Snapshot.label_keys."""
    found: Attributes = {}
    task = ""
    for name, value in labels:
        if name == "pod":
            found["k8s.namespace.name"], _, found["k8s.pod.name"] = value.partition("/")
        elif name in _OTHER and value == _OTHER[name]:
            found["dolphin.flow"] = value
        elif name in _PORTS:
            if value != EPHEMERAL:
                found[_PORTS[name]] = int(value)
        elif known := _NAMES.get(name):
            found[known] = value
            if name == "task":
                task = value
        else:
            found[f"k8s.pod.label.{keys.get((task, name), name)}"] = value
    return found
