"""Makes OpenTelemetry's own exporter of the protocol that is set, and finds its door for requests made already.

Everything that OTEL_EXPORTER_OTLP_* can say is left to the exporters.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from dolphin_agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult

PROTOCOLS = ("http/protobuf", "grpc")
REQUEST_SECONDS = 5.0
"""For one request and its repetitions, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""

log = structlog.get_logger()


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
        # Else its core writes a line to standard error at each attempt, whatever the log's level and format.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
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


def shortcut(exporter: MetricExporter) -> Callable[[ExportMetricsServiceRequest], MetricExportResult] | None:
    """Sends a request as `export` does, once it has encoded one; None where this version has no such way.

    The only place that knows more of an exporter than its public face.
    """
    inner: Any = exporter
    if _takes(inner, "_export_batch", "export_request"):  # over HTTP
        return inner._export_batch  # type: ignore[no-any-return]  # noqa: SLF001
    if _takes(inner, "_export", "data") and _takes(inner, "_translate_data", "data"):  # over gRPC
        inner._translate_data = _unchanged  # noqa: SLF001
        inner._count_data = _points  # noqa: SLF001
        return inner._export  # type: ignore[no-any-return]  # noqa: SLF001
    log.info("this version of OpenTelemetry's exporter encodes anew at each push, which takes more processor time")
    return None


def _takes(inner: object, name: str, parameter: str) -> bool:
    method = getattr(inner, name, None)
    return method is not None and tuple(inspect.signature(method).parameters) == (parameter,)


def _unchanged(data: ExportMetricsServiceRequest) -> ExportMetricsServiceRequest:
    return data


def _points(data: ExportMetricsServiceRequest) -> int:
    metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
    return sum(len(kind.data_points) for m in metrics for kind in (m.sum, m.gauge, m.exponential_histogram))
