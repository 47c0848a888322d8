"""An API server that is away, hangs, forgets, refuses: what runs goes on, and nothing is counted twice or missed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from integration.kube.conftest import CHART, POLICIES, install_crds
from integration.kube.control_plane import ControlPlane
from integration.kube.proxy import Mode, Proxy
from integration.kube.test_pods import RECEIVED, counted, talk, wait_counted
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.kube.agent import ClusterAgent
    from integration.kube.api import Api
    from integration.kube.conftest import Policies, RunPod, StartAgent
    from integration.kube.sandbox import Sandbox

CONVERGED = 60
"""Seconds after the end of a fault within which everything is as it should be."""


class Watched:
    """A pod whose every packet must be counted, whatever happens meanwhile."""

    def __init__(self, agent: ClusterAgent, sandbox: Sandbox, namespace: str) -> None:
        """Take an agent that counts the pod already, under policy `steady`."""
        self._agent, self._sandbox, self._pod = agent, sandbox, f"{namespace}/web"
        self._sent = 0
        self._started = self.value()

    def value(self) -> float:
        """What the agent shows."""
        return self._agent.value(RECEIVED, pod=self._pod, task="kube-system/steady", ipfamily="ipv4")

    def talk(self) -> None:
        """Make traffic, and judge."""
        self._sent += talk(self._sandbox)
        time.sleep(1)
        assert self.value() - self._started == self._sent, "a count was lost, doubled or reset"


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[Proxy]:
    """A proxy in front of the API server."""
    with Proxy(control_plane.port) as made:
        yield made


@pytest.fixture
def agent(control_plane: ControlPlane, proxy: Proxy, start_agent: StartAgent, tmp_path: Path) -> ClusterAgent:
    """An agent behind the proxy."""
    return start_agent(kubeconfig=control_plane.kubeconfig(tmp_path / "proxied.kubeconfig", server=proxy.server))


@pytest.fixture
def watched(agent: ClusterAgent, run_pod: RunPod, policies: Policies, namespace: str) -> Watched:
    """A pod under policy `steady`."""
    policies.apply("steady")
    web = run_pod("web", labels={"app": "web"})
    wait_counted(agent, namespace, "web")
    made = Watched(agent, web, namespace)
    made.talk()
    return made


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
    wait_until(lambda: not watch_problems(agent), deadline=CONVERGED, what="no watch is in trouble", interval=0.5)


def watch_problems(agent: ClusterAgent) -> list[str]:
    """What /readyz says of the API server."""
    return [line for line in agent.status()["problems"] if line.startswith(("pods:", "monitorpolicies:", "status:"))]


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
    assert process_seconds(agent) < 15, "a busy loop"
    watched.talk()


def process_seconds(agent: ClusterAgent) -> float:
    """Processor time of the agent so far."""
    with open(f"/proc/{agent.process.pid}/stat") as file:  # noqa: PTH123 - one line
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


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


def test_too_many_requests(
    control_plane: ControlPlane, api: Api, start_agent: StartAgent, policies: Policies, tmp_path: Path
) -> None:
    """429 with Retry-After: named, obeyed, over as soon as the server has room again."""
    with throttled(control_plane, api, "squeezed"):
        config = control_plane.kubeconfig(tmp_path / "squeezed", token=control_plane.token("default", "squeezed"))
        agent = start_agent(kubeconfig=config, wait_ready=False)
        wait_until(lambda: is_up(agent) and "(429)" in agent.problems(), deadline=20, what="the refusal is named")
        assert agent.get("/readyz")[0] == 503
    policies.apply("p")
    wait_until(agent.is_ready, deadline=CONVERGED, what="ready")


def is_up(agent: ClusterAgent) -> bool:
    """Whether the agent answers."""
    with contextlib.suppress(OSError):
        return agent.get("/healthz")[0] == 200
    return False


@contextlib.contextmanager
def throttled(control_plane: ControlPlane, api: Api, name: str) -> Iterator[None]:
    """Let one ServiceAccount have no more than one request at a time, and use that up."""
    user = f"system:serviceaccount:default:{name}"
    flow = "flowcontrol.apiserver.k8s.io/v1"
    api.create_namespace("default")
    api.create_service_account("default", name)
    bind_admin(api, "default", name)
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
    token = control_plane.token("default", name)
    context = ssl.create_default_context(cafile=control_plane.ca)
    with socket.create_connection(("127.0.0.1", control_plane.port)) as raw:
        held = context.wrap_socket(raw, server_hostname="127.0.0.1")
        request = (
            f"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
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


def bind_admin(api: Api, namespace: str, name: str) -> None:
    """Give a ServiceAccount all rights without taking it out of the server's flow control."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    api.apply(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}", role)
    api.apply(f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}", binding)


def test_missing_crd(tmp_path: Path, start_agent: StartAgent) -> None:
    """Named with the remedy, and taken up once they are there; the agent stays up all the time."""
    work = tmp_path / "bare"
    work.mkdir()
    with ControlPlane(work) as bare:
        bare.api.create_namespace("kube-system")
        agent = start_agent(kubeconfig=bare.kubeconfig(tmp_path / "bare.kubeconfig"), wait_ready=False)
        wait_until(
            lambda: is_up(agent) and "kubectl apply" in agent.problems(), deadline=20, what="the remedy is named"
        )
        status, text = agent.get("/readyz")
        assert status == 503
        assert "monitorpolicies" in text
        assert "helm/dolphin-agent/crds" in text
        install_crds(bare)
        wait_until(agent.is_ready, deadline=CONVERGED, what="ready")


