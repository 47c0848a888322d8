"""Fixtures of the cluster tests: one cluster for all of them, in which the chart is installed as a user would."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from integration.cluster import bed, node
from integration.cluster.workload import Workload
from integration.image.build import HERE, archive
from integration.kube import binaries
from integration.kube.chart import CHART
from integration.lib.agent import Samples
from integration.lib.wait import wait_until
from integration.telemetry.collector import Collector
from integration.telemetry.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMESPACE = "dolphin-system"
SELECTOR = "app.kubernetes.io/name=dolphin-agent"
BOUND_BY_MEMLOCK = ("5.10",)
"""The kernels on which maps need SYS_RESOURCE."""
ROLLOUT_SECONDS = 240
"""Under emulation a container with Python takes a while to start."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The node's kernel."""
    parser.addoption("--node-kernel", default="6.12", help="one of integration.vm's (6.12)")


@pytest.fixture(scope="session")
def image() -> Path:
    """What `make image` made."""
    made = archive(HERE)
    assert made.exists(), f"{made} is missing: make image"
    return made


@pytest.fixture(scope="session")
def cluster(
    image: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[bed.Cluster]:
    """A control plane, and a node that has the agent's image."""
    work, kernel = tmp_path_factory.mktemp("cluster"), request.config.getoption("--node-kernel")
    bed.fetch(kernel)
    with bed.namespace(), bed.cluster(work, kernel, [image]) as made:
        yield made


@pytest.fixture(autouse=True)
def on_a_node(cluster: bed.Cluster) -> Iterator[None]:
    """Nothing is left to be tried when the node is gone."""
    yield
    if cluster.guest.poll() is not None:
        pytest.exit(f"the node ended:\n{cluster.log}", returncode=pytest.ExitCode.TESTS_FAILED)


@pytest.fixture(scope="session")
def collector(
    cluster: bed.Cluster,  # noqa: ARG001 - its network namespace
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Collector]:
    """An OpenTelemetry Collector that pods reach."""
    with Collector(tmp_path_factory.mktemp("collector"), host=node.GATEWAY) as made:
        yield made


@dataclass(frozen=True)
class Release:
    """The chart, installed."""

    cluster: bed.Cluster
    values: tuple[str, ...]
    """Arguments `--set`."""

    def helm(self, *arguments: str) -> str:
        """Run helm as administrator; AssertionError with its complaints where it fails."""
        config = self.cluster.control_plane.kubeconfig(self.cluster.control_plane.work / "helm.kubeconfig")
        command = [str(binaries.find("helm")), "--kubeconfig", str(config), "--namespace", NAMESPACE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def upgrade(self, *more: str, chart: Path = CHART) -> str:
        """Install it, or another version or other values, and wait until the new agents are ready."""
        said = self.helm("upgrade", "--install", "--create-namespace", "dolphin-agent", str(chart), *self.values, *more)
        self.wait_rolled_out()
        return said

    def wait_rolled_out(self) -> None:
        """Wait until the agents are as wished, and ready; AssertionError with what they say."""
        control_plane = self.cluster.control_plane
        timeout = f"--timeout={ROLLOUT_SECONDS}s"
        done = control_plane.kubectl(
            "rollout", "status", "-n", NAMESPACE, "ds/dolphin-agent", timeout, check=False, seconds=ROLLOUT_SECONDS + 10
        )
        if done.returncode:
            described = control_plane.kubectl("describe", "pod", "-n", NAMESPACE, "-l", SELECTOR).stdout
            logs = control_plane.kubectl("logs", "-n", NAMESPACE, "-l", SELECTOR, "--tail=50", check=False)
            raise AssertionError(f"{done.stderr}{described}\n{logs.stdout}{logs.stderr}")

    def pods(self) -> list[dict[str, Any]]:
        """The agents' Pods."""
        shown = self.cluster.control_plane.kubectl("get", "pods", "-n", NAMESPACE, "-l", SELECTOR, "-o", "json").stdout
        found: list[dict[str, Any]] = json.loads(shown)["items"]
        return found


@pytest.fixture(scope="session")
def release(cluster: bed.Cluster, collector: Collector) -> Release:
    """The chart, installed with what this cluster needs: its image is on the node already."""
    wished = {
        "image.pullPolicy": "Never",
        "agent.otlpEndpoint": collector.http,
        "agent.collectInterval": "2s",
        "capabilities.sysResource": str(cluster.kernel in BOUND_BY_MEMLOCK).lower(),
    }
    made = Release(cluster, tuple(part for pair in wished.items() for part in ("--set", "=".join(pair))))
    made.upgrade()
    return made


class Discovery:
    """Which agents there are, for Prometheus; Debian's cannot ask the API server itself."""

    def __init__(self, release: Release, file: Path) -> None:
        """Take the file that Prometheus reads."""
        self._release, self._file = release, file

    def look(self) -> None:
        """Write down what the API server says now."""
        targets = [
            {"targets": [f"{pod['status']['podIP']}:10001"], "labels": {"agent": pod["metadata"]["name"]}}
            for pod in self._release.pods()
            if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]
        ]
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(targets))
        new.rename(self._file)


@dataclass(frozen=True)
class Scraped:
    """What Prometheus knows of the agents."""

    prometheus: Prometheus
    discovery: Discovery

    def samples(self) -> Samples:
        """The last value of each series, without what Prometheus adds."""
        added = ("job", "instance", "agent", "__name__")
        found = self.prometheus.query('{__name__=~"dolphin_.*"}')
        return Samples(
            {
                (labels["__name__"], frozenset((k, v) for k, v in labels.items() if k not in added)): value
                for labels, value in found
            }
        )

    def time(self) -> float:
        """When the last scrape began that succeeded, in seconds since the epoch; 0: there is none."""
        return max((value for _, value in self.prometheus.query("timestamp(dolphin_agent_build_info)")), default=0)

    def wait_up(self) -> None:
        """Look for agents until exactly one is scraped."""

        def up() -> bool:
            self.discovery.look()
            return [target.health for target in self.prometheus.targets()] == ["up"]

        wait_until(up, deadline=60, what="the agent is scraped", interval=1)


@pytest.fixture(scope="session")
def scraped(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A Prometheus that scrapes the agents there are."""
    work = tmp_path_factory.mktemp("prometheus")
    discovery = Discovery(release, work / "agents.json")
    with Prometheus(work, discovery=work / "agents.json") as prometheus:
        made = Scraped(prometheus, discovery)
        made.wait_up()
        yield made


@pytest.fixture(scope="session")
def workload(cluster: bed.Cluster) -> Workload:
    """Two Deployments, of one pod each; they run in the agent's image."""
    made = Workload(cluster.control_plane)
    made.apply()
    return made
