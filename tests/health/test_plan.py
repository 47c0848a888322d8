"""Which pods are asked, and how."""

from dataclasses import replace

import pytest

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.health.plan import Impossible, plan_checks
from dolphin_agent.pods.model import Pod
from dolphin_agent.policy.model import HealthCheck, LabelSelector, MonitorPolicy, PodLabel, Requirement
from dolphin_agent.policy.vocabulary import Command, IPFamily, Operator

BOTH = (IPFamily.IPV4, IPFamily.IPV6)
CURL = HealthCheck(3, 5, Command.CURL, BOTH, 80, "/healthz")


def pod(name="web", ips=("10.0.0.7",), **fields):
    return Pod("default", name, f"uid-{name}", ips=ips, **{"running": True} | fields)


def policy(check=CURL, **fields):
    return MonitorPolicy("kube-system", "p", health_check=check, **fields)


def test_every_selected_pod_and_family():
    """With the policy's numbers, and its labels as they are on the pod."""
    selector = LabelSelector((Requirement("app", Operator.IN, frozenset({"web"})),))
    web = pod(ips=("10.0.0.7", "FD00:0::7"), labels=FrozenMap({"app": "web"}))
    plan = plan_checks([policy(selector=selector, pod_labels=(PodLabel("app"),))], [web, pod("db")])
    assert [(one.pod, one.family, one.address) for one in plan.checks] == [
        ("default/web", "ipv4", "10.0.0.7"),
        ("default/web", "ipv6", "fd00::7"),
    ]
    first = plan.checks[0]
    assert (first.task, first.labels, first.keys) == ("kube-system/p", (("app", "web"),), ("app",))
    assert (first.threshold, first.period, first.command, first.port, first.path) == (3, 5, "curl", 80, "/healthz")
    assert plan.impossible == ()


def test_nobody_asks():
    """A policy without a check, or with one that is not enabled."""
    assert plan_checks([policy(None)], [pod()]) == ((), ())


@pytest.mark.parametrize("fields", [{"host_network": True}, {"terminated": True}], ids=str)
def test_pods_that_are_nobody(fields):
    """The node would answer for a pod of its network, and nobody for one that has ended."""
    assert plan_checks([policy()], [pod(**fields)]) == ((), ())


def test_pod_without_an_address():
    """Not yet: nothing. When it runs, or is a manifest's: told, family by family."""
    assert plan_checks([policy()], [pod(ips=(), running=False)]) == ((), ())
    missing = Impossible("kube-system/p", "default/web", "a pod that runs has no ipv6 address in its status.podIPs")
    plan = plan_checks([policy()], [pod()])
    assert (len(plan.checks), plan.impossible) == (1, (missing,))
    manifest = pod(ips=(), running=False, netns_path="/run/netns/web")
    assert [one.reason for one in plan_checks([policy()], [manifest]).impossible] == [
        "a pod that runs has no ipv4 address in its status.podIPs", missing.reason
    ]  # fmt: skip


def test_address_that_is_none():
    """The API server's word is not taken for it."""
    plan = plan_checks([policy()], [pod(ips=("x", "10.0.0.7", "10.0.0.8"))])
    assert [one.address for one in plan.checks] == ["10.0.0.7"]


def test_check_stays_itself():
    """Another family, pod or policy, and what its command has no use for, change nothing; all else does."""
    ping = HealthCheck(3, 5, Command.PING, (IPFamily.IPV4,), 80, "/a")
    web = pod(ips=("10.0.0.7", "fd00::7"))
    (first,) = plan_checks([policy(ping)], [web]).checks
    same = (
        plan_checks([policy(replace(ping, ip_families=BOTH))], [web]),
        plan_checks([policy(replace(ping, port=81, path="/b"))], [web]),
        plan_checks([policy(ping), replace(policy(ping), name="q")], [web, pod("db")]),
    )
    assert all(first in plan.checks for plan in same)
    others = (
        plan_checks([policy(replace(ping, period_seconds=6))], [web]),
        plan_checks([policy(replace(ping, failure_threshold=2))], [web]),
        plan_checks([policy(replace(ping, command=Command.ARPING))], [web]),
        plan_checks([policy(ping)], [replace(web, ips=("10.0.0.8",))]),
        plan_checks([policy(ping)], [replace(web, uid="another")]),
        plan_checks([policy(ping, pod_labels=(PodLabel("app"),))], [web]),
    )
    assert not [plan for plan in others if first in plan.checks]


def test_timeout():
    """Never longer than the period, and never longer than 5 s."""
    timeouts = [
        plan_checks([policy(HealthCheck(period_seconds=period))], [pod()]).checks[0].timeout for period in (1, 5, 60)
    ]
    assert timeouts == [1, 5, 5]
