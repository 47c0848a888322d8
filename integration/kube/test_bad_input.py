"""What is wrong from the start is named with its remedy, and takes nothing else down."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from integration.kube.chart import CHART
from integration.kube.control_plane import ControlPlane
from integration.kube.installed import POLICIES, agent_kubeconfig, install_crds, install_rights
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.kube.agent import ClusterAgent
    from integration.kube.api import Api
    from integration.kube.conftest import Policies, StartAgent
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
