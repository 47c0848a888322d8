"""What a node says of itself."""

from dolphin_agent.health.metrics import added
from dolphin_agent.health.tally import Tally
from dolphin_agent.snapshot.model import Snapshot
from dolphin_agent.status.describe import ItemStatus, Status, TaskStatus
from dolphin_agent.status.health import HealthStatus
from dolphin_agent.status.node_monitor import (
    AgentIdentity,
    Numbers,
    bounded,
    condition,
    numbers,
    status_of,
    without_numbers,
)
from tests.builders import check

AGENT = AgentIdentity("uid", "kube-system/dolphin-x", "1.0", "2026-01-01T00:00:00Z")
NOW, LATER = "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"
TASK = "kube-system/p"


def made(status, series=3, before=None):
    return status_of(AGENT, status, Numbers({TASK: series}, 2), NOW, before or {})


def status(**fields):
    task = TaskStatus(TASK, 4, pods=2, items=(("ipReceive", "pod"), ("tcpNewConnection", "pod")))
    items = (
        ItemStatus("ipReceive", "fentry/ip_rcv_core", "", ()),
        ItemStatus("tcpNewConnection inbound", "", "", ("fexit/x: EINVAL",)),
        ItemStatus("tcpNewConnection outbound", "tp_btf/y", "may lose some", ()),
    )
    return Status(**{"ready": True, "tasks": {TASK: 2}, "policies": (task,), "pods": 2, "items": items} | fields)


def test_items_are_as_good_as_their_worst_ladder():
    (policy,) = made(status())["policies"]
    assert policy["observedGeneration"] == 4
    assert policy["series"] == 3
    receive, opened = policy["items"]
    assert receive == {
        "item": "ipReceive", "granularity": "pod", "hooks": "fentry/ip_rcv_core", "inexact": "", "reason": ""
    }  # fmt: skip
    assert opened["hooks"] == "tp_btf/y"
    assert opened["inexact"] == "tp_btf/y: may lose some"
    assert opened["reason"] == "tcpNewConnection inbound: fexit/x: EINVAL"


def test_health_check_is_an_item():
    """With its command, and why some pods cannot be asked."""
    task = TaskStatus(TASK, 4, pods=2, health=HealthStatus("arping", 2, "no way (pod default/a)"))
    found = status_of(AGENT, status(policies=(task,)), Numbers({}, 0, {TASK: 1}), NOW, {})
    (policy,) = found["policies"]
    assert policy["items"] == [
        {"item": "healthCheck", "granularity": "arping", "hooks": "", "inexact": "", "reason": "no way (pod default/a)"}
    ]
    assert (policy["unhealthy"], found["unhealthy"]) == (1, 1)


def test_unhealthy_pods_are_counted():
    """By the status of their checks; one that is not known is not among them."""
    healthy, unhealthy, unknown = Tally(check(), 1.0), Tally(check(), 1.0), Tally(check(), 1.0)
    healthy.succeed(0.001)
    unhealthy.fail()
    counted = numbers(added(Snapshot(2.0), [one.result() for one in (healthy, unhealthy, unknown)]), {})
    assert (counted.unhealthy, counted.series) == ({TASK: 1}, {TASK: 11})


def test_rejected_policy():
    (policy,) = made(status(policies=(TaskStatus(TASK, 5, rejected="wrong", running=True),)))["policies"]
    assert (policy["valid"], policy["running"], policy["problems"]) == (False, True, ["wrong"])


def test_ready():
    assert made(status())["conditions"][0]["status"] == "True"
    unready = made(Status(problems=("pods: not listed yet",)))["conditions"][0]
    assert (unready["status"], unready["reason"], unready["message"]) == ("False", "NotSynced", "pods: not listed yet")


def test_condition_keeps_its_time():
    first = condition("Ready", "True", "Running", "x", NOW, ())
    assert condition("Ready", "True", "WithProblems", "y", LATER, [first])["lastTransitionTime"] == NOW
    assert condition("Ready", "False", "NotSynced", "y", LATER, [first])["lastTransitionTime"] == LATER


def test_numbers_alone_are_no_change():
    one, other = made(status(), series=3), made(status(), series=300)
    assert one != other
    assert without_numbers(one) == without_numbers(other)


def test_bounded():
    assert bounded(["a", "b"], 2) == ["a", "b"]
    assert bounded(["a", "b", "c", "d"], 2) == ["a", "and 3 more; all are in the agent's log"]
    assert len(bounded(["x" * 5000], 2)[0]) == 1024


def test_unmonitored():
    found = made(status(unmonitored={"default/b": "uses hostNetwork", "default/a": "Kata"}))["unmonitored"]
    assert found == [{"pod": "default/a", "reason": "Kata"}, {"pod": "default/b", "reason": "uses hostNetwork"}]
