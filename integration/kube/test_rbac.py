"""The rights that the chart gives: enough, and each of them needed."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from integration.kube import installed
from integration.kube.api import Api, ApiError
from integration.kube.chart import CHART
from integration.kube.counted import wait_counted
from integration.kube.installed import AGENT_NAMESPACE, NODE_MONITORS, agent_token
from integration.kube.test_status import WRITTEN, conditions
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.kube.agent import ClusterAgent
    from integration.kube.conftest import Policies, RunPod, StartAgent
    from integration.kube.control_plane import ControlPlane

ROLES = ("ClusterRole", "Role")


def rights() -> list[tuple[str, str]]:
    """Every (resource, verb) that the chart's template names."""
    lines = (CHART / "templates/rbac.yaml").read_text().splitlines()
    rules = [yaml.safe_load(line.strip()[2:]) for line in lines if line.strip().startswith("- {apiGroups")]
    named = [(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]]
    return list(dict.fromkeys(named))


@pytest.fixture
def files(control_plane: ControlPlane, no_lease: None) -> Path:  # noqa: ARG001 - must come first
    """What the agent's pod finds in its place; nobody holds the Lease."""
    found = control_plane.service_account_files("dolphin-agent", AGENT_NAMESPACE)
    (found / "token").write_text(agent_token(control_plane))
    return found


def test_enough(
    files: Path, start_agent: StartAgent, run_pod: RunPod, policies: Policies, api: Api, node: str, namespace: str
) -> None:
    """Everything works under the chart's own ServiceAccount, in-cluster configuration and all."""
    policies.apply("p")
    run_pod("web")
    agent = start_agent(in_cluster=files)
    wait_counted(agent, namespace, "web")
    wait_until(lambda: conditions(policies.get("p")).get("Ready"), deadline=WRITTEN, what="the policy has a status")
    path = f"{NODE_MONITORS}/{node}"
    wait_until(lambda: api.get(path)["status"]["tasks"] == 1, deadline=WRITTEN, what="the node's status is written")
    time.sleep(12)  # a renewal of the Lease
    assert "(403)" not in agent.log
    assert "forbidden" not in agent.problems()


@pytest.fixture
def missing(resource: str, verb: str, control_plane: ControlPlane) -> Iterator[None]:
    """The chart's rights, but for one."""
    changed = [without(item, resource, verb) for item in installed.rights() if item["kind"] in ROLES]
    control_plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(changed))
    yield
    installed.install_rights(control_plane)


@pytest.mark.parametrize("where", ["secrets", f"namespaces/{AGENT_NAMESPACE}/secrets", "configmaps"])
def test_secrets_stay_secret(control_plane: ControlPlane, where: str) -> None:
    """Neither Secrets nor configuration can be read, not even in the agents' own namespace."""
    api = Api(control_plane.server, control_plane.ca, token=agent_token(control_plane))
    with pytest.raises(ApiError, match="403"):
        api.get(f"/api/v1/{where}")


@pytest.mark.parametrize(("resource", "verb"), rights(), ids=" ".join)
@pytest.mark.usefixtures("missing")
def test_none_is_spare(
    resource: str, verb: str, files: Path, start_agent: StartAgent, run_pod: RunPod, policies: Policies
) -> None:
    """Without it, the agent names it and the remedy, and stays up."""
    policies.apply("p")
    run_pod("web")
    agent = start_agent(in_cluster=files, wait_ready=False)
    wanted = f'cannot {verb} resource "{resource}"'
    wait_until(lambda: wanted in said(agent), deadline=40, what=f"{verb} {resource} is missed", interval=0.5)
    assert "grant it with the ClusterRole of the Helm chart" in said(agent)
    assert agent.process.poll() is None
    assert "Traceback" not in agent.log


def said(agent: ClusterAgent) -> str:
    """What the agent says of its problems; empty before it is up."""
    try:
        return agent.problems()
    except OSError:
        return ""


def without(item: dict[str, Any], resource: str, verb: str) -> dict[str, Any]:
    """A role without one right."""
    changed = copy.deepcopy(item)
    rules = []
    for rule in changed["rules"]:
        for one in rule["resources"]:
            verbs = [v for v in rule["verbs"] if (one, v) != (resource, verb)]
            if verbs:
                rules.append({**rule, "resources": [one], "verbs": verbs})
    changed["rules"] = rules
    return changed
