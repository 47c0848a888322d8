"""What an OTLP request says, as plain values that compare number for number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

Value = str | bool | int | float | bytes | Sequence["Value"] | Mapping[str, "Value"] | None
Attributes = Mapping[str, Value]
Kind = Literal["sum", "gauge", "histogram", "exponential_histogram"]
Temporality = Literal["", "unspecified", "delta", "cumulative"]
"""Empty for a gauge, which has none."""

# AggregationTemporality of metrics.proto.
_TEMPORALITIES: Mapping[int, Temporality] = {0: "unspecified", 1: "delta", 2: "cumulative"}


@dataclass(frozen=True, slots=True)
class Scope:
    """The instrumentation scope."""

    name: str
    version: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a sum or gauge."""

    attributes: Attributes
    start_time_unix_nano: int
    """0 where it is not given."""
    time_unix_nano: int
    value: int | float
    """An int where it was sent as one; NaN where there is none, which `flags` says then."""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class HistogramPoint:
    """A point of a histogram with explicit bounds."""

    attributes: Attributes
    start_time_unix_nano: int
    time_unix_nano: int
    count: int
    sum: float | None
    """None where it is not given, as `min` and `max`."""
    min: float | None
    max: float | None
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Buckets:
    """One side of an exponential histogram: bucket i of `counts` has index `offset` + i."""

    offset: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExponentialPoint:
    """A point of an exponential histogram."""

    attributes: Attributes
    start_time_unix_nano: int
    time_unix_nano: int
    count: int
    sum: float | None
    min: float | None
    max: float | None
    scale: int
    zero_count: int
    zero_threshold: float
    positive: Buckets
    negative: Buckets
    flags: int = 0


AnyPoint = Point | HistogramPoint | ExponentialPoint


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as one request has it."""

    resource: Attributes
    scope: Scope
    name: str
    unit: str
    description: str
    kind: Kind
    temporality: Temporality
    monotonic: bool
    points: tuple[AnyPoint, ...]
    """Of its kind: a sum and a gauge have `Point`."""


def metrics(request: ExportMetricsServiceRequest) -> list[Metric]:
    """All that a request has, in its order; raises ValueError where a metric has no data that is known here."""
    return [
        _metric(metric, _attributes(resource.resource.attributes), _scope(scope.scope))
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def _metric(metric: pb.Metric, resource: Attributes, scope: Scope) -> Metric:
    temporality: Temporality = ""
    monotonic = False
    points: Iterator[AnyPoint]
    kind = metric.WhichOneof("data")
    if kind == "sum":
        points = _points(metric.sum.data_points)
        temporality, monotonic = _TEMPORALITIES[metric.sum.aggregation_temporality], metric.sum.is_monotonic
    elif kind == "gauge":
        points = _points(metric.gauge.data_points)
    elif kind == "histogram":
        points = _histograms(metric.histogram.data_points)
        temporality = _TEMPORALITIES[metric.histogram.aggregation_temporality]
    elif kind == "exponential_histogram":
        points = _exponentials(metric.exponential_histogram.data_points)
        temporality = _TEMPORALITIES[metric.exponential_histogram.aggregation_temporality]
    else:
        raise ValueError(f"{metric.name} is of kind {kind}")
    described = (metric.name, metric.unit, metric.description)
    return Metric(resource, scope, *described, kind, temporality, monotonic, tuple(points))


def _points(points: Iterable[pb.NumberDataPoint]) -> Iterator[Point]:
    for point in points:
        # It has one of as_int and as_double, or none.
        value = {"as_int": point.as_int, "as_double": point.as_double}.get(point.WhichOneof("value") or "", math.nan)
        times = (point.start_time_unix_nano, point.time_unix_nano)
        yield Point(_attributes(point.attributes), *times, value, point.flags)


def _histograms(points: Iterable[pb.HistogramDataPoint]) -> Iterator[HistogramPoint]:
    for point in points:
        yield HistogramPoint(
            _attributes(point.attributes),
            point.start_time_unix_nano,
            point.time_unix_nano,
            point.count,
            *_optional(point),
            tuple(point.explicit_bounds),
            tuple(point.bucket_counts),
            point.flags,
        )


def _exponentials(points: Iterable[pb.ExponentialHistogramDataPoint]) -> Iterator[ExponentialPoint]:
    for point in points:
        yield ExponentialPoint(
            _attributes(point.attributes),
            point.start_time_unix_nano,
            point.time_unix_nano,
            point.count,
            *_optional(point),
            point.scale,
            point.zero_count,
            point.zero_threshold,
            Buckets(point.positive.offset, tuple(point.positive.bucket_counts)),
            Buckets(point.negative.offset, tuple(point.negative.bucket_counts)),
            point.flags,
        )


def _optional(
    point: pb.HistogramDataPoint | pb.ExponentialHistogramDataPoint,
) -> tuple[float | None, float | None, float | None]:
    """Return sum, min and max."""
    return (
        point.sum if point.HasField("sum") else None,
        point.min if point.HasField("min") else None,
        point.max if point.HasField("max") else None,
    )


def _scope(scope: InstrumentationScope) -> Scope:
    return Scope(scope.name, scope.version, _attributes(scope.attributes))


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    found: Value = getattr(value, kind)
    return found
