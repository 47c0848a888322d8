"""A standalone agent as its users run it: the installed command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from integration.lib.manifests import Manifests

COMMAND = Path(sys.executable).with_name("dolphin-agent")
"""The command that installing the package made."""

READY_DEADLINE = 300
"""Seconds from start to ready; under emulation importing takes most of them."""

_T = TypeVar("_T")
_KIB = 1024
_OWN_PREFIX = "dolphin_agent_"
# A scrape shows what was counted up to one second before it; a little more than that apart, the later of two
# equal ones shows all that had been counted at the earlier.
_STALENESS = 1.1


@dataclass(frozen=True)
class Samples:
    """One scrape."""

    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        """Sum the samples of a metric that have these labels; 0 where there is none."""
        return sum(value for _, value in self._matching(name, labels))

    def series(self, name: str, **labels: str) -> list[dict[str, str]]:
        """Return the label sets of a metric's samples that have these labels."""
        return [dict(found) for found, _ in self._matching(name, labels)]

    def keyed(self, name: str, by: Sequence[str], **labels: str) -> dict[tuple[str, ...], float]:
        """Return a metric's samples that have these labels, by others, which tell all of them apart."""
        found = [(dict(labels), value) for labels, value in self._matching(name, labels)]
        keyed = {tuple(labels[one] for one in by): value for labels, value in found}
        assert len(keyed) == len(found), f"{name}: {by} are the same of some"
        return keyed

    def monitored(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return what is about pods, without what the agent says of itself."""
        return {key: value for key, value in self.values.items() if _is_monitored(key[0])}

    def _matching(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[frozenset[tuple[str, str]], float]]:
        wanted = labels.items()
        return ((found, value) for found, value in self._by_metric.get(name, ()) if wanted <= found)

    @cached_property
    def _by_metric(self) -> Mapping[str, Sequence[tuple[frozenset[tuple[str, str]], float]]]:
        """Whoever asks for each of a thousand flows must not look at all metrics of all pods each time."""
        metrics: dict[str, list[tuple[frozenset[tuple[str, str]], float]]] = {}
        for (metric, labels), value in self.values.items():
            metrics.setdefault(metric, []).append((labels, value))
        return metrics


def _is_monitored(name: str) -> bool:
    return name.startswith("dolphin_") and not name.startswith(_OWN_PREFIX) and not name.endswith("_created")


class Agent:
    """A running agent."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        """Take over a process that listens, or soon will, on a port of 127.0.0.1."""
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        """All that the agent has printed: JSON lines."""
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Fetch a path and return (HTTP status, body); raises OSError where nothing answers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> Samples:
        """Scrape the agent."""
        status, text = self.get("/metrics")
        if status != 200:
            raise AssertionError(f"/metrics answered {status}: {text}")
        families = text_string_to_metric_families(text)
        samples = (sample for family in families for sample in family.samples)
        return Samples({(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})

    def value(self, name: str, **labels: str) -> float:
        """Scrape and sum the samples of a metric that have these labels."""
        return self.metrics().value(name, **labels)

    def rss(self) -> int:
        """Return the resident memory, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * _KIB

    def is_ready(self) -> bool:
        """Ask /readyz; raises AssertionError with the log where the agent has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended with status {self.process.returncode}\n{self.log}")
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, HTTPException):
            return False

    def wait_ready(self, deadline: float = READY_DEADLINE) -> None:
        """Wait until /readyz answers 200; raises TimeoutError with the log after `deadline` seconds."""
        try:
            wait_until(self.is_ready, deadline=deadline, what="the agent is ready", interval=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log}") from error

    def terminate(self, timeout: float = 30) -> tuple[int, float]:
        """Send SIGTERM and return (exit status, seconds it took); raises subprocess.TimeoutExpired."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        return status, time.monotonic() - started

    def settled(self, judge: Callable[[], _T], deadline: float = 30) -> tuple[Samples, _T]:
        """Return a scrape and a reading of the judge that belong together.

        They do once two scrapes, far enough apart that the second shows everything the kernel had counted at
        the first, are equal, and the judge did not move meanwhile. Raises TimeoutError after `deadline` seconds.
        """
        first = (self.metrics(), judge())
        since = time.monotonic()

        def rests() -> bool:
            nonlocal first, since
            now = (self.metrics(), judge())
            if (now[0].monitored(), now[1]) != (first[0].monitored(), first[1]):
                first, since = now, time.monotonic()
                return False
            if time.monotonic() - since < _STALENESS:
                return False
            first = now
            return True

        wait_until(rests, deadline=deadline, what="agent and kernel rest", interval=_STALENESS / 2)
        return first


@contextmanager
def running(
    manifests: Manifests,
    work: Path,
    *,
    port: int = 10001,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = (str(COMMAND),),
) -> Iterator[Agent]:
    """Run an agent on `manifests` for the length of a block, then kill it where it still runs.

    Its log is kept below `work`. It may not be ready yet: see `Agent.wait_ready`.
    """
    log = work / f"agent-{port}.log"
    inputs = ["--policies", str(manifests.policies), "--pods", str(manifests.pods)]
    listen = ["--listen", f"127.0.0.1:{port}", "--log-format", "json"]
    command = [*program, "run", "--standalone", *inputs, *listen, *options]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | (env or {})) as process,
    ):
        try:
            yield Agent(process, port, log)
        finally:
            process.kill()
