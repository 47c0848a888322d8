"""Two pods that talk while packets are lost, the agent that watches them, and two Prometheus that scrape it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.probes.items import ITEMS
from integration.lib import crafted, drops, links, traffic
from integration.lib.agent import running
from integration.lib.counters import FAMILIES
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.server import free_ports
from integration.lib.topology import Pair, Pod, routed_pair
from integration.telemetry import grafana
from integration.telemetry.faulty import Faulty
from integration.telemetry.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from prometheus_client import Metric

    from integration.lib.counters import Counters
    from integration.telemetry.grafana import Target
    from integration.telemetry.prometheus import Vector

CLIENT, SERVER = "default/client", "default/db.1"
LOST = 10
"""One of so many packets is, on its way to the server."""
DATAGRAMS = 40
EXCHANGES = 100
LONG = 8081
"""The port of the connections on which they are made, one for each family."""
FAILED, SUCCESSFUL, DURATION = 1, 3, 0.02
"""Health checks of the server, and the seconds that each takes."""

Chosen = Mapping[str, "Sequence[str]"]
"""What is picked of each variable; what is not named is at All."""
NOTHING: Chosen = {}


@dataclass(frozen=True)
class Scene:
    """What happened, and who knows of it."""

    classic: Prometheus
    native: Prometheus
    client: Counters
    server: Counters
    """What the kernel counted."""
    arrived: Mapping[str, int]
    """Datagrams by family."""
    round_trips: Sequence[int]
    """What the kernel said of the IPv4 connection's, in us."""
    at: float
    window: int
    """Seconds before `at` in which it happened."""

    def ask(self, target: Target, chosen: Chosen = NOTHING, *, native: bool = False) -> Vector:
        """What a query answers, without what is not a number."""
        expr = grafana.interpolate(target.expr, grafana.dashboards()[target.dashboard], chosen, seconds=self.window)
        if target.kind == "heatmap" and "_bucket" not in expr:
            expr = f"histogram_count({expr})"
        server = self.native if native else self.classic
        return [one for one in server.query(expr, self.at) if not math.isnan(one[1])]

    def of(self, pod: str, target: Target, chosen: Chosen = NOTHING) -> float:
        """The value of one pod."""
        (value,) = [value for labels, value in self.ask(target, chosen) if labels["pod"] == pod]
        return value


class Checks:
    """The health item's metrics, by the names that docs give them; nobody measures here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ("pod", "task", "ipfamily", "command")
        labels = (SERVER, "kube-system/pod", "ipv4", "curl")
        self._status = Gauge("dolphin_health_check_status", "", names, registry=registry).labels(*labels)
        self._good = Counter("dolphin_health_check_successful", "", names, registry=registry).labels(*labels)
        self._bad = Counter("dolphin_health_check_failed", "", names, registry=registry).labels(*labels)
        self._took = Histogram("dolphin_health_check_duration_seconds", "", names, registry=registry).labels(*labels)
        self._status.set(1)

    def happen(self) -> None:
        """Some checks, after which the pod is unhealthy."""
        self._good.inc(SUCCESSFUL)
        self._bad.inc(FAILED)
        for _ in range(SUCCESSFUL + FAILED):
            self._took.observe(DURATION)
        self._status.set(0)


class Ages:
    """How old the knowledge of an agent in a cluster is; this test's agent runs standalone."""

    def __init__(self) -> None:
        self.own = OwnMetrics(lambda: Vitals(watch_ages={"pods": 31, "monitorpolicies": 42}))

    def collect(self) -> Iterable[Metric]:
        """Nothing but the ages, as an agent writes them."""
        return [family for family in self.own.collect() if family.name == "dolphin_agent_watch_age_seconds"]


