"""The bed itself: what other tests rely on when they judge the agent by it."""

from __future__ import annotations

import gzip
import logging
import math
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import urllib3
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc import ssl_channel_credentials
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from integration.lib.server import free_ports
from integration.lib.wait import wait_until
from integration.telemetry import binaries, otlp
from integration.telemetry.collector import Collector
from integration.telemetry.faulty import OK, Fault, Faulty, failure, partial, slow
from integration.telemetry.prometheus import promtool_check_metrics
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from integration.telemetry.conftest import StartCollector, StartPrometheus

START, NOW = 1_700_000_000_123_456_789, 1_700_000_060_987_654_321
BEYOND_DOUBLES = 2**53 + 1
PATIENCE = 0.5
"""Seconds that a client of these tests waits for an answer that does not come."""

RESOURCE: Mapping[str, str | list[str]] = {"service.name": "test", "list": ["a", "b"]}
LABELS: dict[str, str | int | bool] = {"k8s.pod.name": "pod \u00e4", "source.port": 8080, "yes": True}
CUMULATIVE = sdk.AggregationTemporality.CUMULATIVE


def sent(*metrics: sdk.Metric) -> sdk.MetricsData:
    """Metrics of one resource and one scope."""
    scope = sdk.ScopeMetrics(InstrumentationScope("scope", "1.2"), list(metrics), "")
    return sdk.MetricsData([sdk.ResourceMetrics(Resource(RESOURCE), [scope], "")])


def counter(value: float, name: str = "packets") -> sdk.Metric:
    """A cumulative sum of one point."""
    points = [sdk.NumberDataPoint(LABELS, START, NOW, value)]
    return sdk.Metric(name, "of a test", "{packet}", sdk.Sum(points, CUMULATIVE, is_monotonic=True))


def exponential(name: str = "octaves") -> sdk.Metric:
    """An exponential histogram of one point, with nothing negative."""
    positive, negative = sdk.Buckets(-2, [1, 0, 3]), sdk.Buckets(0, [])
    point = sdk.ExponentialHistogramDataPoint(LABELS, START, NOW, 6, 7.5, 2, 2, positive, negative, 0, 0.0, 3.5)
    return sdk.Metric(name, "", "us", sdk.ExponentialHistogram([point], CUMULATIVE))


EVERY_KIND = sent(
    counter(BEYOND_DOUBLES),
    sdk.Metric("level", "", "", sdk.Gauge([sdk.NumberDataPoint({}, 0, NOW, 0.1)])),
    sdk.Metric(
        "explicit",
        "",
        "ms",
        sdk.Histogram(
            [sdk.HistogramDataPoint(LABELS, START, NOW, 6, 21.25, [1, 2, 3], [5.0, 10.0], 0.5, 11.0)],
            sdk.AggregationTemporality.DELTA,
        ),
    ),
    exponential(),
)
_WHOSE: tuple[otlp.Attributes, otlp.Scope] = (RESOURCE, otlp.Scope("scope", "1.2", {}))
EVERY_KIND_SAYS = [
    otlp.Metric(
        *_WHOSE,
        "packets",
        "{packet}",
        "of a test",
        "sum",
        "cumulative",
        monotonic=True,
        points=(otlp.Point(LABELS, START, NOW, BEYOND_DOUBLES),),
    ),
    otlp.Metric(*_WHOSE, "level", "", "", "gauge", "", monotonic=False, points=(otlp.Point({}, 0, NOW, 0.1),)),
    otlp.Metric(
        *_WHOSE,
        "explicit",
        "ms",
        "",
        "histogram",
        "delta",
        monotonic=False,
        points=(otlp.HistogramPoint(LABELS, START, NOW, 6, 21.25, 0.5, 11.0, (5.0, 10.0), (1, 2, 3)),),
    ),
    otlp.Metric(
        *_WHOSE,
        "octaves",
        "us",
        "",
        "exponential_histogram",
        "cumulative",
        monotonic=False,
        points=(
            otlp.ExponentialPoint(
                LABELS,
                START,
                NOW,
                6,
                7.5,
                0.0,
                3.5,
                2,
                2,
                0.0,
                otlp.Buckets(-2, (1, 0, 3)),
                otlp.Buckets(0, ()),
            ),
        ),
    ),
]


def over_http(made: Collector) -> HttpExporter:
    """The official exporter."""
    ca = str(made.ca) if made.ca.exists() else None
    return HttpExporter(f"{made.http}/v1/metrics", certificate_file=ca, compression=Compression.Gzip, timeout=2)


