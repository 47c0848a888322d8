"""An API server that is away, hangs, forgets, refuses: what runs goes on, and nothing is counted twice or missed."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from integration.kube.counted import Watched, counted
from integration.kube.installed import (
    AGENT_NAMESPACE,
    SERVICE_ACCOUNT,
    agent_token,
)
from integration.kube.proxy import Mode, Proxy
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.kube.agent import ClusterAgent
    from integration.kube.api import Api
    from integration.kube.conftest import Policies, RunPod, StartAgent
    from integration.kube.control_plane import ControlPlane


CONVERGED = 60
"""Seconds after the end of a fault within which everything is as it should be."""


def converges(agent: ClusterAgent, policies: Policies, run_pod: RunPod, namespace: str) -> None:
    """A new pod and a new policy are taken up within the time allowed, and no watch is in trouble any more."""
    run_pod("new")
    policies.apply("new", ["ipSend"])
    wait_until(
        lambda: "kube-system/new" in agent.tasks() and "new" in counted(agent, namespace),
        deadline=CONVERGED,
        what="a new pod and a new policy are taken up",
        interval=0.5,
    )
    wait_until(lambda: not agent.watch_problems(), deadline=CONVERGED, what="no watch is in trouble", interval=0.5)


def test_restart(
    control_plane: ControlPlane,
    agent: ClusterAgent,
    watched: Watched,
    policies: Policies,
    run_pod: RunPod,
    namespace: str,
) -> None:
    """The problem is named, readiness stays, and the age of what is known is exported."""
    control_plane.stop_api_server()
    try:
        wait_until(lambda: "what was last known of them holds" in agent.problems(), deadline=20, what="it is named")
        assert "cannot be reached" in agent.problems() or "connection" in agent.problems()
        assert agent.get("/readyz")[0] == 200
        time.sleep(2)
        assert agent.value("dolphin_agent_watch_age_seconds", kind="pods") >= 2
        watched.talk()
    finally:
        control_plane.start_api_server()
    converges(agent, policies, run_pod, namespace)
    watched.talk()


def test_hang(
    control_plane: ControlPlane,
    agent: ClusterAgent,
    watched: Watched,
    policies: Policies,
    run_pod: RunPod,
    namespace: str,
) -> None:
    """A minute without an answer, connections open."""
    with control_plane.paused():
        for _ in range(4):
            watched.talk()
            time.sleep(14)
    converges(agent, policies, run_pod, namespace)
    watched.talk()


@pytest.mark.parametrize("fault", ["frozen", "reset", "truncated", "refused"])
def test_network(
    fault: str,
    proxy: Proxy,
    agent: ClusterAgent,
    watched: Watched,
    policies: Policies,
    run_pod: RunPod,
    namespace: str,
) -> None:
    """Between agent and API server: silence, resets, a stream cut in the middle of an event, nobody there."""
    if fault == "frozen":
        proxy.set(Mode.FREEZE)
        time.sleep(20)
        watched.talk()
        proxy.reset()
        proxy.set(Mode.PASS)
    elif fault == "refused":
        proxy.set(Mode.REFUSE)
        proxy.reset()
        wait_until(lambda: "cannot be reached" in agent.problems(), deadline=20, what="the problem is named")
        watched.talk()
        proxy.set(Mode.PASS)
    else:
        for _ in range(5):
            if fault == "truncated":
                proxy.truncate(300)
                policies.apply("cut", ["ipSend"], labels={"turn": str(time.monotonic_ns())})
                time.sleep(0.5)
            else:
                proxy.reset()
                time.sleep(0.5)
    converges(agent, policies, run_pod, namespace)
    watched.talk()


def test_failure_asks_no_more_than_once_a_second(proxy: Proxy, agent: ClusterAgent, watched: Watched) -> None:
    """Connections that are broken at once, for 20 s: two watches and the reporter, each with its own pace."""
    proxy.set(Mode.REFUSE)
    proxy.reset()
    time.sleep(1)
    before = proxy.connections
    proxy.set(Mode.PASS)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        proxy.reset()
        time.sleep(0.02)
    assert proxy.connections - before <= 20
    assert agent.process_seconds() < 15, "a busy loop"
    watched.talk()


def test_expired_version(
    control_plane: ControlPlane,
    agent: ClusterAgent,
    watched: Watched,
    policies: Policies,
    run_pod: RunPod,
    namespace: str,
) -> None:
    """410: etcd has forgotten what the watch begins at. Listing anew neither loses nor doubles a pod."""
    control_plane.stop_api_server()
    control_plane.start_api_server()
    for turn in range(5):
        policies.apply("other", ["ipSend"], labels={"turn": str(turn)})
    control_plane.compact()
    control_plane.restart_api_server()
    converges(agent, policies, run_pod, namespace)
    watched.talk()


def test_etcd_hangs(
    control_plane: ControlPlane,
    agent: ClusterAgent,
    watched: Watched,
    policies: Policies,
    run_pod: RunPod,
    namespace: str,
) -> None:
    """The API server answers 500 and 504 to what it cannot answer from memory."""
    etcd = control_plane.etcd
    etcd.send_signal(signal.SIGSTOP)
    try:
        time.sleep(15)
        watched.talk()
    finally:
        etcd.send_signal(signal.SIGCONT)
    converges(agent, policies, run_pod, namespace)
    watched.talk()


def test_too_many_requests(control_plane: ControlPlane, api: Api, start_agent: StartAgent, policies: Policies) -> None:
    """429 with Retry-After: named, obeyed, over as soon as the server has room again."""
    with throttled(control_plane, api, f"system:serviceaccount:{AGENT_NAMESPACE}:{SERVICE_ACCOUNT}"):
        agent = start_agent(wait_ready=False)
        wait_until(lambda: agent.is_up() and "(429)" in agent.problems(), deadline=20, what="the refusal is named")
        assert agent.get("/readyz")[0] == 503
    policies.apply("p")
    wait_until(agent.is_ready, deadline=CONVERGED, what="ready")


@contextmanager
def throttled(control_plane: ControlPlane, api: Api, user: str) -> Iterator[None]:
    """Let the agents' ServiceAccount have no more than one request at a time, and use that up."""
    flow = "flowcontrol.apiserver.k8s.io/v1"
    name = "squeezed"
    nothing = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0}
    level = {"type": "Limited", "limited": {**nothing, "limitResponse": {"type": "Reject"}}}
    rule = {
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
        ],
    }
    schema = {"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 10, "rules": [rule]}
    for kind, spec in (("PriorityLevelConfiguration", level), ("FlowSchema", schema)):
        api.apply(
            f"/apis/{flow}/{kind.lower()}s/{name}",
            {"apiVersion": flow, "kind": kind, "metadata": {"name": name}, "spec": spec},
        )
    time.sleep(2)  # until the server has taken it up
    context = ssl.create_default_context(cafile=control_plane.ca)
    with socket.create_connection(("127.0.0.1", control_plane.port)) as raw:
        held = context.wrap_socket(raw, server_hostname="127.0.0.1")
        # One that is allowed, and whose body does not come.
        request = (
            f"POST /apis/coordination.k8s.io/v1/namespaces/{AGENT_NAMESPACE}/leases HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {agent_token(control_plane)}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        held.sendall(request.encode())
        time.sleep(0.5)
        try:
            yield
        finally:
            held.close()
    for kind in ("flowschemas", "prioritylevelconfigurations"):
        api.delete(f"/apis/{flow}/{kind}/{name}")
