"""What an exit costs with many flows: ours, the SDK's PrometheusMetricReader, and a plain prometheus_client collector.

Each is a process of its own that has the same flows, counts them anew before a scrape, and is scraped from here; then
by many at once while a thread collects every second. Last, what OTLP costs, ours and the SDK's encoder.
`make bench-userspace`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily

from dolphin_agent.agent import relax_collector
from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.export.exposition import Exposition
from dolphin_agent.export.http import Endpoint
from dolphin_agent.export.otlp_data import batches
from dolphin_agent.export.otlp_request import make_envelope, requests
from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.log import configure
from dolphin_agent.policy.model import MonitorPolicy
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.engine import Drain
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.readings import SHARED_SECONDS
from dolphin_agent.snapshot.ledger import Ledger
from integration.bench.userspace import BACKEND, SLOT, resident, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.sdk.metrics.export import CardinalityLimits
    from prometheus_client import Metric

    from dolphin_agent.snapshot.model import Labels, Snapshot


SCRAPES = 100
PARALLEL = 20
PARALLEL_SECONDS = 10.0
TICK = 0.001
POLICY = MonitorPolicy("kube-system", "bench", monitor=FrozenMap({"ipReceive": Granularity.FLOW}))


class Collected:
    """Flows as the agent has them; used by any thread."""

    def __init__(self, series: int) -> None:
        flows = series // 2  # packets and bytes
        self._ledger = Ledger(Limits(max_flows=flows), idle_seconds=300.0)
        self._ledger.follow(make_plan([POLICY], [BACKEND]).series, 1.0)
        self._drain = Drain({}, {SLOT: BACKEND.key}, (table(flows),))
        self._lock = threading.Lock()
        self._taken = float("-inf")
        self._snapshot = self.collect()

    def collect(self, older_than: float = 0.0) -> Snapshot:
        """Add a drain with every flow, and take a snapshot, unless there is one that is younger, in seconds."""
        with self._lock:
            if time.monotonic() - self._taken >= older_than:
                now = time.time()
                self._ledger.credit(self._drain, now)
                self._snapshot = self._ledger.snapshot(now)
                self._taken = time.monotonic()
            return self._snapshot

    def fresh(self) -> Snapshot:
        """As a scrape gets it."""
        return self.collect(SHARED_SECONDS)


class Gaps(threading.Thread):
    """Wakes each millisecond; the longest time that it could not is how long one step kept all threads waiting.

    By the clock or in processor time of this process, whichever is less: neither other processes nor what threads do
    side by side, such as sending, makes it longer.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.start()

    def run(self) -> None:
        """Measure for ever."""
        before = time.monotonic(), time.process_time()
        while True:
            time.sleep(TICK)
            now = time.monotonic(), time.process_time()
            self.longest = max(self.longest, min(b - a for a, b in zip(before, now, strict=True)))
            before = now


def serve_ours(collected: Collected) -> int:
    """Return the port."""
    exposition = Exposition(OwnMetrics(Vitals))
    endpoint = Endpoint(("127.0.0.1", 0), {"/metrics": lambda request: exposition.answer(collected.fresh(), request)})
    endpoint.__enter__()
    return endpoint.port


class PlainCollector:
    """The obvious way to write it."""

    def __init__(self, collected: Collected) -> None:
        self._collected = collected

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For prometheus_client."""
        for family in self._collected.fresh().families:
            names = [name for name, _ in family.points[0].labels]
            made = CounterMetricFamily(family.metric.name, family.metric.help, labels=names)
            for point in family.points:
                made.add_metric([value for _, value in point.labels], point.value)
            yield made


def serve_plain(collected: Collected) -> int:
    """Return the port."""
    registry = CollectorRegistry()
    registry.register(PlainCollector(collected))
    server, _ = start_http_server(0, "127.0.0.1", registry)
    return int(server.server_port)


class Counting(CollectorRegistry):
    """Has everything counted before each scrape."""

    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__()
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """As a scrape asks."""
        self._count()
        return iter(super().collect())


def serve_reader(collected: Collected) -> int:
    """Return the port."""
    before: dict[tuple[Labels, Labels, str], int] = {}

    def count() -> None:
        for family in collected.fresh().families:
            name = family.metric.name
            for common, value, _, flow in family.points:
                counters[name].add(value - before.get((common, flow, name), 0), dict(common.pairs + flow.pairs))
                before[common, flow, name] = value

    registry = Counting(count)
    families = collected.fresh().families
    # By default the SDK adds up everything beyond 2,000 series of a metric.
    limits: CardinalityLimits = {Counter: max(len(family.points) for family in families) + 1}
    reader = PrometheusMetricReader(
        disable_target_info=True, scope_info_enabled=False, registry=registry, cardinality_limits=limits
    )
    meter = MeterProvider([reader]).get_meter("bench")
    counters = {family.metric.name: meter.create_counter(family.metric.name) for family in families}
    server, _ = start_http_server(0, "127.0.0.1", registry)
    return int(server.server_port)


SERVE = {"ours": serve_ours, "PrometheusMetricReader": serve_reader, "prometheus_client": serve_plain}


def child(kind: str, series: int) -> None:
    """Serve, and answer each line of standard input with what there is to say."""
    relax_collector()
    configure("error", "console")
    empty = resident()
    collected = Collected(series)
    port = SERVE[kind](collected)
    gaps, late = Gaps(), 0.0

    def collect() -> None:
        nonlocal late
        due = time.monotonic()
        while True:
            due += 1
            time.sleep(max(0.0, due - time.monotonic()))
            collected.collect()
            late = max(late, time.monotonic() - due)

    for line in sys.stdin:
        if line.strip() == "collect":
            threading.Thread(target=collect, daemon=True).start()
        used = resource.getrusage(resource.RUSAGE_SELF)
        said = {
            "port": port,
            "grown": resident() - empty,
            "cpu": used.ru_utime + used.ru_stime,
            "gap": gaps.longest,
            "late": late,
        }
        gaps.longest = 0.0
        print(json.dumps(said), flush=True)


def scrape(port: int) -> tuple[float, int]:
    """Seconds, and lines of series."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    began = time.monotonic()
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    taken = time.monotonic() - began
    connection.close()
    return taken, body.count(b"\ndolphin_flow_")


