"""The same flows behind three exits: ours, the SDK's PrometheusMetricReader, a plain prometheus_client collector."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import Counter, MeterProvider
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily

from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.export.exposition import Exposition
from dolphin_agent.export.http import Endpoint
from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.policy.model import MonitorPolicy
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.engine import Drain
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.readings import SHARED_SECONDS
from dolphin_agent.snapshot.ledger import Ledger
from integration.bench.userspace import BACKEND, SLOT, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.metrics.export import CardinalityLimits
    from prometheus_client import Metric

    from dolphin_agent.snapshot.model import Labels, Snapshot

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
