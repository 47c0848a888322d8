"""The protobuf exposition, read back by protobuf's own decoder."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from dolphin_agent.export.protobuf import encode
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME
from dolphin_agent.snapshot.buckets import MICROSECONDS, PER_OCTAVE
from dolphin_agent.snapshot.model import Distribution, DistributionPoint, Family, Labels, Point, Snapshot
from tests.export.client_model import decode, native_buckets

RTT = BY_NAME["tcpRtt"].metrics[Granularity.FLOW][0]
PACKETS = BY_NAME["ipReceive"].metrics[Granularity.POD][0]


def test_counter():
    """Value, labels and the series' own start."""
    labels = (("pod", "default/web"), ("app", 'a"\n\\é' * 1000))
    (family,) = decode(
        encode(Snapshot(9.0, (Family(PACKETS, (Point(Labels(labels[:1]), 2**40, 5.25, Labels(labels[1:])),)),)), ())
    )
    assert (family.name, family.help, family.type) == (PACKETS.name, PACKETS.help, 0)
    (metric,) = family.metric
    assert tuple((pair.name, pair.value) for pair in metric.label) == labels
    assert metric.counter.value == 2**40
    assert (metric.counter.created_timestamp.seconds, metric.counter.created_timestamp.nanos) == (5, 250_000_000)


def bounds(histogram):
    """Upper bound in microseconds -> samples."""
    return {2 ** (index * 2**-histogram.schema): n for index, n in native_buckets(histogram).items()}


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {0: 7},
        {1: 1, 2: 3, 3: 2},
        {0: 1, 8: 2, 9: 4, 30: 1, 31: 9, 88: 5},
        {MICROSECONDS.last: 3},
        {bucket: bucket + 1 for bucket in range(MICROSECONDS.last + 1)},
    ],
    ids=str,
)
def test_native_histogram_is_the_kernels(counts):
    """Bucket by bucket, number for number."""
    value = Distribution(counts, sum=12345)
    snapshot = Snapshot(9.0, (Family(RTT, (), (DistributionPoint(Labels((("pod", "a"),)), value, 5.0),)),))
    (family,) = decode(encode(snapshot, ()))
    histogram = family.metric[0].histogram
    assert family.type == 4
    assert (histogram.sample_count, histogram.sample_sum) == (value.count, 12345)
    assert (histogram.zero_count, histogram.zero_threshold) == (counts.get(0, 0), MICROSECONDS.upper_bound(0))
    assert len(histogram.positive_span) >= 1, "without a span it would be a classic one"
    above = {bucket: n for bucket, n in counts.items() if bucket}
    end = 2.0 ** (MICROSECONDS.end + 1 / PER_OCTAVE)
    expected = {min(MICROSECONDS.upper_bound(bucket), end): n for bucket, n in above.items()}
    found = bounds(histogram)
    assert len(found) == len(expected)
    for bound, n in zip(sorted(found), sorted(expected), strict=True):
        assert math.isclose(bound, n)
        assert found[bound] == expected[n]


def test_own_metrics():
    registry = CollectorRegistry()
    Counter("dolphin_agent_lost_events", "Lost.", ["item"], registry=registry).labels("ipSend").inc(3)
    Gauge("dolphin_agent_pods", "Pods.", registry=registry).set(2)
    families = {family.name: family for family in decode(encode(Snapshot(), registry.collect()))}
    assert families.keys() == {"dolphin_agent_lost_events_total", "dolphin_agent_pods"}
    lost = families["dolphin_agent_lost_events_total"]
    assert (lost.type, lost.metric[0].counter.value, lost.metric[0].label[0].value) == (0, 3, "ipSend")
    assert (families["dolphin_agent_pods"].type, families["dolphin_agent_pods"].metric[0].gauge.value) == (1, 2)
