"""What is wrong from the start is named with its remedy, and takes nothing else down."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from integration.kube.chart import CHART
from integration.kube.control_plane import ControlPlane
from integration.kube.counted import wait_counted
from integration.kube.installed import AGENT_NAMESPACE, POLICIES, agent_kubeconfig, install_crds, install_rights
from integration.kube.test_status import EVENTS, WRITTEN, monitor
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.kube.agent import ClusterAgent
    from integration.kube.api import Api
    from integration.kube.conftest import Policies, RunPod, StartAgent
    from integration.kube.counted import Watched


def test_missing_crd(tmp_path: Path, start_agent: StartAgent) -> None:
    """Named with the remedy, and taken up once they are there; the agent stays up all the time."""
    work = tmp_path / "bare"
    work.mkdir()
    with ControlPlane(work) as bare:
        install_rights(bare)
        agent = start_agent(kubeconfig=agent_kubeconfig(bare, tmp_path / "bare.kubeconfig"), wait_ready=False)
        wait_until(
            lambda: agent.is_up() and "kubectl apply" in agent.problems(), deadline=20, what="the remedy is named"
        )
        status, text = agent.get("/readyz")
        assert status == 503
        assert "monitorpolicies" in text
        assert "helm/dolphin-agent/crds" in text
        install_crds(bare)
        wait_until(agent.is_ready, deadline=60, what="ready")


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
        config = agent_kubeconfig(control_plane, tmp_path / "config", ca=ControlPlane(other).ca)
    else:
        config = control_plane.kubeconfig(tmp_path / "config", token="nonsense")  # noqa: S106 - that is the point
    agent = start_agent(kubeconfig=config, wait_ready=False)
    wait_until(lambda: agent.is_up() and message in agent.problems(), deadline=20, what="it is named")
    assert agent.process.poll() is None


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


def test_port_taken(
    api: Api, node: str, namespace: str, run_pod: RunPod, policies: Policies, start_agent: StartAgent
) -> None:
    """It stays up and counts, kubectl and an Event say so, and it listens as soon as it can."""
    policies.apply("p")
    run_pod("web")
    pod = {"POD_NAMESPACE": AGENT_NAMESPACE, "POD_NAME": "agent-1", "POD_UID": "uid-1"}
    said = "cannot listen on 127.0.0.1:10001: Address already in use; free the address or choose another one"
    with socket.create_server(("127.0.0.1", 10001)):
        agent = start_agent(env=pod, wait_ready=False)
        wait_until(lambda: monitor(api, node).get("series"), deadline=WRITTEN, what="it counts, and says so")
        assert said in monitor(api, node)["problems"][0]
        assert "agent.listen" in monitor(api, node)["problems"][0]
        events = [one for one in api.get(EVENTS)["items"] if one["regarding"]["name"] == "agent-1"]
        assert [(one["reason"], one["regarding"]["uid"]) for one in events] == [("CannotListen", "uid-1")]
        assert said in events[0]["note"]
    wait_until(agent.is_up, deadline=20, what="it listens")
    wait_counted(agent, namespace, "web")
    wait_until(lambda: said not in str(monitor(api, node)["problems"]), deadline=WRITTEN, what="it says so")


HANGING = """
import sys, time
from dolphin_agent import agent, cli

agent.HANG_SECONDS = 2
agent.Agent._handle = lambda *_: time.sleep(60)
sys.exit(cli.main(sys.argv[2:]))
"""
"""The agent, its loop stuck as soon as there is anything to do."""


def test_hang_ends_it(start_agent: StartAgent) -> None:
    """No probe is needed: it ends, and says where each thread was."""
    agent = start_agent(within=[sys.executable, "-c", HANGING], wait_ready=False)
    assert agent.process.wait(30) == 1
    assert "Timeout (0:00:02)!" in agent.log
    assert "in _loop" in agent.log