@contextmanager
def played(directory: Callable[[str], Path]) -> Iterator[Scene]:
    """Two tasks count the same pods per pod, and one per flow, while packets are lost."""
    with ExitStack() as stack:
        pods = stack.enter_context(routed_pair("dash"))
        checks, port = stack.enter_context(_stand_ins())
        pushed = stack.enter_context(Faulty())
        agent = stack.enter_context(
            running(
                _manifests(pods, directory("agent")),
                directory("log"),
                options=["--collect-interval", "1s", "--otlp-endpoint", pushed.url],
                env={"no_proxy": "*"},
            )
        )
        agent.wait_ready(30)
        classic, native = (
            stack.enter_context(Prometheus(directory("prometheus"), agent.port, port, native_histograms=histograms))
            for histograms in (False, True)
        )
        # So that every series is there before what is measured: rate() does not see how one begins.
        _talk(pods, 1)
        _trouble(pods, 1)
        _scraped(
            (classic, native), agent.settled(pods.a.counters)[0].value("dolphin_ip_send_packets_total", pod=CLIENT)
        )
        began = time.time()
        # The window begins at most this long after that.
        _scraped_after(began + 1.5, (classic, native))
        before = pods.a.counters(), pods.b.counters()
        checks.happen()
        assert pods.router
        with links.lossy_arrival(pods.router, "to-a", every=LOST):
            arrived, round_trips = _talk(pods, DATAGRAMS, EXCHANGES)
        # Where no SYN is lost: of those that nobody answers, retransmissions would begin a series.
        _trouble(pods, DATAGRAMS // 4 + 1)
        samples, after = agent.settled(lambda: (pods.a.counters(), pods.b.counters()))
        _scraped((classic, native), samples.value("dolphin_ip_send_packets_total", pod=CLIENT))
        _scraped_after(time.time(), (classic, native))
        at = time.time()
        yield Scene(
            classic,
            native,
            after[0] - before[0],
            after[1] - before[1],
            arrived,
            round_trips,
            at,
            round(at - began - 1),
        )


@contextmanager
def _stand_ins() -> Iterator[tuple[Checks, int]]:
    """Serve what this test's agent does not; yields the checks, and the port where all of it is scraped."""
    registry = CollectorRegistry()
    checks, ages = Checks(registry), Ages()
    registry.register(ages)
    (port,) = free_ports(1)
    server, thread = start_http_server(port, "127.0.0.1", registry)
    try:
        yield checks, port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        ages.own.close()


def _manifests(pods: Pair, root: Path) -> Manifests:
    made = Manifests(root)
    items = {granularity: [i.name for i in ITEMS if granularity in i.metrics] for granularity in ("pod", "flow")}
    made.write_policy("pod", items["pod"])
    made.write_policy("again", items["pod"])
    made.write_policy("flow", items["flow"], granularity="flow")
    made.write_pods(PodManifest("client", pods.a.netns.path), PodManifest("db.1", pods.b.netns.path))
    return made


def _talk(pods: Pair, count: int, exchanges: int = 1) -> tuple[dict[str, int], list[int]]:
    """Return how many datagrams arrived, and the round-trip times that the kernel tells of IPv4's connection."""
    arrived: dict[str, int] = {}
    times: dict[str, list[int]] = {}
    for family in FAMILIES:
        times[family] = traffic.exchanges(pods.a, pods.b, family, count=exchanges, port=LONG)
        traffic.connections(pods.a, pods.b, family, count=count // 4 + 1)
        arrived[family] = traffic.datagrams(pods.a, pods.b, family, count=count, size=300)
    return arrived, times["ipv4"]


def _trouble(pods: Pair, count: int) -> None:
    """What is refused, dropped or malformed."""
    for family in FAMILIES:
        traffic.refused(pods.a, pods.b, family, count=count)
        drops.both_ways(pods, family, count=count)
    _malformed(pods, count)


def _malformed(pods: Pair, count: int) -> None:
    """Send what the server refuses from the router's end of its wire, where nobody counts what is sent."""
    assert pods.router
    port, stranger, server = Pod(pods.router, "to-b", "10.8.2.1", "fd08:2::1"), "10.8.2.50", pods.b.ipv4
    with crafted.wire(port, pods.b) as line:
        for _ in range(count):
            line.send(crafted.ipv4(stranger, server, bytes(20), wrong_sum=True), "ipv4")
            line.send(crafted.tcp("ipv4", (stranger, 1000), (server, 9), crafted.ACK, wrong_sum=True), "ipv4")


def _scraped(servers: Iterable[Prometheus], value: float) -> None:
    """Wait until everybody has it, twice."""
    query = f'sum(dolphin_ip_send_packets_total{{pod="{CLIENT}"}})'
    for server in servers:
        server.wait_for(query, lambda found: found and found[0][1] == value)
    time.sleep(2)


def _scraped_after(moment: float, servers: Iterable[Prometheus]) -> None:
    """Wait until everybody has scraped the agent and the stand-ins, once more at least."""
    for server in servers:
        for series in ("dolphin_agent_build_info", "dolphin_health_check_status"):
            server.wait_for(f"timestamp({series})", lambda found: found and found[0][1] > moment)
