"""Pushes each snapshot by OTLP, through OpenTelemetry's own exporters.

Only the latest snapshot is ever sent, and it is cumulative: what could not be sent is in the next one, so that an
outage costs neither memory nor totals.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from dolphin_agent.export.otlp_data import batches
from dolphin_agent.export.otlp_exporter import shortcut
from dolphin_agent.export.otlp_request import make_envelope, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.metrics.export import MetricExporter

    from dolphin_agent.snapshot.model import Snapshot

LAST_SECONDS = 3.0
"""For the push at the end."""
QUIET_SECONDS = 60.0
"""Between two lines of the log about the same fault."""

UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""By OpenSSL, and by the BoringSSL of gRPC."""
TRUST = (
    "the collector's certificate is not trusted: OTEL_EXPORTER_OTLP_CERTIFICATE must name the certificate of the "
    "authority that signed it, and the endpoint a name that it is for"
)

SCHEMA = "https://opentelemetry.io/schemas/1.37.0"

log = structlog.get_logger()


@dataclass(frozen=True)
class Counts:
    """What became of the pushes so far."""

    exported: int = 0
    failed: int = 0
    seconds: float = 0.0
    """How long the last one took."""


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
        self._send = shortcut(exporter)
        self._resource = resource
        self._scope = InstrumentationScope("dolphin_agent", version("dolphin-agent"), SCHEMA)
        self._envelope = make_envelope(resource, self._scope)
        self._interval = interval
        self._fresh = fresh
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self.counts = Counts()
        self.pushed = float("-inf")
        """When the last snapshot was taken that was pushed as a whole, in seconds since the epoch."""
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
            done = all(result is MetricExportResult.SUCCESS for result in self._results(snapshot))
        except Exception:  # an exporter's fault must not end all later pushes
            log.exception("OTLP export failed")
            done = False
        if done:
            self.pushed = snapshot.taken
        else:
            # The exceptions of the exporters' libraries refer to themselves by way of their frames, and these to the
            # request: many pushes would fail before Python looks for such garbage by itself.
            gc.collect(0)
        before = self.counts
        exported = done and snapshot.series > 0  # of nothing, nothing is sent
        self.counts = Counts(before.exported + exported, before.failed + (not done), time.monotonic() - began)

    def _results(self, snapshot: Snapshot) -> Iterator[MetricExportResult]:
        """Sends one request after the other."""
        if self._send:
            return map(self._send, requests(snapshot, self._envelope))
        return map(self._exporter.export, batches(snapshot, self._resource, self._scope))


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
        if UNTRUSTED in (said := record.getMessage()):
            record.msg, record.args = f"{said} ({TRUST})", ()
        return True


def quieten() -> None:
    """Have OpenTelemetry's exporters say what is wrong at most once a minute."""
    once = _OncePerMinute()
    for name in ("http", "grpc"):
        for part in ("metric_exporter", "exporter", "_common", ""):
            logging.getLogger(f"opentelemetry.exporter.otlp.proto.{name}.{part}".rstrip(".")).addFilter(once)
    logging.getLogger("opentelemetry.exporter.otlp.common.http").addFilter(once)
