"""Pushes each snapshot by OTLP, through OpenTelemetry's own exporters.

Only the latest snapshot is ever sent, and it is cumulative: what could not be sent is in the next one, so that an
outage costs neither memory nor totals. Everything that OTEL_EXPORTER_OTLP_* can say is left to the exporters.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from dolphin_agent.errors import ConfigError
from dolphin_agent.export.otlp_data import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.metrics.export import MetricExporter

    from dolphin_agent.snapshot.model import Snapshot

PROTOCOLS = ("http/protobuf", "grpc")
REQUEST_SECONDS = 5.0
"""For one request and its repetitions, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""
LAST_SECONDS = 3.0
"""For the push at the end."""
QUIET_SECONDS = 60.0
"""Between two lines of the log about the same fault."""

SCHEMA = "https://opentelemetry.io/schemas/1.37.0"

log = structlog.get_logger()


@dataclass(frozen=True)
class Counts:
    """What became of the pushes so far."""

    exported: int = 0
    failed: int = 0
    seconds: float = 0.0
    """How long the last one took."""


def wanted(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether anybody asked for OTLP."""
    return bool(endpoint) or any(
        environment.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "METRICS_ENDPOINT")
    )


def make_exporter(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> MetricExporter:
    """The exporter of the protocol that is set. Raises ConfigError.

    Imported here: the libraries of a protocol take 15 to 25 MiB.
    """
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or PROTOCOLS[0]
    )
    options: dict[str, Any] = {}
    if not _set("TIMEOUT", environment):
        options["timeout"] = REQUEST_SECONDS
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as HttpExporter,
        )

        if not _set("COMPRESSION", environment):
            options["compression"] = Compression.Gzip
        return HttpExporter(endpoint=endpoint and metrics_url(endpoint), **options)
    if protocol == "grpc":
        from grpc import Compression as GrpcCompression  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as GrpcExporter,
        )

        if not _set("COMPRESSION", environment):
            options["compression"] = GrpcCompression.Gzip
        return GrpcExporter(endpoint=endpoint, **options)
    raise ConfigError(f'OTEL_EXPORTER_OTLP_PROTOCOL "{protocol}": allowed: {", ".join(PROTOCOLS)}')


def _set(name: str, environment: Mapping[str, str]) -> bool:
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{part}{name}") for part in ("METRICS_", ""))


def metrics_url(endpoint: str) -> str:
    """The URL that metrics go to: an endpoint without a path is a collector's base."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/metrics"


def make_resource(node: str | None) -> Resource:
    """Who measured: OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME add to it, and win."""
    own = {"service.name": "dolphin-agent", "service.version": version("dolphin-agent")}
    if node:
        own |= {"k8s.node.name": node, "service.instance.id": node}
    given = Resource.create().attributes
    unset = {"service.name"} if str(given.get("service.name", "")).startswith("unknown_service") else set()
    return Resource({**own, **{key: value for key, value in given.items() if key not in unset}}, SCHEMA)


class OtlpPush:
    """Pushes from a thread of its own; `fresh` gives the reading to push and may raise TimeoutError."""

    def __init__(
        self, exporter: MetricExporter, resource: Resource, interval: float, fresh: Callable[[], Snapshot]
    ) -> None:
        """Take what to push with, and how often at least."""
        self._exporter = exporter
        self._resource = resource
        self._scope = InstrumentationScope("dolphin_agent", version("dolphin-agent"), SCHEMA)
        self._interval = interval
        self._fresh = fresh
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self.counts = Counts()
        quieten()

    @property
    def pushes(self) -> dict[str, int]:
        """How many were taken as a whole, and how many not."""
        return {"exported": self.counts.exported, "failed": self.counts.failed}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self, snapshot: Snapshot) -> None:
        """Push what was counted until now, if that is quickly done, and end."""
        self._stop.set()
        last = threading.Thread(target=self._push, args=(snapshot,), name="otlp-last", daemon=True)
        last.start()
        last.join(LAST_SECONDS)
        self._exporter.shutdown(timeout_millis=0)

    def _run(self) -> None:
        due = time.monotonic() + self._interval
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            # Not later for a push that took long, and none twice for one that took longer than that.
            due = max(due + self._interval, time.monotonic())
            try:
                snapshot = self._fresh()
            except TimeoutError:
                log.warning("nothing to push", reason="the counters could not be read in time")
                continue
            self._push(snapshot)

    def _push(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        try:
            done = all(
                self._exporter.export(batch) is MetricExportResult.SUCCESS
                for batch in batches(snapshot, self._resource, self._scope)
            )
        except Exception:  # an exporter's fault must not end all later pushes
            log.exception("OTLP export failed")
            done = False
        before = self.counts
        self.counts = Counts(before.exported + done, before.failed + (not done), time.monotonic() - began)


class _OncePerMinute(logging.Filter):
    """Lets a message through once a minute: exporters say the same at every attempt."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._said.get(record.name, float("-inf")) < QUIET_SECONDS:
            return False
        self._said[record.name] = now
        record.exc_info = None  # a stack trace of theirs tells users nothing
        return True


def quieten() -> None:
    """Have OpenTelemetry's exporters say what is wrong at most once a minute."""
    once = _OncePerMinute()
    for name in ("http", "grpc"):
        for part in ("metric_exporter", "exporter", "_common", ""):
            logging.getLogger(f"opentelemetry.exporter.otlp.proto.{name}.{part}".rstrip(".")).addFilter(once)
    logging.getLogger("opentelemetry.exporter.otlp.common.http").addFilter(once)
