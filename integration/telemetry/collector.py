"""An OpenTelemetry Collector on loopback that writes down what it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

import yaml
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from integration.lib.server import Server, certificates, free_ports, listens
from integration.lib.wait import wait_until
from integration.telemetry import binaries, otlp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration.telemetry.otlp import Metric

_T = TypeVar("_T")


class Collector:
    """Receives OTLP over gRPC and HTTP, by itself without batching; a context manager.

    What it took is kept over a stop and a start, which are on the same ports.
    """

    def __init__(
        self,
        work: Path,
        *,
        host: str = "127.0.0.1",
        tls: bool = False,
        max_recv_msg_size_mib: int | None = None,
        max_request_body_size: int | None = None,
        prometheus: bool = False,
    ) -> None:
        """Take an empty directory for its config, log, certificates and file, and the address to listen at.

        The two limits are the receivers' settings of these names, for gRPC and HTTP, whose defaults are 4 MiB and
        20 MiB; `prometheus` lets it be scraped as well. Raises HarnessError when it cannot be built.
        """
        self.work = work
        self._host = host
        self._tls = tls
        self.grpc_port, self.http_port, self.prometheus_port = free_ports(3)
        self._file = work / "metrics.jsonl"
        self._read = 0
        self._requests: list[list[Metric]] = []
        if tls:
            certificates(work)
        config = self._config(max_recv_msg_size_mib, max_request_body_size, prometheus=prometheus)
        (work / "config.yaml").write_text(yaml.safe_dump(config))
        command = [str(binaries.find()), "--config", str(work / "config.yaml")]
        self._server = Server(command, work / "collector.log")

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def grpc(self) -> str:
        """The endpoint for OTLP/gRPC, as an URL."""
        return f"{self._scheme}://{self._host}:{self.grpc_port}"

    @property
    def http(self) -> str:
        """The endpoint for OTLP/HTTP, without the path of a signal."""
        return f"{self._scheme}://{self._host}:{self.http_port}"

    @property
    def ca(self) -> Path:
        """The certificate that its own is signed with, where it has one."""
        return self.work / "ca.crt"

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._server.log

    def start(self) -> None:
        """Start it and wait until it listens; raises HarnessError with the end of its log."""
        self._server.start(lambda: listens(self.grpc_port, self._host) and listens(self.http_port, self._host))

    def stop(self) -> None:
        """Stop it; afterwards nobody listens, and all that it has taken is there to be read."""
        self._server.stop()

    def requests(self) -> list[list[Metric]]:
        """Return what it has taken, request by request in order; a request is seen some 0.1 s after its answer."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                # It writes blocks: the last line may lack its end.
                complete, end, _ = file.read().rpartition(b"\n")
            self._read += len(complete + end)
            for line in complete.splitlines():
                self._requests.append(otlp.metrics(json_format.Parse(line, ExportMetricsServiceRequest())))
        return list(self._requests)

    def metrics(self) -> list[Metric]:
        """Return all metrics of all requests, in order."""
        return [metric for request in self.requests() for metric in request]

    def wait_for(self, condition: Callable[[list[Metric]], _T], deadline: float = 10, *, what: str = "") -> _T:
        """Ask `condition` about `metrics()` until it returns something true, and return that; raises TimeoutError."""
        try:
            return wait_until(
                lambda: condition(self.metrics()), deadline=deadline, what=what or "the collector has what is expected"
            )
        except TimeoutError as fault:
            counts = [len(request) for request in self.requests()]
            raise TimeoutError(f"{fault}; there are requests of {counts} metrics") from fault

    @property
    def _scheme(self) -> str:
        return "https" if self._tls else "http"

    def _config(self, grpc_mib: int | None, http_bytes: int | None, *, prometheus: bool) -> dict[str, Any]:
        grpc: dict[str, Any] = {"endpoint": f"{self._host}:{self.grpc_port}"}
        http: dict[str, Any] = {"endpoint": f"{self._host}:{self.http_port}"}
        if grpc_mib is not None:
            grpc["max_recv_msg_size_mib"] = grpc_mib
        if http_bytes is not None:
            http["max_request_body_size"] = http_bytes
        if self._tls:
            pair = {"cert_file": str(self.work / "server.crt"), "key_file": str(self.work / "server.key")}
            grpc["tls"] = http["tls"] = pair
        exporters: dict[str, Any] = {
            "file": {"path": str(self._file), "append": True, "flush_interval": "100ms"},
            "debug": {},
        }
        if prometheus:
            exporters["prometheus"] = {"endpoint": f"127.0.0.1:{self.prometheus_port}"}
        return {
            "receivers": {"otlp": {"protocols": {"grpc": grpc, "http": http}}},
            "exporters": exporters,
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": list(exporters)}},
            },
        }