def over_grpc(made: Collector) -> GrpcExporter:
    """The official exporter."""
    credentials = ssl_channel_credentials(made.ca.read_bytes()) if made.ca.exists() else None
    return GrpcExporter(made.grpc, insecure=credentials is None, credentials=credentials, timeout=2)


def export(exporter: sdk.MetricExporter, data: sdk.MetricsData) -> bool:
    """Export once, and tell whether that succeeded."""
    try:
        return exporter.export(data) is sdk.MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()


def test_version() -> None:
    """The one that go.mod pins."""
    done = subprocess.run([str(binaries.find()), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"otelcol version {binaries.version()}\n"
    with pytest.raises(HarnessError, match="'nothing' is not built here"):
        binaries.find("nothing")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("connect", [over_http, over_grpc])
def test_collector_repeats_what_it_took(
    collector: StartCollector, connect: Callable[[Collector], sdk.MetricExporter], *, tls: bool
) -> None:
    """Number for number, from the official exporters; each request apart, and over a restart."""
    made = collector(tls=tls)
    assert made.requests() == []
    assert export(connect(made), EVERY_KIND)
    assert made.wait_for(lambda metrics: metrics) == EVERY_KIND_SAYS
    made.stop()
    made.start()
    assert export(connect(made), sent(counter(0.5)))
    made.wait_for(lambda metrics: len(metrics) > len(EVERY_KIND_SAYS))
    first, second = made.requests()
    assert first == EVERY_KIND_SAYS
    (point,) = second[0].points
    assert isinstance(point, otlp.Point)
    assert point.value == 0.5


def test_collector_repeats_what_is_missing(collector: StartCollector) -> None:
    """A point without a value is not 0, nor is a sum that was not given."""
    made = collector()
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    metrics.add(name="stale").gauge.data_points.add(flags=1, time_unix_nano=NOW)
    metrics.add(name="bare").exponential_histogram.data_points.add(count=2, scale=-1, zero_count=2)
    headers = {"Content-Type": "application/x-protobuf"}
    url = f"{made.http}/v1/metrics"
    assert urllib3.request("POST", url, body=request.SerializeToString(), headers=headers).status == 200
    stale, bare = made.wait_for(lambda found: found)
    (point,) = stale.points
    assert isinstance(point, otlp.Point)
    assert math.isnan(point.value)
    assert point.flags == 1
    nothing = otlp.Buckets(0, ())
    assert bare.points == (otlp.ExponentialPoint({}, 0, 0, 2, None, None, None, -1, 2, 0.0, nothing, nothing),)
    assert bare.temporality == "unspecified"


def test_collector_needs_its_certificate_trusted(collector: StartCollector) -> None:
    """Otherwise nothing is taken."""
    made = collector(tls=True)
    with pytest.raises(urllib3.exceptions.SSLError, match="certificate verify failed"):
        urllib3.request("POST", f"{made.http}/v1/metrics", body=b"", retries=False)
    assert urllib3.PoolManager(ca_certs=str(made.ca)).request("POST", f"{made.http}/v1/metrics").status == 415


def test_collector_has_limits(collector: StartCollector, caplog: pytest.LogCaptureFixture) -> None:
    """Too large a request is refused with what clients of a real collector get: 400, and RESOURCE_EXHAUSTED."""
    made = collector(max_recv_msg_size_mib=1, max_request_body_size=1000)
    large = sent(*(counter(number, f"{number:0100}") for number in range(10_000)))
    with caplog.at_level(logging.WARNING):
        assert not export(over_http(made), large)
        assert not export(over_grpc(made), large)
    assert "code: 400" in caplog.text
    assert "StatusCode.RESOURCE_EXHAUSTED" in caplog.text
    assert export(over_grpc(made), EVERY_KIND)
    assert made.wait_for(lambda metrics: metrics) == EVERY_KIND_SAYS


def test_collector_that_does_not_start_says_why(tmp_path: Path) -> None:
    """With the end of its log."""
    made = Collector(tmp_path)
    with (
        socket.create_server(("127.0.0.1", made.grpc_port)),
        pytest.raises(HarnessError, match=r"otelcol ended with status 1:\n(.*\n)*.*address already in use"),
    ):
        made.start()


def test_collector_waits_and_gives_up(collector: StartCollector) -> None:
    """With what there was instead."""
    made = collector()
    assert export(over_http(made), EVERY_KIND)
    made.wait_for(lambda metrics: metrics)
    with pytest.raises(TimeoutError, match=r"a fifth: not within 0.2 s; .* requests of \[4\] metrics"):
        made.wait_for(lambda metrics: len(metrics) > 4, 0.2, what="a fifth")


GOOD = b'# HELP packets_total Packets.\n# TYPE packets_total counter\npackets_total{pod="a"} 1\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD, ""),
        (b"", ""),
        (GOOD + b'packets_total{pod="a" 2\n', "error while linting: text format parsing error in line 4"),
        (GOOD + GOOD, "second HELP line for metric name"),
        (GOOD.replace(b"_total", b""), 'packets counter metrics should have "_total" suffix'),
    ],
)
def test_promtool(text: bytes, complaint: str) -> None:
    """It accepts what is right, and names what is wrong or unusual."""
    said = promtool_check_metrics(text)
    assert complaint in said
    assert bool(said) == bool(complaint)


