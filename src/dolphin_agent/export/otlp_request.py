"""The snapshot as OTLP requests, in OpenTelemetry's own messages: what its encoder makes of export/otlp_data.py.

That one writes the attributes of each point anew at each push, which takes nearly all of its time. Here they are
encoded once in the life of their labels, and merged into the points as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    ExponentialHistogramDataPoint,
    NumberDataPoint,
)
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics

from dolphin_agent.export.otlp_data import SCALE, attributes, first_index, split
from dolphin_agent.probes.items import MetricType
from dolphin_agent.snapshot.model import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogram, Gauge, Sum
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from dolphin_agent.snapshot.model import DistributionPoint, Labels, Point, Snapshot

Keys = Mapping[tuple[str, str], str]
"""Snapshot.label_keys."""


def make_envelope(resource: Resource, scope: InstrumentationScope) -> ExportMetricsServiceRequest:
    """A request with no metric yet."""
    empty = ScopeMetrics(scope, [], scope.schema_url or "")
    return encode_metrics(MetricsData([ResourceMetrics(resource, [empty], resource.schema_url)]))


def requests(snapshot: Snapshot, envelope: ExportMetricsServiceRequest) -> Iterator[ExportMetricsServiceRequest]:
    """All of a snapshot, in requests that a collector takes; made one at a time, so that none waits in memory."""
    taken = nanoseconds(snapshot.taken)
    for parts in split(snapshot):
        request = ExportMetricsServiceRequest()
        request.CopyFrom(envelope)
        metrics = request.resource_metrics[0].scope_metrics[0].metrics
        for part in parts:
            declared = part.family.metric
            metric = metrics.add(name=declared.name, description=declared.help, unit=declared.unit)
            match declared.type:
                case MetricType.COUNTER:
                    _fill_sum(metric.sum, part.points, taken, snapshot.label_keys)
                case MetricType.GAUGE:
                    _fill_gauge(metric.gauge, part.points, taken, snapshot.label_keys)
                case MetricType.HISTOGRAM:
                    _fill_histogram(metric.exponential_histogram, part.distributions, taken, snapshot.label_keys)
        yield request


def _fill_gauge(made: Gauge, points: Iterable[Point], taken: int, keys: Keys) -> None:
    """One has no start."""
    for common, value, _, flow in points:
        point = made.data_points.add(time_unix_nano=taken, as_int=value)
        point.MergeFromString(_kept(common, NumberDataPoint, keys) + _kept(flow, NumberDataPoint, keys))


def _fill_sum(made: Sum, points: Iterable[Point], taken: int, keys: Keys) -> None:
    made.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    made.is_monotonic = True
    add = made.data_points.add
    for common, value, start, flow in points:
        point = add(start_time_unix_nano=nanoseconds(start), time_unix_nano=taken, as_int=value)
        point.MergeFromString(_kept(common, NumberDataPoint, keys) + _kept(flow, NumberDataPoint, keys))


def _fill_histogram(made: ExponentialHistogram, points: Iterable[DistributionPoint], taken: int, keys: Keys) -> None:
    made.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    for common, value, start, flow in points:
        point = made.data_points.add(
            start_time_unix_nano=nanoseconds(start),
            time_unix_nano=taken,
            count=value.count,
            sum=value.sum,
            scale=SCALE,
        )
        if value.counts:
            first, last = min(value.counts), max(value.counts)
            point.positive.offset = first_index(value.scale) + first
            point.positive.bucket_counts.extend(value.counts.get(bucket, 0) for bucket in range(first, last + 1))
        kind = ExponentialHistogramDataPoint
        point.MergeFromString(_kept(common, kind, keys) + _kept(flow, kind, keys))


def _kept(labels: Labels, kind: type[NumberDataPoint | ExponentialHistogramDataPoint], keys: Keys) -> bytes:
    """The attributes as the bytes of a point; each kind has them in another field.

    The keys of podLabels never change in the life of labels: a series with other ones is another series.
    """
    kept = labels.otlp
    if kept is None or kept[0] is not kind:
        pairs = [KeyValue(key=key, value=_value(value)) for key, value in attributes(labels.pairs, keys).items()]
        kept = labels.otlp = (kind, kind(attributes=pairs).SerializeToString())
    return kept[1]


def _value(value: str | int) -> AnyValue:
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
