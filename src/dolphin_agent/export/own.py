"""The agent's own few metrics: ordinary OpenTelemetry instruments, read through the SDK's Prometheus exporter."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions
    from prometheus_client import Metric


@dataclass(frozen=True)
class Vitals:
    """What the agent says about itself; one immutable reading."""

    lost: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(item or `all`, reason) -> events that may be missing since the agent started."""
    hooks: tuple[str, ...] = ()
    """Hooks attached now."""
    pods: int = 0
    tasks: int = 0
    series: int = 0
    problems: int = 0
    flows: int = 0
    """Flow records kept now."""
    flows_refused: int = 0
    max_flows: int = 0
    drain_seconds: float = 0.0
    """How long the last drain took, the wait for running programs included."""
    snapshot_seconds: float = 0.0
    """How long it took to make the last snapshot of the totals."""
    scrape_seconds: float = 0.0
    """How long it took to encode the last body for a scraper."""
    map_fill: float = 0.0
    """The share in use of the fullest flow table when it was drained last."""
    map_bytes: int = 0
    """Kernel memory of the counters."""
    watch_ages: Mapping[str, float] = field(default_factory=dict)
    """Kind -> seconds since the API server showed that what is known of it is current."""
    pushes: Mapping[str, int] = field(default_factory=dict)
    """`exported` and `failed` -> OTLP pushes since the agent started; empty where nobody asked for any."""


class OwnMetrics:
    """Renders the vitals, read anew at each scrape."""

    def __init__(self, vitals: Callable[[], Vitals]) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=self._registry)
        self._provider = MeterProvider(metric_readers=[reader])
        meter = self._provider.get_meter("dolphin_agent")

        def gauge(name: str, text: str, read: Callable[[Vitals], float], unit: str = "") -> None:
            meter.create_observable_gauge(
                f"dolphin_agent_{name}", [lambda _: [Observation(read(vitals()))]], unit=unit, description=text
            )

        def lost(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(n, {"item": item, "reason": why}) for (item, why), n in vitals().lost.items()]

        def hooks(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(1, {"hook": hook}) for hook in vitals().hooks]

        def ages(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(age, {"kind": kind}) for kind, age in vitals().watch_ages.items()]

        def pushes(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(n, {"result": result}) for result, n in vitals().pushes.items()]

        def build(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(1, {"version": version("dolphin-agent"), "kernel": platform.release()})]

        meter.create_observable_counter(
            "dolphin_agent_lost_events", [lost], description="Events that an item's numbers may lack, at most."
        )
        meter.create_observable_gauge("dolphin_agent_hook_attached", [hooks], description="BPF programs attached.")
        meter.create_observable_counter(
            "dolphin_agent_otlp_pushes", [pushes], description="OTLP pushes, by whether all of them was taken."
        )
        meter.create_observable_gauge(
            "dolphin_agent_watch_age_seconds",
            [ages],
            description="Time since the API server showed that what is known of a kind is current; below 60 normally.",
        )
        meter.create_observable_gauge("dolphin_agent_build_info", [build], description="Version and kernel.")
        gauge("pods", "Pods counted now.", lambda v: v.pods)
        gauge("tasks", "MonitorPolicies in force.", lambda v: v.tasks)
        gauge("series", "Series exported, the agent's own left out.", lambda v: v.series)
        gauge("problems", "Problems listed at /readyz.", lambda v: v.problems)
        meter.create_observable_counter(
            "dolphin_agent_flows_refused",
            [lambda _: [Observation(vitals().flows_refused)]],
            description="Counts of flows that went to `other`, as --max-flows were kept already.",
        )
        gauge("flows", "Flows kept in detail now.", lambda v: v.flows)
        gauge("max_flows", "Flows kept in detail at most (--max-flows).", lambda v: v.max_flows)
        gauge("drain_seconds", "Duration of the last drain of the kernel's counters.", lambda v: v.drain_seconds)
        gauge("snapshot_seconds", "Duration of making the last snapshot.", lambda v: v.snapshot_seconds)
        gauge("scrape_seconds", "Duration of encoding the last body for a scraper.", lambda v: v.scrape_seconds)
        gauge("map_fill", "Share in use of the fullest flow table, at the last drain.", lambda v: v.map_fill)
        gauge("map_bytes", "Kernel memory of the counters.", lambda v: v.map_bytes)
        gauge("resident_memory_bytes", "Resident memory of the agent.", lambda _: resident_bytes())

    def encode(self, *, openmetrics: bool = False) -> bytes:
        """Prometheus text format 0.0.4, or the end of an OpenMetrics text."""
        if openmetrics:
            ended: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return ended
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The same, still to be encoded."""
        return self._registry.collect()

    def close(self) -> None:
        """Ends the SDK's provider."""
        self._provider.shutdown()


def resident_bytes() -> int:
    """This process's resident set (proc(5), VmRSS, in kB)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