class Page:
    """What is scraped, and what for."""

    def __init__(self) -> None:
        """Without a body there is only an error."""
        self.body = b""
        self.accept = ""
        self.port = 0


@pytest.fixture
def page() -> Iterator[Page]:
    """A tiny HTTP server."""
    made = Page()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.accept = self.headers["Accept"]
            self.send_response(200 if made.body else 500)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(made.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def test_prometheus_scrapes(prometheus: StartPrometheus, page: Page) -> None:
    """What it has been told is what it says, and it follows changes."""
    page.body = GOOD + b'packets_total{pod="b"} 41\n'
    made = prometheus(page.port)
    instance = {"instance": f"127.0.0.1:{page.port}", "job": "test"}
    found = made.wait_for("packets_total", lambda vector: vector)
    assert sorted(found, key=str) == [
        ({"__name__": "packets_total", "pod": "a", **instance}, 1.0),
        ({"__name__": "packets_total", "pod": "b", **instance}, 41.0),
    ]
    assert made.query("sum(packets_total)") == [({}, 42.0)]
    assert made.query("scalar(sum(packets_total)) + 1") == [({}, 43.0)]
    assert made.query("no_such_metric") == []
    page.body = page.body.replace(b"41", b"58")
    made.wait_for("sum(packets_total)", lambda vector: vector == [({}, 59.0)])
    (target,) = made.targets()
    assert (target.url, target.health, target.last_error) == (f"http://127.0.0.1:{page.port}/metrics", "up", "")


def test_prometheus_says_what_is_wrong(prometheus: StartPrometheus, page: Page) -> None:
    """Of a target that is not there, of one that fails, and of an expression."""
    (nobody,) = free_ports(1)
    made = prometheus(page.port, nobody)
    made.wait_for("up == 0", lambda vector: len(vector) == 2)
    errors = {target.url: (target.health, target.last_error) for target in made.targets()}
    assert errors[f"http://127.0.0.1:{page.port}/metrics"] == (
        "down",
        "server returned HTTP status 500 Internal Server Error",
    )
    health, error = errors[f"http://127.0.0.1:{nobody}/metrics"]
    assert health == "down"
    assert error.endswith("connection refused")
    with pytest.raises(AssertionError, match="parse error: unclosed left parenthesis"):
        made.query("sum(up")
    with pytest.raises(TimeoutError, match=r"up: not within 0.3 s.*'instance'.*connection refused"):
        made.wait_for("up", lambda vector: not vector, 0.3)


@pytest.mark.parametrize("native", [False, True], ids=["classic", "native"])
def test_prometheus_negotiates(prometheus: StartPrometheus, page: Page, *, native: bool) -> None:
    """It asks for protobuf where it is to keep native histograms, and for OpenMetrics otherwise."""
    page.body = GOOD
    prometheus(page.port, native_histograms=native).wait_for("up == 1", lambda vector: vector)
    wanted = "application/vnd.google.protobuf" if native else "application/openmetrics-text"
    assert page.accept.startswith(wanted)
    assert ("protobuf" in page.accept) == native


def test_native_histogram(collector: StartCollector, prometheus: StartPrometheus) -> None:
    """From OTLP through the collector's own endpoint to PromQL, as a histogram."""
    source = collector(prometheus=True)
    made = prometheus(source.prometheus_port, native_histograms=True)
    assert export(over_http(source), sent(exponential(), counter(7)))
    (found,) = made.wait_for("histogram_count(octaves_microseconds)", lambda vector: vector)
    assert found[1] == 6.0
    assert [value for _, value in made.query("histogram_sum(octaves_microseconds)")] == [7.5]
    assert made.query("octaves_microseconds") == []
    made.wait_for("packets_total", lambda vector: [value for _, value in vector] == [7.0])


class Client:
    """Posts metrics to a faulty endpoint, once each, over one connection while that lasts."""

    def __init__(self, faulty: Faulty) -> None:
        """Take the endpoint."""
        self.url = f"{faulty.url}/v1/metrics"
        self.pool = urllib3.PoolManager(retries=False, timeout=PATIENCE)

    def post(self, body: bytes = b"", **headers: str) -> urllib3.BaseHTTPResponse:
        """Send one request; raises what urllib3 does."""
        return self.pool.request("POST", self.url, body=body, headers=headers)


@pytest.fixture
def client(faulty: Faulty) -> Iterator[Client]:
    """Of `faulty`, with little patience."""
    made = Client(faulty)
    yield made
    made.pool.clear()


@pytest.mark.parametrize("compression", Compression)
def test_faulty_keeps_what_it_took(faulty: Faulty, compression: Compression) -> None:
    """Decoded number for number, and as it was on the wire."""
    before = time.monotonic()
    assert export(HttpExporter(f"{faulty.url}/v1/metrics", compression=compression), EVERY_KIND)
    (received,) = faulty.wait_received(1)
    assert before <= received.at <= time.monotonic()
    assert received.path == "/v1/metrics"
    assert received.metrics == EVERY_KIND_SAYS
    assert received.content_encoding == ("" if compression is Compression.NoCompression else compression.value)
    assert len(received.body) == int(received.headers["content-length"])
    assert (len(received.body) < received.message.ByteSize()) == bool(received.content_encoding)


@pytest.mark.parametrize("status", [413, 429, 500, 503])
def test_faulty_refuses(faulty: Faulty, client: Client, status: int) -> None:
    """With a status, and its reason as the protocol has it; on the same connection as before and after."""
    assert client.post().status == 200
    faulty.set(failure(status, "no room"))
    answer = client.post()
    assert (answer.status, Status.FromString(answer.data).message) == (status, "no room")
    assert answer.headers["Content-Type"] == "application/x-protobuf"
    assert "Retry-After" not in answer.headers
    faulty.set(failure(status, retry_after=7))
    assert client.post().headers["Retry-After"] == "7"
    faulty.set(OK)
    assert client.post().status == 200
    assert (len(faulty.received), faulty.connections) == (4, 1)


def test_faulty_in_turn(faulty: Faulty, client: Client) -> None:
    """One answer a request, and the last one for ever."""
    faulty.set(failure(503), failure(429), OK)
    assert [client.post().status for _ in range(4)] == [503, 429, 200, 200]


def test_faulty_partial_success(faulty: Faulty, client: Client) -> None:
    """A success that says what was not taken."""
    faulty.set(partial(3, "too old"))
    answer = client.post()
    assert answer.status == 200
    said = ExportMetricsServiceResponse.FromString(answer.data).partial_success
    assert (said.rejected_data_points, said.error_message) == (3, "too old")


def test_faulty_is_slow(faulty: Faulty, client: Client) -> None:
    """As long as told, so that a client gives up or does not."""
    faulty.set(slow(PATIENCE / 2))
    started = time.monotonic()
    assert client.post().status == 200
    assert time.monotonic() - started >= PATIENCE / 2
    faulty.set(slow(PATIENCE * 2))
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        client.post()
    assert len(faulty.received) == 2


def test_faulty_black_hole(faulty: Faulty, client: Client) -> None:
    """Takes connections and requests, and answers none of them; others go on afterwards."""
    faulty.set(Fault.BLACK_HOLE, OK)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        client.post(b"lost")
    assert client.post().status == 200
    assert [received.body for received in faulty.received] == [b"lost", b""]


def test_faulty_is_absent(faulty: Faulty, client: Client) -> None:
    """Open connections end, new ones are refused; then it is back on the same port."""
    assert client.post().status == 200
    port = faulty.port
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as idle:
        wait_until(lambda: faulty.connections == 2, deadline=5, what="both connections are accepted")
        faulty.set(Fault.ABSENT)
        assert idle.recv(1) == b""
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.post()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)
    faulty.set(OK)
    assert faulty.port == port
    assert client.post().status == 200
    assert len(faulty.received) == 2


def test_faulty_ends_at_once(client: Client) -> None:
    """Whoever waits for an answer gets none."""
    with Faulty() as faulty:
        client.url = faulty.url
        faulty.set(slow(60), Fault.BLACK_HOLE)
        client.pool = urllib3.PoolManager(retries=False, timeout=10)
        failed: list[Exception] = []

        def post() -> None:
            try:
                client.post(gzip.compress(b"x"))
            except urllib3.exceptions.ProtocolError as fault:
                failed.append(fault)

        waiting = [threading.Thread(target=post) for _ in range(2)]
        for thread in waiting:
            thread.start()
        faulty.wait_received(2)
        started = time.monotonic()
    for thread in waiting:
        thread.join()
    assert time.monotonic() - started < 5
    assert len(failed) == 2
