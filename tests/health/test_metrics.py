"""Results in every exit."""

import math

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from dolphin_agent.export import prometheus, protobuf
from dolphin_agent.export.otlp_data import batches
from dolphin_agent.health.metrics import added
from dolphin_agent.health.tally import Tally
from dolphin_agent.snapshot.model import Snapshot
from tests.builders import check
from tests.export.client_model import decode, native_buckets

LABELS = {"pod": "default/web", "task": "kube-system/p", "app_name": "x", "ipfamily": "ipv4", "command": "ping"}
DURATIONS = (0.00001, 0.001, 0.001, 0.3)


def snapshot():
    """A pod that answered four times and then failed once; and one that nobody has asked yet."""
    tally = Tally(check(labels=(("app_name", "x"),), keys=("app.name",)), 5.25)
    for seconds in DURATIONS:
        tally.succeed(seconds)
    tally.fail()
    other = Tally(check(pod="default/new"), 6.0)
    return added(Snapshot(9.0), [tally.result(), other.result()])


def test_text():
    families = {one.name: one for one in text_string_to_metric_families(prometheus.encode(snapshot()).decode())}
    status = families["dolphin_health_check_status"]
    assert (status.type, [(one.labels, one.value) for one in status.samples]) == ("gauge", [(LABELS, 0)])
    values = {
        (name, one.labels["pod"]): one.value
        for name in ("dolphin_health_check_successful", "dolphin_health_check_failed")
        for one in families[name].samples
    }
    assert list(values.values()) == [4, 0, 1, 0]
    buckets = {
        float(one.labels["le"]): one.value
        for one in families["dolphin_health_check_duration_seconds"].samples
        if one.name.endswith("_bucket") and one.labels["pod"] == "default/web"
    }
    assert (buckets[2**-14], buckets[2**-8], buckets[1.0], buckets[math.inf]) == (1, 3, 4, 4)
    assert len(buckets) == 10


def test_openmetrics():
    text = prometheus.encode(snapshot(), openmetrics=True).decode() + "# EOF\n"
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["dolphin_health_check_status"].type == "gauge"
    assert families["dolphin_health_check_duration_seconds"].unit == "seconds"


def test_protobuf():
    """A gauge has no start; the native histogram's buckets are those that were counted in."""
    families = {family.name: family for family in decode(protobuf.encode(snapshot(), ()))}
    status = families["dolphin_health_check_status"]
    assert (status.type, len(status.metric), status.metric[0].gauge.value) == (1, 1, 0)
    assert status.metric[0].gauge.ByteSize() == 9, "nothing but the value"
    histogram = families["dolphin_health_check_duration_seconds"].metric[0].histogram
    assert (histogram.sample_count, histogram.sample_sum, histogram.zero_count) == (4, sum(DURATIONS), 1)
    assert histogram.created_timestamp.seconds == 5
    bounds = {2 ** (index / 4): n for index, n in native_buckets(histogram).items()}
    assert list(bounds.values()) == [2, 1]
    for seconds, bound in zip((0.001, 0.3), bounds, strict=True):
        assert bound / 2**0.25 < seconds <= bound


def test_otlp():
    """The same buckets; attributes of the semantic conventions where there are any."""
    data = next(batches(snapshot(), Resource({}), InstrumentationScope("dolphin_agent", "1")))
    metrics = {one.name: one for one in encode_metrics(data).resource_metrics[0].scope_metrics[0].metrics}
    (status,) = metrics["dolphin_health_check_status"].gauge.data_points
    assert (status.as_int, status.start_time_unix_nano, status.time_unix_nano) == (0, 0, 9_000_000_000)
    found = {one.key: one.value.string_value for one in status.attributes}
    assert found == {
        "k8s.namespace.name": "default", "k8s.pod.name": "web", "dolphin.task": "kube-system/p",
        "k8s.pod.label.app.name": "x", "network.type": "ipv4", "dolphin.command": "ping",
    }  # fmt: skip
    assert metrics["dolphin_health_check_failed_total"].unit == "{probe}"
    duration = metrics["dolphin_health_check_duration_seconds"]
    point = duration.exponential_histogram.data_points[0]
    assert (duration.unit, point.count, point.sum, point.start_time_unix_nano) == (
        "s",
        4,
        sum(DURATIONS),
        5_250_000_000,
    )
    bounds = {2 ** ((point.positive.offset + at + 1) / 4): n for at, n in enumerate(point.positive.bucket_counts) if n}
    assert list(bounds.values()) == [1, 2, 1]
    for seconds, bound in zip((0.001, 0.3), list(bounds)[1:], strict=True):
        assert bound / 2**0.25 < seconds <= bound


def test_nobody_asks():
    empty = Snapshot(9.0)
    assert added(empty, []) is empty