def measure(kind: str, series: int, scrapes: int) -> None:
    """Print a row."""
    command = [sys.executable, "-m", __spec__.name, "--series", str(series), "--child", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def ask(what: str = "") -> dict[str, float]:
            print(what, file=process.stdin, flush=True)
            assert process.stdout
            answer: dict[str, float] = json.loads(process.stdout.readline())
            return answer

        port = int(ask()["port"])
        assert scrape(port)[1] >= series, "not all series are there"
        before = ask()
        times = []
        for _ in range(scrapes):
            time.sleep(SHARED_SECONDS)
            times.append(scrape(port)[0])
        alone = ask()
        ask("collect")
        end = time.monotonic() + PARALLEL_SECONDS

        def repeat() -> None:
            while time.monotonic() < end:
                scrape(port)

        threads = [threading.Thread(target=repeat) for _ in range(PARALLEL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = ask()
        process.kill()
    cpu = (alone["cpu"] - before["cpu"]) / scrapes
    centiles = statistics.quantiles(times, n=100)
    print(
        f"{kind:24}{centiles[49]:8.3f}{centiles[98]:8.3f}{cpu:8.3f}{alone['gap'] * 1000:8.0f}"
        f"{alone['grown'] / 2**20:8.1f}{together['late']:10.3f}{together['gap'] * 1000:8.0f}"
        f"{together['grown'] / 2**20:8.1f}",
        flush=True,
    )


def timed(title: str, make: Callable[[], Iterable[bytes]]) -> None:
    """Do it and print its processor time, the longest step for other threads, and the size."""
    gaps, started = Gaps(), time.process_time()
    size = sum(len(one) for one in make())
    taken = time.process_time() - started
    print(f"{title:36}{taken:8.3f}{gaps.longest * 1000:8.0f}{size / 2**20:8.1f}", flush=True)


def otlp(series: int) -> None:
    """Print what building and encoding all requests costs."""
    collected = Collected(series)
    relax_collector()
    resource_, scope = Resource({"service.name": "bench"}), InstrumentationScope("bench")
    envelope = make_envelope(resource_, scope)

    def ours() -> Iterator[bytes]:
        return (one.SerializeToString() for one in requests(collected.collect(), envelope))

    def sdk() -> Iterator[bytes]:
        made = batches(collected.collect(), resource_, scope)
        return (encode_metrics(one).SerializeToString() for one in made)

    timed("collecting alone", lambda: (b"" for _ in [collected.collect()]))
    timed("OTLP, attributes written down", ours)
    timed("OTLP, attributes known", ours)
    timed("OTLP, by the SDK's encoder", sdk)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=50_000, metavar="N", help="flow series (50000)")
    parser.add_argument("--scrapes", type=int, default=SCRAPES, metavar="N", help=f"one by one ({SCRAPES})")
    parser.add_argument("--child", choices=SERVE, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.series)
        return 0
    print(f"{options.series} flow series    one scraper: seconds        GIL   grown   {PARALLEL} at once: GIL   grown")
    print(f"{'':24}{'median':>8}{'p99':>8}{'CPU':>8}{'ms':>8}{'MiB':>8}{'late, s':>10}{'ms':>8}{'MiB':>8}")
    for kind in SERVE:
        measure(kind, options.series, options.scrapes)
    print(f"\n{'':36}{'CPU, s':>8}{'GIL, ms':>8}{'MiB':>8}")
    otlp(options.series)
    return 0


if __name__ == "__main__":
    sys.exit(main())
