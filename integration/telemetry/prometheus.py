"""Debian's Prometheus on loopback, and its promtool."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import urllib3
import yaml

from integration.lib.server import Server, free_ports
from integration.lib.wait import wait_until
from integration.vm.errors import HarnessError, MissingToolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PACKAGE = "prometheus"
_REQUEST_SECONDS = 10
_LINT = 3
"""promtool's exit status where the text is understood, and not as it should be."""

Vector = list[tuple[dict[str, str], float]]
"""Labels and value of each series."""


@dataclass(frozen=True, slots=True)
class Target:
    """What Prometheus says of something that it scrapes."""

    url: str
    health: str
    """`up`, `down`, or `unknown` before the first scrape."""
    last_error: str
    """Why the last scrape failed, or nothing."""


class Prometheus:
    """Scrapes a few ports of 127.0.0.1, or what it discovers; a context manager."""

    def __init__(
        self,
        work: Path,
        *ports: int,
        path: str = "/metrics",
        interval: float = 1,
        native_histograms: bool = False,
        discovery: Path | None = None,
    ) -> None:
        """Take an empty directory for its config, log and data, what to scrape, and how often, in seconds.

        `discovery` is a file of its file_sd_configs, which it reads again whenever that changes. With native histograms
        it asks for protobuf and keeps exponential histograms as such; otherwise it asks for OpenMetrics text. Raises
        MissingToolError.
        """
        self.port = free_ports(1)[0]
        scraped: dict[str, Any] = {"static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
        if discovery:
            scraped["file_sd_configs"] = [{"files": [str(discovery)]}]
        config = {
            "global": {"scrape_interval": f"{interval * 1000:.0f}ms", "scrape_timeout": f"{interval * 1000:.0f}ms"},
            "scrape_configs": [
                {"job_name": "test", "metrics_path": path, **scraped},
            ],
        }
        (work / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            _find("prometheus"),
            f"--config.file={work / 'prometheus.yml'}",
            f"--storage.tsdb.path={work / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        if native_histograms:
            command.append("--enable-feature=native-histograms")
        self._server = Server(command, work / "prometheus.log")

    def __enter__(self) -> Self:
        """Start it and wait until it answers; raises HarnessError with the end of its log."""
        self._server.start(self._is_ready)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._server.stop()

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._server.log

    def query(self, promql: str, at: float | None = None) -> Vector:
        """Evaluate an expression, now or at a time since the epoch; raises AssertionError with its complaints.

        Of a native histogram ask for `histogram_count`, `histogram_sum` or `histogram_quantile`: its values are not
        numbers, and it is left out.
        """
        data = self._ask("query", query=promql, **({} if at is None else {"time": str(at)}))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        assert data["resultType"] == "vector", f"{promql} gives a {data['resultType']}"
        return [(one["metric"], float(one["value"][1])) for one in data["result"] if "value" in one]

    def wait_for(self, promql: str, condition: Callable[[Vector], object], deadline: float = 15) -> Vector:
        """Evaluate an expression until `condition` is true of its result, and return that; raises TimeoutError."""
        found: Vector = []

        def holds() -> bool:
            found[:] = self.query(promql)
            return bool(condition(found))

        try:
            wait_until(holds, deadline=deadline, what=promql, interval=0.2)
        except TimeoutError as fault:
            raise TimeoutError(f"{fault}; the last result was {found}, the targets are {self.targets()}") from fault
        return found

    def label_values(self, selector: str, label: str) -> list[str]:
        """Return the values that a label has in the series of a selector."""
        values: list[str] = self._ask(f"label/{label}/values", **{"match[]": selector})
        return values

    def targets(self) -> list[Target]:
        """Say how scraping goes."""
        active = self._ask("targets", state="active")["activeTargets"]
        return [Target(one["scrapeUrl"], one["health"], one["lastError"]) for one in active]

    def _ask(self, what: str, **fields: str) -> Any:  # noqa: ANN401 - JSON
        answer = urllib3.request(
            "GET", f"{self._url}/api/v1/{what}", fields=fields, retries=False, timeout=_REQUEST_SECONDS
        )
        said = answer.json()
        if said["status"] != "success":
            raise AssertionError(f"{fields}: {said['error']}")
        return said["data"]

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _is_ready(self) -> bool:
        try:
            return urllib3.request("GET", f"{self._url}/-/ready", retries=False, timeout=1).status == 200
        except urllib3.exceptions.HTTPError:
            return False


def promtool_check_metrics(text: bytes) -> str:
    """Return what `promtool check metrics` has against an exposition in text, or nothing; raises HarnessError."""
    done = subprocess.run([_find("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode not in (0, 1, _LINT) or (done.returncode and not said):
        raise HarnessError(f"promtool ended with status {done.returncode}: {said}")
    return said


def promtool_rules(action: str, file: Path) -> None:
    """Have promtool `check` or `test` rules; raises AssertionError with what it has against them."""
    done = subprocess.run([_find("promtool"), action, "rules", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"promtool {action} rules {file}: {done.stdout}{done.stderr}")


def _find(tool: str) -> str:
    if path := shutil.which(tool):
        return path
    raise MissingToolError(tool, _PACKAGE)
