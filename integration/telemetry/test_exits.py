"""Both exits of a running agent: equal to each other, and to the kernel; and what becomes of them in trouble."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from integration.lib import traffic
from integration.lib.agent import COMMAND, Agent, running
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import Pair, joined_pair
from integration.lib.wait import wait_until
from integration.telemetry.faulty import OK, Answer, Fault, failure, partial, slow
from integration.telemetry.otlp import ExponentialPoint, Point
from integration.telemetry.prometheus import promtool_check_metrics
from tests.export.client_model import decode, native_buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from integration.telemetry.conftest import StartCollector, StartPrometheus
    from integration.telemetry.faulty import Faulty
    from integration.telemetry.otlp import Metric

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
INTERVAL = 1.0
HEALTH_SECONDS = 10
"""Between two pings of a pod: time for both exits to show the same."""
PROMETHEUS_INDEX = 1
"""A native histogram's bucket has this number more than an exponential histogram's: the one is named after its end,
the other after its beginning."""

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def pods() -> Iterator[Pair]:
    """Two pods that can talk."""
    with joined_pair("exit") as pair:
        yield pair


@pytest.fixture
def manifests(pods: Pair, tmp_path: Path) -> Manifests:
    """Every item of both pods and a health check, with a pod label that needs every kind of care."""
    made = Manifests(tmp_path)
    names = ["ipReceive", "ipSend", "tcpReceive", "tcpSend", "tcpRetrans"]
    made.write_policy("pod", [*names, "tcpNewConnection", "tcpConnectFail"], pod_label=["app", "example.com/tier"])
    made.write_policy("flow", [*names, "tcpRtt"], granularity="flow")
    made.write_policy("health", [], pod_label=["example.com/tier"], health={"periodSeconds": HEALTH_SECONDS})
    labels = {"app": "web", "example.com/tier": "front"}
    # No way leads from here to the pods: this machine itself answers pings.
    made.write_pods(
        PodManifest("a", pods.a.netns.path, labels=labels, ips=["127.0.0.1"]),
        PodManifest("b", pods.b.netns.path, labels=labels, ips=["127.0.0.2"]),
    )
    return made


@pytest.fixture
def start_agent(manifests: Manifests, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start an agent that pushes every second."""
    contexts = []

    def start(*options: str, env: Mapping[str, str] | None = None, program: Sequence[str] = (str(COMMAND),)) -> Agent:
        options = ("--collect-interval", f"{INTERVAL}s", *options)
        context = running(manifests, tmp_path, options=options, env=env, program=program)
        agent = context.__enter__()
        contexts.append(context)
        agent.wait_ready(30)
        return agent

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def talk(pods: Pair) -> None:
    """TCP and UDP of both families, some of it over many flows."""
    for family in ("ipv4", "ipv6"):
        traffic.exchanges(pods.a, pods.b, family, count=20)
        traffic.connections(pods.a, pods.b, family, count=11)
        traffic.refused(pods.a, pods.b, family, count=3)
        traffic.datagrams(pods.a, pods.b, family, count=7, size=300)


