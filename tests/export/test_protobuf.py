"""The protobuf exposition, read back by protobuf's own decoder."""

import math

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.decoder import _DecodeVarint32
from prometheus_client import CollectorRegistry, Counter, Gauge

from dolphin_agent.export.protobuf import encode
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME
from dolphin_agent.snapshot import buckets
from dolphin_agent.snapshot.model import Distribution, DistributionPoint, Family, Point, Snapshot

RTT = BY_NAME["tcpRtt"].metrics[Granularity.FLOW][0]
PACKETS = BY_NAME["ipReceive"].metrics[Granularity.POD][0]

# prometheus/client_model, io/prometheus/client/metrics.proto: (name, number, type), as far as it is used.
SCHEMA = {
    "LabelPair": [("name", 1, "string"), ("value", 2, "string")],
    "Timestamp": [("seconds", 1, "int64"), ("nanos", 2, "int32")],
    "Gauge": [("value", 1, "double")],
    "Untyped": [("value", 1, "double")],
    "Counter": [("value", 1, "double"), ("created_timestamp", 3, "Timestamp")],
    "BucketSpan": [("offset", 1, "sint32"), ("length", 2, "uint32")],
    "Histogram": [
        ("sample_count", 1, "uint64"),
        ("sample_sum", 2, "double"),
        ("schema", 5, "sint32"),
        ("zero_threshold", 6, "double"),
        ("zero_count", 7, "uint64"),
        ("positive_span", 12, "BucketSpan*"),
        ("positive_delta", 13, "sint64*"),
        ("created_timestamp", 15, "Timestamp"),
    ],
    "Metric": [
        ("label", 1, "LabelPair*"),
        ("gauge", 2, "Gauge"),
        ("counter", 3, "Counter"),
        ("untyped", 5, "Untyped"),
        ("histogram", 7, "Histogram"),
    ],
    "MetricFamily": [("name", 1, "string"), ("help", 2, "string"), ("type", 3, "int32"), ("metric", 4, "Metric*")],
}


@pytest.fixture(scope="module")
def family_class():
    """The class of MetricFamily."""
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="test", syntax="proto2")
    field_proto = descriptor_pb2.FieldDescriptorProto
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for title, number, written in fields:
            label = field_proto.LABEL_REPEATED if written.endswith("*") else field_proto.LABEL_OPTIONAL
            kind = written.rstrip("*")
            field = message.field.add(name=title, number=number, label=label)
            if kind in SCHEMA:
                field.type, field.type_name = field_proto.TYPE_MESSAGE, f".test.{kind}"
            else:
                field.type = getattr(field_proto, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.MetricFamily"))


def decode(data, family_class):
    """The families of a delimited body."""
    found, position = [], 0
    while position < len(data):
        length, position = _DecodeVarint32(data, position)
        found.append(family_class.FromString(data[position : position + length]))
        position += length
    return found


def test_counter(family_class):
    """Value, labels and the series' own start."""
    labels = (("pod", "default/web"), ("app", 'a"\n\\é' * 1000))
    (family,) = decode(encode(Snapshot(9.0, (Family(PACKETS, (Point(labels, 2**40, 5.25),)),)), ()), family_class)
    assert (family.name, family.help, family.type) == (PACKETS.name, PACKETS.help, 0)
    (metric,) = family.metric
    assert tuple((pair.name, pair.value) for pair in metric.label) == labels
    assert metric.counter.value == 2**40
    assert (metric.counter.created_timestamp.seconds, metric.counter.created_timestamp.nanos) == (5, 250_000_000)


def bounds(histogram):
    """Upper bound in microseconds -> samples, of the buckets above the zero bucket."""
    found, index, count = {}, 0, 0
    deltas = iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[2 ** (index * 2**-histogram.schema)] = count
            index += 1
    return found


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {0: 7},
        {1: 1, 2: 3, 3: 2},
        {0: 1, 8: 2, 9: 4, 30: 1, 31: 9, 88: 5},
        {buckets.LAST: 3},
        {bucket: bucket + 1 for bucket in range(buckets.LAST + 1)},
    ],
    ids=str,
)
def test_native_histogram_is_the_kernels(family_class, counts):
    """Bucket by bucket, number for number."""
    value = Distribution(counts, sum=12345)
    snapshot = Snapshot(9.0, (Family(RTT, (), (DistributionPoint((("pod", "a"),), value, 5.0),)),))
    (family,) = decode(encode(snapshot, ()), family_class)
    histogram = family.metric[0].histogram
    assert family.type == 4
    assert (histogram.sample_count, histogram.sample_sum) == (value.count, 12345)
    assert (histogram.zero_count, histogram.zero_threshold) == (counts.get(0, 0), buckets.upper_bound(0))
    assert len(histogram.positive_span) >= 1, "without a span it would be a classic one"
    above = {bucket: n for bucket, n in counts.items() if bucket}
    end = 2.0 ** (buckets.LAST_OCTAVE + 1 / buckets.PER_OCTAVE)
    expected = {min(buckets.upper_bound(bucket), end): n for bucket, n in above.items()}
    found = bounds(histogram)
    assert len(found) == len(expected)
    for bound, n in zip(sorted(found), sorted(expected), strict=True):
        assert math.isclose(bound, n)
        assert found[bound] == expected[n]


def test_own_metrics(family_class):
    registry = CollectorRegistry()
    Counter("dolphin_agent_lost_events", "Lost.", ["item"], registry=registry).labels("ipSend").inc(3)
    Gauge("dolphin_agent_pods", "Pods.", registry=registry).set(2)
    families = {family.name: family for family in decode(encode(Snapshot(), registry.collect()), family_class)}
    assert families.keys() == {"dolphin_agent_lost_events_total", "dolphin_agent_pods"}
    lost = families["dolphin_agent_lost_events_total"]
    assert (lost.type, lost.metric[0].counter.value, lost.metric[0].label[0].value) == (0, 3, "ipSend")
    assert (families["dolphin_agent_pods"].type, families["dolphin_agent_pods"].metric[0].gauge.value) == (1, 2)
