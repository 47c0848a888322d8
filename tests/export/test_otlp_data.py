"""The snapshot as MetricsData, and on the wire."""

import math

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from dolphin_agent.errors import ConfigError
from dolphin_agent.export.otlp import make_resource
from dolphin_agent.export.otlp_data import BATCH, attributes, batches
from dolphin_agent.export.otlp_exporter import make_exporter, metrics_url, wanted
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME
from dolphin_agent.snapshot.buckets import MICROSECONDS, PER_OCTAVE
from dolphin_agent.snapshot.flows import OTHER
from dolphin_agent.snapshot.model import Distribution, DistributionPoint, Family, Labels, Point, Snapshot

RTT = BY_NAME["tcpRtt"].metrics[Granularity.FLOW][0]
PACKETS = BY_NAME["ipReceive"].metrics[Granularity.POD][0]
OCTETS = BY_NAME["ipReceive"].metrics[Granularity.POD][1]
SCOPE = InstrumentationScope("dolphin_agent", "1")
POD = (("pod", "default/web"), ("task", "kube-system/p"))
FLOW = (("srcip", "10.0.0.1"), ("dstip", "10.0.0.2"), ("srcport", "ephemeral"), ("dstport", "80"), ("protocol", "tcp"))


def made(snapshot):
    return [data.resource_metrics[0].scope_metrics[0].metrics for data in batches(snapshot, Resource({}), SCOPE)]


def test_attributes():
    """Those of the semantic conventions; a folded port is left out, as the convention's is a number."""
    labels = (*POD, ("app_name", "x"), ("ipfamily", "ipv4"), *FLOW)
    assert attributes(labels, {("kube-system/p", "app_name"): "app.name"}) == {
        "k8s.namespace.name": "default",
        "k8s.pod.name": "web",
        "dolphin.task": "kube-system/p",
        "k8s.pod.label.app.name": "x",
        "network.type": "ipv4",
        "source.address": "10.0.0.1",
        "destination.address": "10.0.0.2",
        "destination.port": 80,
        "network.transport": "tcp",
    }


def test_other():
    assert attributes((*POD, *OTHER.pairs), {}) == {
        "k8s.namespace.name": "default",
        "k8s.pod.name": "web",
        "dolphin.task": "kube-system/p",
        "dolphin.flow": "other",
    }


def test_sum():
    """Cumulative, monotonic, with the series' own start and the snapshot's time."""
    ((metric,),) = made(Snapshot(9.0, (Family(PACKETS, (Point(Labels(POD), 2**60, 5.25),)),)))
    assert (metric.name, metric.description, metric.unit) == (PACKETS.name, PACKETS.help, "{packet}")
    assert metric.data.is_monotonic
    assert metric.data.aggregation_temporality == 2
    (point,) = metric.data.data_points
    assert (point.value, point.start_time_unix_nano, point.time_unix_nano) == (2**60, 5_250_000_000, 9_000_000_000)


@pytest.mark.parametrize(
    "counts", [{}, {0: 7}, {3: 1, 5: 2}, {bucket: bucket + 1 for bucket in range(MICROSECONDS.last + 1)}]
)
def test_exponential_histogram_is_the_kernels(counts):
    """Bucket by bucket, on the wire; no minimum and maximum, which nobody knows."""
    value = Distribution(counts, sum=123)
    data = next(
        batches(Snapshot(9.0, (Family(RTT, (), (DistributionPoint(Labels(POD), value, 5.0),)),)), Resource({}), SCOPE)
    )
    metric = encode_metrics(data).resource_metrics[0].scope_metrics[0].metrics[0]
    assert metric.unit == "us"
    (point,) = metric.exponential_histogram.data_points
    assert (point.count, point.sum, point.scale, point.zero_count) == (value.count, 123, 2, 0)
    assert not point.HasField("min")
    assert not point.HasField("max")
    base = 2.0 ** (2.0**-point.scale)
    found = {
        base ** (point.positive.offset + index + 1): n for index, n in enumerate(point.positive.bucket_counts) if n
    }
    end = 2.0 ** (MICROSECONDS.end + 1 / PER_OCTAVE)
    expected = {min(MICROSECONDS.upper_bound(bucket), end): n for bucket, n in counts.items()}
    assert list(found.values()) == list(expected.values())
    assert all(math.isclose(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("first", "second"), [(BATCH - 1, 1), (BATCH, 1), (3 * BATCH + 5, BATCH), (1, 0)])
def test_split(first, second):
    """Requests of a bounded size; every point once, in order."""
    families = tuple(
        Family(metric, tuple(Point(Labels((("pod", f"n/{n}"),)), n, 1.0) for n in range(count)))
        for metric, count in ((PACKETS, first), (OCTETS, second))
        if count
    )
    requests = made(Snapshot(2.0, families))
    sizes = [sum(len(metric.data.data_points) for metric in metrics) for metrics in requests]
    assert sum(sizes) == first + second
    assert all(size == BATCH for size in sizes[:-1])
    assert 0 < sizes[-1] <= BATCH
    first_metric = (metric for metrics in requests for metric in metrics if metric.name == PACKETS.name)
    sent = [point.value for metric in first_metric for point in metric.data.data_points]
    assert sent == list(range(first))


def test_empty():
    assert made(Snapshot()) == []


def test_endpoint():
    assert metrics_url("http://collector:4318") == "http://collector:4318/v1/metrics"
    assert metrics_url("http://collector:4318/") == "http://collector:4318/v1/metrics"
    assert metrics_url("https://x/custom/v1/metrics") == "https://x/custom/v1/metrics"
    assert not wanted(None, {})
    assert wanted("http://x", {})
    assert wanted(None, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"})


def test_unknown_protocol():
    with pytest.raises(ConfigError, match='OTEL_EXPORTER_OTLP_PROTOCOL "http/json": allowed: http/protobuf, grpc'):
        make_exporter("http://x", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_resource(monkeypatch):
    """The node; what users set wins."""
    assert make_resource("n1").attributes["k8s.node.name"] == "n1"
    assert make_resource("n1").attributes["service.name"] == "dolphin-agent"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=c,service.name=mine")
    found = make_resource("n1").attributes
    assert (found["k8s.cluster.name"], found["service.name"]) == ("c", "mine")