@pytest.mark.parametrize(
    ("broken", "message"),
    [("authority", "its certificate was not accepted"), ("token", "(401); has the ServiceAccount's token expired")],
)
def test_who_is_it(
    broken: str, message: str, control_plane: ControlPlane, start_agent: StartAgent, tmp_path: Path
) -> None:
    """A certificate of an unknown authority, a token that is none: one clear problem, and no end."""
    if broken == "authority":
        other = tmp_path / "other"
        other.mkdir()
        config = control_plane.kubeconfig(tmp_path / "config", ca=ControlPlane(other).ca)
    else:
        config = control_plane.kubeconfig(tmp_path / "config", token="nonsense")  # noqa: S106 - that is the point
    agent = start_agent(kubeconfig=config, wait_ready=False)
    wait_until(lambda: is_up(agent) and message in agent.problems(), deadline=20, what="it is named")
    assert agent.process.poll() is None


def test_thousand_changes(agent: ClusterAgent, watched: Watched, policies: Policies) -> None:
    """A thousand changes of another policy as fast as they go, within a minute: the last one is in force."""
    began = time.monotonic()
    for turn in range(1000):
        policies.apply("busy", ["ipSend"], pod_label=[f"label{turn % 7}", f"turn{turn}"])
    spent = time.monotonic() - began
    print(f"1,000 changes in {spent:.1f} s")
    wait_until(
        lambda: agent.metrics().series("dolphin_ip_send_packets_total", turn999="not found"),
        deadline=10,
        what="the last change is in force",
    )
    watched.talk()


def test_pods_that_come_and_go(agent: ClusterAgent, watched: Watched, api: Api, node: str, namespace: str) -> None:
    """250 pods on the node, and one more each second: memory stays flat, no processor is burnt."""
    for number in range(250):
        api.create_pod(namespace, f"p{number}", node=node, labels={f"label-{n}": "x" * 40 for n in range(10)})
    time.sleep(3)
    full, spent = agent.rss(), process_seconds(agent)
    for number in range(30):
        api.delete_pod(namespace, f"p{number}")
        api.create_pod(namespace, f"q{number}", node=node)
        time.sleep(1)
    print(f"resident {full >> 20} MiB, then {agent.rss() >> 20} MiB; {process_seconds(agent) - spent:.2f} s in 30 s")
    assert agent.rss() - full < 4 << 20
    assert process_seconds(agent) - spent < 6
    watched.talk()


@pytest.fixture
def lenient(control_plane: ControlPlane) -> Iterator[None]:
    """An old CRD that lets everything through."""
    crd = yaml.safe_load((CHART / "crds/monitorpolicies.yaml").read_text())
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(crd))
    time.sleep(1)
    yield
    for item in control_plane.api.get(POLICIES)["items"]:
        control_plane.api.delete(f"{POLICIES}/{item['metadata']['name']}")
    install_crds(control_plane)


def test_past_admission(
    lenient: None,  # noqa: ARG001 - must come first
    agent: ClusterAgent,
    watched: Watched,
    policies: Policies,
    api: Api,
) -> None:
    """What an old CRD lets through: wrong from the start does not run, turned wrong keeps its last good form."""
    policies.apply("bad", ["ipReceive"], granularity="nonsense")
    wait_until(lambda: "bad" in agent.problems(), deadline=10, what="it is named")
    assert re.search(r'kube-system/bad: .*"nonsense": must be pod or flow.*; it does not run', agent.problems())
    api.patch(f"{POLICIES}/steady", {"spec": {"monitor": {"ip": {"ipRecieve": {}}}}})
    wait_until(lambda: "ipRecieve" in agent.problems(), deadline=10, what="it is named")
    assert re.search(r"kube-system/steady: .*did you mean .*; its last good form keeps running", agent.problems())
    watched.talk()
    huge = {"metadata": {"labels": None, "annotations": {"note": "x" * 100_000}}, "spec": {"podLabel": ["y" * 90_000]}}
    api.patch(f"{POLICIES}/bad", huge)
    wait_until(lambda: "90000 characters long" in agent.problems(), deadline=10, what="it is named")
    watched.talk()


def test_tokens_that_change(control_plane: ControlPlane, api: Api, start_agent: StartAgent, policies: Policies) -> None:
    """In a pod, where the kubelet replaces the token; each old one is void at once."""
    api.create_namespace("default")
    api.create_service_account("default", "rotated")
    bind_admin(api, "default", "rotated")
    files = control_plane.service_account_files("rotated")
    renew(control_plane, api, files, 0)
    agent = start_agent(in_cluster=files)
    for turn in range(1, 7):
        renew(control_plane, api, files, turn)
        time.sleep(11)  # the API server believes a token for 10 s after it has seen it
        policies.apply("turn", labels={"turn": str(turn)})
    wait_until(lambda: "kube-system/turn" in agent.tasks(), deadline=60, what="the policy is taken up")
    assert "401" not in agent.log
    assert not watch_problems(agent)


def renew(control_plane: ControlPlane, api: Api, files: Path, turn: int) -> None:
    """Write a new token, good for as long as its Secret is there, and make the last one void."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"token-{turn}"}}
    api.apply(f"/api/v1/namespaces/default/secrets/token-{turn}", secret)
    (files / "token").write_text(control_plane.token("default", "rotated", bound_to=f"token-{turn}"))
    api.delete(f"/api/v1/namespaces/default/secrets/token-{turn - 1}")
