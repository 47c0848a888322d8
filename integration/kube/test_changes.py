"""Policies, pods and tokens that change much and fast."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from integration.kube.installed import (
    AGENT_NAMESPACE,
    agent_token,
)
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from integration.kube.agent import ClusterAgent
    from integration.kube.api import Api
    from integration.kube.conftest import Policies, StartAgent
    from integration.kube.control_plane import ControlPlane
    from integration.kube.counted import Watched


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
    empty = agent.rss()
    for number in range(250):
        api.create_pod(namespace, f"p{number}", node=node, labels={f"label-{n}": "x" * 40 for n in range(10)})
    time.sleep(3)
    full, spent = agent.rss(), agent.process_seconds()
    for number in range(30):
        api.delete_pod(namespace, f"p{number}")
        api.create_pod(namespace, f"q{number}", node=node)
        time.sleep(1)
    print(f"250 pods take {(full - empty) >> 10} KiB of {full >> 20} MiB, then {(agent.rss() - full) >> 10} KiB more")
    print(f"{agent.process_seconds() - spent:.2f} s of processor in 30 s")
    assert full - empty <= 2 << 20
    assert agent.rss() - full < 4 << 20
    assert agent.process_seconds() - spent < 6
    watched.talk()


def test_tokens_that_change(control_plane: ControlPlane, api: Api, start_agent: StartAgent, policies: Policies) -> None:
    """In a pod, where the kubelet replaces the token; each old one is void at once."""
    files = control_plane.service_account_files("rotated", AGENT_NAMESPACE)
    renew(control_plane, api, files, 0)
    agent = start_agent(in_cluster=files)
    for turn in range(1, 7):
        renew(control_plane, api, files, turn)
        time.sleep(11)  # the API server believes a token for 10 s after it has seen it
        policies.apply("turn", labels={"turn": str(turn)})
    wait_until(lambda: "kube-system/turn" in agent.tasks(), deadline=60, what="the policy is taken up")
    assert "401" not in agent.log
    assert not agent.watch_problems()


def renew(control_plane: ControlPlane, api: Api, files: Path, turn: int) -> None:
    """Write a new token, good for as long as its Secret is there, and make the last one void."""
    secrets = f"/api/v1/namespaces/{AGENT_NAMESPACE}/secrets"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"token-{turn}"}}
    api.apply(f"{secrets}/token-{turn}", secret)
    (files / "token").write_text(agent_token(control_plane, bound_to=f"token-{turn}"))
    api.delete(f"{secrets}/token-{turn - 1}")
