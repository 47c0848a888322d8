"""Health checks of the API server's pods. This machine answers for them: their addresses are its loopback's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.kube.test_pods import only
from integration.kube.test_status import WRITTEN, monitor
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from integration.kube.agent import ClusterAgent
    from integration.kube.api import Api, Object
    from integration.kube.conftest import Policies, StartAgent

pytestmark = pytest.mark.usefixtures("no_lease")

STATUS = "dolphin_health_check_status"
SUCCESSFUL = "dolphin_health_check_successful_total"
FAILED = "dolphin_health_check_failed_total"
EFFECT = 5
"""Seconds within which a change of a policy or pod is in force, and the first probe has ended."""
EVERY_SECOND = {"periodSeconds": 1, "ipFamilies": ["ipv4", "ipv6"]}


def asked(agent: ClusterAgent) -> set[tuple[str, str]]:
    """(pod, IP family) of the checks."""
    return {(one["pod"].partition("/")[2], one["ipfamily"]) for one in agent.metrics().series(SUCCESSFUL)}


def health_item(api: Api, node: str) -> Object:
    """The health check among the items of the node's only policy."""
    policies = monitor(api, node).get("policies") or [{}]
    items: list[Object] = policies[0].get("items") or [{}]
    return items[-1]


def test_life_of_a_pod(api: Api, node: str, start_agent: StartAgent, policies: Policies, namespace: str) -> None:
    """No address yet, one, both, another one, gone; the node's own is never asked."""
    policies.apply("p", [], health=EVERY_SECOND)
    api.create_pod(namespace, "host", node=node, ips=("127.0.0.9",), hostNetwork=True)
    api.create_pod(namespace, "web", node=node, phase="Pending")
    agent = start_agent()
    assert asked(agent) == set()
    api.pod_status(namespace, "web", phase="Running", ips=("127.0.0.7",))
    wait_until(lambda: asked(agent) == {("web", "ipv4")}, deadline=EFFECT, what="its address is asked")
    reason = f"a pod that runs has no ipv6 address in its status.podIPs (pod {namespace}/web)"
    wait_until(lambda: health_item(api, node).get("reason") == reason, deadline=WRITTEN, what="it is written")
    assert (health_item(api, node)["item"], health_item(api, node)["granularity"]) == ("healthCheck", "ping")
    api.pod_status(namespace, "web", phase="Running", ips=("127.0.0.7", "::1"))
    wait_until(lambda: agent.value(STATUS) == 2, deadline=EFFECT, what="both are healthy")
    answered = agent.value(SUCCESSFUL, ipfamily="ipv4")
    assert answered > 0, "the first went on"
    wait_until(lambda: health_item(api, node).get("reason") == "", deadline=WRITTEN, what="nothing is wrong")
    wait_until(
        lambda: policies.get("p").get("status", {}).get("items") == ["healthCheck/ping"],
        deadline=WRITTEN,
        what="it is folded",
    )
    answered = agent.value(SUCCESSFUL, ipfamily="ipv6")
    api.pod_status(namespace, "web", phase="Running", ips=("127.0.0.8", "::1"))
    wait_until(lambda: agent.value(SUCCESSFUL, ipfamily="ipv4") < answered, deadline=EFFECT, what="it begins anew")
    assert agent.value(SUCCESSFUL, ipfamily="ipv6") >= answered
    api.delete_pod(namespace, "web")
    wait_until(lambda: asked(agent) == set(), deadline=EFFECT, what="it is asked no more")


def test_net_raw_is_enough(api: Api, node: str, start_agent: StartAgent, policies: Policies, namespace: str) -> None:
    """No pod's namespace is known then; a policy that asks for items is told why there are none."""
    policies.apply("p", [], health=EVERY_SECOND)
    api.create_pod(namespace, "web", node=node, ips=("127.0.0.7", "::1"))
    agent = start_agent(within=only("net_raw"))
    wait_until(lambda: agent.value(STATUS) == 2, deadline=EFFECT, what="both are healthy")
    assert agent.status()["problems"] == []
    policies.apply("q", ["ipReceive"])
    wait_until(lambda: agent.status()["problems"], deadline=EFFECT, what="it is told")
    assert agent.status()["problems"][0].startswith("missing CAP_BPF and CAP_PERFMON")
    assert agent.value(FAILED) == 0


def test_unhealthy_pod_is_no_problem(
    api: Api, node: str, start_agent: StartAgent, policies: Policies, namespace: str
) -> None:
    """No problem of the agent's."""
    policies.apply("p", [], health={"periodSeconds": 1, "command": "curl", "port": 1})
    api.create_pod(namespace, "web", node=node, ips=("127.0.0.7",))
    agent = start_agent()
    wait_until(lambda: agent.value(FAILED) >= 1, deadline=EFFECT, what="it failed")
    wait_until(lambda: monitor(api, node).get("series", 0) > 0, deadline=WRITTEN, what="it is written")
    assert agent.value(STATUS) == 0
    assert monitor(api, node)["problems"] == []