def fetch(agent: Agent, accept: str) -> tuple[bytes, str]:
    """A scrape's body, and its content type."""
    request = urllib.request.Request(f"http://127.0.0.1:{agent.port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return answer.read(), answer.headers["Content-Type"]


def labels_of(attributes: Mapping[str, Any]) -> Labels:
    """A series' labels, from its OTLP attributes."""
    names = {
        "network.type": "ipfamily",
        "network.transport": "protocol",
        "source.address": "srcip",
        "destination.address": "dstip",
        "source.port": "srcport",
        "destination.port": "dstport",
        "dolphin.task": "task",
        "dolphin.direction": "direction",
        "dolphin.command": "command",
        "dolphin.reason": "reason",
        "k8s.pod.label.app": "app",
        "k8s.pod.label.example.com/tier": "example_com_tier",
    }
    found = {names[key]: str(value) for key, value in attributes.items() if key in names}
    found["pod"] = f"{attributes['k8s.namespace.name']}/{attributes['k8s.pod.name']}"
    if attributes.get("dolphin.flow") == "other":
        found |= dict.fromkeys(("srcip", "dstip", "srcport", "dstport", "protocol"), "other")
    elif "srcip" in found:
        found = {"srcport": "ephemeral", "dstport": "ephemeral", **found}
    known = {*names, "k8s.namespace.name", "k8s.pod.name", "dolphin.flow"}
    assert attributes.keys() <= known, attributes
    return frozenset(found.items())


def pushed(metrics: list[Metric]) -> dict[tuple[str, Labels], Any]:
    """The last value of each series that was pushed: (value or buckets, sum, start)."""
    found: dict[tuple[str, Labels], Any] = {}
    for metric in metrics:
        assert metric.temporality == ("" if metric.kind == "gauge" else "cumulative")
        for point in metric.points:
            key = (metric.name, labels_of(point.attributes))
            if isinstance(point, ExponentialPoint):
                counts = point.positive.counts
                first = point.positive.offset + PROMETHEUS_INDEX
                buckets = {first + index: count for index, count in enumerate(counts) if count}
                found[key] = (buckets, point.sum, point.start_time_unix_nano)
            elif isinstance(point, Point):
                found[key] = (point.value, None, point.start_time_unix_nano)
    return found


def scraped(agent: Agent) -> dict[tuple[str, Labels], Any]:
    """The same of a scrape in protobuf, without what the agent says of itself."""
    body, kind = fetch(agent, PROTOBUF)
    assert kind.startswith("application/vnd.google.protobuf")
    found: dict[tuple[str, Labels], Any] = {}
    for family in decode(body):
        if family.name.startswith("dolphin_agent_"):
            continue
        for metric in family.metric:
            labels = frozenset((pair.name, pair.value) for pair in metric.label)
            if metric.HasField("histogram"):
                histogram = metric.histogram
                buckets = native_buckets(histogram)
                if histogram.zero_count:
                    # OTLP has no zero bucket of that width.
                    buckets[round(math.log2(histogram.zero_threshold) * 2**histogram.schema)] = histogram.zero_count
                value: Any = {index: n for index, n in buckets.items() if n}
                start, total = histogram.created_timestamp, histogram.sample_sum
            elif metric.HasField("gauge"):
                found[family.name, labels] = (metric.gauge.value, None, 0)
                continue
            else:
                value, total, start = metric.counter.value, None, metric.counter.created_timestamp
            found[family.name, labels] = (value, total, start.seconds * 10**9 + start.nanos)
    return found


ENCODING_ANEW = """
import sys
from dolphin_agent import cli
from dolphin_agent.export import otlp

otlp.shortcut = lambda _: None
sys.exit(cli.main())
"""
"""The agent with exporters that have no door for requests made already."""


@pytest.mark.parametrize("program", [(str(COMMAND),), (sys.executable, "-c", ENCODING_ANEW)], ids=["", "encoding anew"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_both_exits_are_equal(
    protocol: str, program: Sequence[str], pods: Pair, start_agent: Callable[..., Agent], collector: StartCollector
) -> None:
    """Every series: labels, value, start, bucket by bucket."""
    made = collector()
    endpoint = made.http if protocol == "http/protobuf" else made.grpc
    agent = start_agent(
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol},
        program=program,
    )
    talk(pods)
    status = "dolphin_health_check_status"
    wait_until(lambda: agent.value(status) == 2, deadline=2 * HEALTH_SECONDS, what="both pods have been asked")

    def rests() -> tuple[dict[tuple[str, Labels], Any], dict[tuple[str, Labels], Any]] | None:
        """A scrape and a push between two pings."""
        pull = scraped(agent)
        time.sleep(3 * INTERVAL)
        push = pushed(made.metrics())
        return (pull, push) if scraped(agent) == pull else None

    found = wait_until(rests, deadline=3 * HEALTH_SECONDS, what="no ping in between")
    assert found
    pull, push = found
    assert len(pull) > 50
    names = {"dolphin_flow_tcp_rtt_microseconds", "dolphin_ip_send_bytes_total", status}
    assert {name for name, _ in pull} >= names | {"dolphin_health_check_duration_seconds"}
    assert push.keys() ^ pull.keys() == set()
    assert {key: (value, push[key]) for key, value in pull.items() if push[key] != value} == {}
    metric = made.metrics()[-1]
    assert metric.resource["service.name"] == "dolphin-agent"
    units = {metric.name: metric.unit for metric in made.metrics()}
    assert units["dolphin_ip_send_bytes_total"] == "By"
    assert units["dolphin_flow_tcp_rtt_microseconds"] == "us"
    assert units["dolphin_health_check_duration_seconds"] == "s"


def packets_of_b(series: Mapping[tuple[str, Labels], Any]) -> list[tuple[int, int]]:
    """Value and start of each series of packets that pod b received."""
    name = "dolphin_ip_receive_packets_total"
    return [
        (int(v), start) for (one, of), (v, _, start) in series.items() if one == name and ("pod", "default/b") in of
    ]


def test_last_values_of_a_pod_that_is_gone(
    pods: Pair, manifests: Manifests, start_agent: Callable[..., Agent], collector: StartCollector
) -> None:
    """They leave once more by both exits, to the last packet, and never again; if it returns, it begins at zero."""
    made = collector()
    before = pods.b.counters()
    agent = start_agent(env={"OTEL_EXPORTER_OTLP_ENDPOINT": made.http})
    wait_until(lambda: packets_of_b(scraped(agent)), deadline=10, what="the pod is counted")
    declared = manifests.pods.read_text()
    talk(pods)
    manifests.write_pods(PodManifest("a", pods.a.netns.path))
    wait_until(
        lambda: json.loads(agent.get("/readyz")[1])["tasks"]["kube-system/pod"] == 1, deadline=10, what="it left"
    )
    moved = pods.b.counters() - before
    counted = moved.ip_receive_packets("ipv4") + moved.ip_receive_packets("ipv6")

    time.sleep(INTERVAL)  # or the scrape shares a reading from before
    last = packets_of_b(scraped(agent))
    assert sum(value for value, _ in last) == counted
    time.sleep(2 * INTERVAL)
    assert packets_of_b(scraped(agent)) == []
    requests = [packets_of_b(pushed(request)) for request in made.requests()]
    assert requests[-1] == []
    assert [one for one in requests if one][-1] == last

    manifests.pods.write_text(declared)
    wait_until(lambda: packets_of_b(scraped(agent)), deadline=10, what="it is back")
    again = packets_of_b(scraped(agent))
    assert [value for value, _ in again] == [0] * len(last)
    assert min(start for _, start in again) > max(start for _, start in last)


MOST_OWN = 40


def test_own_metrics_are_few(
    pods: Pair, manifests: Manifests, start_agent: Callable[..., Agent], faulty: Faulty
) -> None:
    """Whatever is monitored: they do not grow with policies, pods or flows."""
    for number in range(5):
        manifests.write_policy(f"more{number}", ["ipReceive", "tcpRtt", "tcpSend"], granularity="flow")
    agent = start_agent(env={"OTEL_EXPORTER_OTLP_ENDPOINT": faulty.url})
    faulty.wait_received(1)
    talk(pods)
    time.sleep(1)
    samples = agent.metrics()
    own = sorted(str((name, dict(labels))) for name, labels in samples.values if name.startswith("dolphin_agent_"))
    assert samples.value("dolphin_agent_tasks") == 8
    assert len(samples.monitored()) > 10 * MOST_OWN
    assert len(own) <= MOST_OWN, "\n".join(own)


@pytest.mark.parametrize("native", [False, True], ids=["openmetrics", "protobuf"])
def test_prometheus_answers_what_the_kernel_counted(
    native: bool,  # noqa: FBT001 - a parameter of the test
    pods: Pair,
    start_agent: Callable[..., Agent],
    prometheus: StartPrometheus,
) -> None:
    """A real server scrapes; PromQL over it equals the pod's own counters."""
    before = pods.b.counters()
    agent = start_agent()
    server = prometheus(agent.port, native_histograms=native)
    time.sleep(1)
    assert pods.b.counters() == before, "the pods are not quiet"
    talk(pods)
    time.sleep(2)
    moved = pods.b.counters() - before
    query = 'sum(dolphin_ip_receive_packets_total{pod="default/b",ipfamily="ipv4"})'
    server.wait_for(query, lambda found: found and found[0][1] == moved.ip_receive_packets("ipv4"))
    flows = 'sum(dolphin_flow_ip_receive_packets_total{pod="default/b",ipfamily="ipv4"})'
    assert server.query(flows)[0][1] == moved.ip_receive_packets("ipv4"), "flows and other are the pod"
    count = "dolphin_flow_tcp_rtt_microseconds" if native else "dolphin_flow_tcp_rtt_microseconds_count"
    samples = server.query(f"histogram_count(sum({count}))" if native else f"sum({count})")
    assert samples[0][1] >= 40
    quantile = (
        "sum(dolphin_flow_tcp_rtt_microseconds)" if native else "sum by(le)(dolphin_flow_tcp_rtt_microseconds_bucket)"
    )
    assert 0 < server.query(f"histogram_quantile(0.5, {quantile})")[0][1] < 10_000
    assert all(target.health == "up" for target in server.targets())


def test_promtool_finds_nothing(pods: Pair, start_agent: Callable[..., Agent]) -> None:
    """`promtool check metrics`, over the text format; but for the unit, which is the kernel's and the API's."""
    agent = start_agent()
    talk(pods)
    time.sleep(1)
    complaints = promtool_check_metrics(fetch(agent, "text/plain")[0])
    assert complaints == 'dolphin_flow_tcp_rtt_microseconds use base unit "seconds" instead of "microseconds"'


def total(metrics: list[Metric]) -> int:
    """Packets that pod b received, as pushed last."""
    series = pushed(metrics)
    return sum(
        value
        for (name, labels), (value, _, _) in series.items()
        if name == "dolphin_ip_receive_packets_total" and ("pod", "default/b") in labels
    )


@pytest.mark.parametrize(
    "mode",
    [
        Fault.ABSENT,
        Fault.BLACK_HOLE,
        failure(413),
        failure(429, retry_after=1),
        failure(500),
        failure(503),
        slow(20),
        partial(3, "some are too old"),
    ],
    ids=["absent", "black hole", "413", "429", "500", "503", "slow", "partial"],
)
def test_push_in_trouble(mode: Answer | Fault, pods: Pair, start_agent: Callable[..., Agent], faulty: Faulty) -> None:
    """Counting goes on, the log stays quiet, memory flat; the first push after it has all of it."""
    agent = start_agent(env={"OTEL_EXPORTER_OTLP_ENDPOINT": faulty.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "2"})
    faulty.wait_received(2)
    settled = agent.rss()
    lines = agent.log.count("\n")
    faulty.set(mode)
    before = pods.b.counters()
    for _ in range(6):
        talk(pods)
        time.sleep(1)
        began = time.monotonic()
        agent.metrics()
        assert time.monotonic() - began < 1, "a scrape waits for a push"
    moved = pods.b.counters() - before
    expected = moved.ip_receive_packets("ipv4") + moved.ip_receive_packets("ipv6")
    assert agent.rss() - settled < 12 << 20
    if not isinstance(mode, Answer) or mode.status >= 400:
        assert agent.value("dolphin_agent_otlp_pushes_total", result="failed") >= 1
    assert agent.log.count("\n") - lines <= 2, agent.log
    count = len(faulty.received)
    faulty.set(OK)
    recovered = time.monotonic()
    wait_until(
        lambda: any(total(one.metrics) >= expected for one in faulty.received[count:]),
        deadline=10,
        what="the first push has all",
    )
    print(f"recovered after {time.monotonic() - recovered:.1f} s")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_certificate_that_is_not_trusted(
    protocol: str, start_agent: Callable[..., Agent], collector: StartCollector
) -> None:
    """One line, which names the remedy; with that, everything arrives."""
    made = collector(tls=True)
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": made.http if protocol == "http/protobuf" else made.grpc,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }
    agent = start_agent(env=variables)
    lines = agent.log.count("\n")
    wait_until(
        lambda: agent.value("dolphin_agent_otlp_pushes_total", result="failed") >= 3, deadline=20, what="pushes fail"
    )
    said = [line for line in agent.log.splitlines() if "OTEL_EXPORTER_OTLP_CERTIFICATE" in line]
    assert len(said) == 1, agent.log
    assert agent.log.count("\n") - lines <= 1, agent.log
    assert made.requests() == []
    agent.terminate()
    start_agent(env={**variables, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(made.ca)})
    made.wait_for(lambda metrics: metrics)


def test_end_with_a_collector_that_never_answers(pods: Pair, start_agent: Callable[..., Agent], faulty: Faulty) -> None:
    """SIGTERM: exit 0 within 5 s; with one that answers, the last push has everything."""
    agent = start_agent("--otlp-endpoint", faulty.url)
    faulty.wait_received(1)
    talk(pods)
    before = len(faulty.received)
    status, seconds = agent.terminate()
    assert (status, seconds < 5) == (0, True)
    assert total(faulty.received[-1].metrics) > 0
    assert len(faulty.received) > before
    faulty.set(Fault.BLACK_HOLE)
    agent = start_agent("--otlp-endpoint", faulty.url)
    agent.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert agent.process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert not re.search(r"Traceback", agent.log)
