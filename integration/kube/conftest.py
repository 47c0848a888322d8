"""Fixtures of the tests against a real API server; they run on this machine, not in a guest."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import pytest

from integration.kube import installed
from integration.kube.agent import ClusterAgent, InCluster, cluster_agent
from integration.kube.control_plane import ControlPlane
from integration.kube.counted import Watched, wait_counted
from integration.kube.installed import LEASES, NODE_MONITORS, POLICIES, agent_kubeconfig
from integration.kube.proxy import Proxy
from integration.kube.sandbox import CONTAINERD, Layout, Sandbox, sandbox
from integration.lib import bpf
from integration.lib.manifests import policy
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from integration.kube.api import Api, Object

DETACH_SECONDS = 10
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One for all tests, with the chart's CRDs and rights."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as made:
        installed.install_crds(made)
        installed.install_rights(made)
        yield made


@pytest.fixture
def api(control_plane: ControlPlane) -> Api:
    """A client with all rights."""
    return control_plane.api


@pytest.fixture
def no_lease(api: Api) -> Iterator[None]:
    """Nobody leads at first, nor afterwards."""
    api.delete(f"{LEASES}/dolphin-agent")
    yield
    api.delete(f"{LEASES}/dolphin-agent")


@pytest.fixture
def node(api: Api) -> Iterator[str]:
    """A node of the test's own, with nothing on it."""
    name = f"node-{next(_NUMBERS)}"
    api.create_node(name)
    yield name
    api.delete(f"{NODE_MONITORS}/{name}")
    api.delete(f"/api/v1/nodes/{name}")


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace of the test's own; its pods go with the test."""
    name = f"test-{next(_NUMBERS)}"
    api.create_namespace(name)
    yield name
    for pod in api.get(f"/api/v1/namespaces/{name}/pods")["items"]:
        api.delete_pod(name, pod["metadata"]["name"])


class Policies:
    """The MonitorPolicies of a test."""

    def __init__(self, api: Api) -> None:
        """Take a client with all rights."""
        self._api = api

    def apply(
        self,
        name: str,
        items: Sequence[str] = ("ipReceive",),
        *,
        labels: dict[str, str] | None = None,
        granularity: str = "pod",
        pod_label: Sequence[str] = (),
        health: dict[str, Any] | None = None,
    ) -> Object:
        """Create or replace one."""
        made = policy(name, items, labels=labels, granularity=granularity, pod_label=pod_label, health=health)
        return self._api.apply(f"{POLICIES}/{name}", made)

    def get(self, name: str) -> Object:
        """Read one."""
        return self._api.get(f"{POLICIES}/{name}")

    def delete(self, name: str) -> None:
        """Delete one."""
        self._api.delete(f"{POLICIES}/{name}")


@pytest.fixture
def policies(api: Api) -> Iterator[Policies]:
    """None at first, and none that stays."""
    yield Policies(api)
    for item in api.get(POLICIES)["items"]:
        api.delete(f"{POLICIES}/{item['metadata']['name']}")


class RunPod(Protocol):
    """Creates a Pod on the test's node and runs its sandbox, until the test ends."""

    def __call__(self, name: str, *, labels: dict[str, str] | None = None, layout: Layout = CONTAINERD) -> Sandbox:
        """Return the sandbox."""


@pytest.fixture
def run_pod(api: Api, node: str, namespace: str) -> Iterator[RunPod]:
    """Start pods."""
    with ExitStack() as stack:

        def run(name: str, *, labels: dict[str, str] | None = None, layout: Layout = CONTAINERD) -> Sandbox:
            pod = api.create_pod(namespace, name, node=node, labels=labels)
            return stack.enter_context(sandbox(pod["metadata"]["uid"], f"k-{uuid4().hex[:8]}", layout))

        yield run


class StartAgent(Protocol):
    """Starts an agent of the test's node, until the test ends."""

    def __call__(
        self,
        *options: str,
        kubeconfig: Path | None = None,
        in_cluster: Path | None = None,
        wait_ready: bool = True,
        env: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> ClusterAgent:
        """Options are those of `dolphin-agent run`; `in_cluster` has the files of a pod's ServiceAccount."""


@pytest.fixture
def start_agent(control_plane: ControlPlane, node: str, tmp_path: Path) -> Iterator[StartAgent]:
    """Start agents with the chart's rights; afterwards nothing of them is left in the kernel."""
    before = bpf.program_ids()
    ports = itertools.count(10001)
    with ExitStack() as stack:

        def start(
            *options: str,
            kubeconfig: Path | None = None,
            in_cluster: Path | None = None,
            wait_ready: bool = True,
            env: dict[str, str] | None = None,
            within: Sequence[str] = (),
        ) -> ClusterAgent:
            access: Path | InCluster
            if in_cluster:
                access = InCluster(in_cluster, control_plane.port)
            else:
                access = kubeconfig or agent_kubeconfig(control_plane, tmp_path / "agent.kubeconfig")
            made = stack.enter_context(
                cluster_agent(access, tmp_path, node=node, port=next(ports), options=options, env=env, within=within)
            )
            if wait_ready:
                made.wait_ready(30)
            return made

        yield start
    wait_until(lambda: bpf.program_ids() <= before, deadline=DETACH_SECONDS, what="the agent's programs are gone")


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[Proxy]:
    """A proxy in front of the API server."""
    with Proxy(control_plane.port) as made:
        yield made


@pytest.fixture
def agent(control_plane: ControlPlane, proxy: Proxy, start_agent: StartAgent, tmp_path: Path) -> ClusterAgent:
    """An agent behind the proxy."""
    return start_agent(kubeconfig=agent_kubeconfig(control_plane, tmp_path / "proxied", server=proxy.server))


@pytest.fixture
def watched(agent: ClusterAgent, run_pod: RunPod, policies: Policies, namespace: str) -> Watched:
    """A pod under policy `steady`."""
    policies.apply("steady")
    web = run_pod("web", labels={"app": "web"})
    wait_counted(agent, namespace, "web")
    made = Watched(agent, web, namespace)
    made.talk()
    return made
