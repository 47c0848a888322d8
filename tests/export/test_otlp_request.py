"""The quick way to OTLP: equal to what OpenTelemetry's own encoder makes of the same snapshot."""

import gc
import weakref

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from structlog.testing import capture_logs

from dolphin_agent.export.otlp import OtlpPush
from dolphin_agent.export.otlp_data import BATCH, batches
from dolphin_agent.export.otlp_exporter import PROTOCOLS, make_exporter, shortcut
from dolphin_agent.export.otlp_request import make_envelope, requests
from dolphin_agent.health.metrics import DURATION, STATUS
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME
from dolphin_agent.snapshot.buckets import MICROSECONDS, SECONDS
from dolphin_agent.snapshot.flows import OTHER
from dolphin_agent.snapshot.model import Distribution, DistributionPoint, Family, Labels, Point, Snapshot

RTT = BY_NAME["tcpRtt"].metrics[Granularity.FLOW][0]
PACKETS, OCTETS = BY_NAME["ipReceive"].metrics[Granularity.FLOW]
RESOURCE = Resource({"service.name": "x", "list": ["a", "b"]}, "https://schema/1")
SCOPE = InstrumentationScope("dolphin_agent", "1", "https://schema/2")
KEYS = {("kube-system/p", "app_name"): "app.name"}
COMMON = Labels((("pod", "default/wéb"), ("task", "kube-system/p"), ("app_name", 'a"\n' * 2000), ("ipfamily", "ipv4")))
FLOWS = [
    Labels(
        (("srcip", f"10.0.0.{n}"), ("dstip", "fd00::1"), ("srcport", port), ("dstport", "0"), ("protocol", "udp")),
    )
    for n, port in enumerate(("ephemeral", "80", "65535"))
]
SAMPLES = [
    Distribution(),
    Distribution({0: 7}, 3),
    Distribution({3: 1, 5: 2**40}, 2**60),
    Distribution({bucket: bucket + 1 for bucket in range(MICROSECONDS.last + 1)}, 1),
]
SLOW = Distribution({0: 1, SECONDS.last: 2}, 20.5, SECONDS)


def snapshot(taken, value):
    """Counters, with and without flows, histograms of both scales, and a gauge; `other` is in two kinds."""
    counted = tuple(Point(COMMON, value + n, 1.5 + n, flow) for n, flow in enumerate((*FLOWS, OTHER)))
    sampled = tuple(DistributionPoint(COMMON, one, 2.25, flow) for one in SAMPLES for flow in (FLOWS[0], OTHER))
    per_pod = (Point(COMMON, 0, 1.5), Point(COMMON, 2**63 - 1, 1.000001))
    checked = (Family(STATUS, (Point(COMMON, 1, 0.0),)), Family(DURATION, (), (DistributionPoint(COMMON, SLOW, 2.25),)))
    return Snapshot(
        taken, (Family(PACKETS, counted), Family(RTT, (), sampled), Family(OCTETS, per_pod), *checked), KEYS
    )


def by_the_sdk(made):
    return [encode_metrics(data) for data in batches(made, RESOURCE, SCOPE)]


def test_equal_to_the_sdk():
    """Message by message; at the second time, when attributes have been written down, as well."""
    envelope = make_envelope(RESOURCE, SCOPE)
    for taken, value in ((9.0, 5), (19.123456, 2**40)):
        found = list(requests(snapshot(taken, value), envelope))
        assert found == by_the_sdk(snapshot(taken, value))
        assert [one.SerializeToString() for one in found]
    assert FLOWS[1].otlp
    assert not envelope.resource_metrics[0].scope_metrics[0].metrics


@pytest.mark.parametrize("count", [0, 1, BATCH, 2 * BATCH + 3])
def test_split_like_the_sdk(count):
    points = tuple(Point(FLOWS[n % 3], n, 1.0) for n in range(count))
    made = Snapshot(9.0, (Family(PACKETS, points), Family(OCTETS, points)) if count else (), KEYS)
    found = list(requests(made, make_envelope(RESOURCE, SCOPE)))
    assert found == by_the_sdk(made)
    assert len(found) == -(-2 * count // BATCH)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_installed_exporters_take_requests(protocol, monkeypatch, caplog):
    """The private way in exists, and leads to the network: nobody listens there."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    exporter = make_exporter("http://127.0.0.1:9")
    send = shortcut(exporter)
    assert send
    (request,) = requests(snapshot(9.0, 1), make_envelope(RESOURCE, SCOPE))
    assert send(request) is MetricExportResult.FAILURE
    exporter.shutdown(timeout_millis=0)
    assert "Failed to export metrics" in caplog.text


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"_export_batch": lambda _self, _serialized, _timeout: None},
        {"_export": lambda _self, data: data},
        {"_export": lambda _self, data: data, "_translate_data": lambda _self, _data, _other: None},
    ],
)
def test_other_exporters_do_not(way):
    """A version that has no such way is told of once, and gets what its public face takes."""
    with capture_logs() as said:
        assert shortcut(type("Other", (), way)()) is None
    assert [one["log_level"] for one in said] == ["info"]


class Failing:
    """Leaves what the libraries of exporters leave: an exception that refers to itself, and to the request."""

    def __init__(self):
        self.refused = []

    def export(self, data):
        try:
            int("refused")
        except ValueError as fault:
            itself = fault
        self.refused.append(weakref.ref(data))
        assert itself.__traceback__
        return MetricExportResult.FAILURE


def test_push_that_fails_keeps_nothing():
    """Not even until Python looks for garbage: an outage costs no memory."""
    exporter = Failing()
    push = OtlpPush(exporter, RESOURCE, 1.0, lambda: None)
    gc.disable()
    try:
        push._push(snapshot(9.0, 1))
    finally:
        gc.enable()
    assert push.pushes == {"exported": 0, "failed": 1}
    assert [one() for one in exporter.refused] == [None]
