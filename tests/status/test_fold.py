"""All nodes' reports -> a policy's status."""

from dolphin_agent.status.fold import Wanted, fold, pick_node

TASK = "kube-system/p"
NOW, LATER = "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"


def node(generation=1, *, valid=True, problems=(), items=(("ipReceive", "pod", ""),), pods=3):
    """A NodeMonitor of one policy."""
    policy = {
        "task": TASK,
        "observedGeneration": generation,
        "valid": valid,
        "pods": pods,
        "items": [{"item": name, "granularity": how, "reason": reason} for name, how, reason in items],
        "problems": list(problems),
    }
    return pick_node({"status": {"policies": [policy]}})


def folded(nodes, generation=1, before=None, now=NOW):
    return fold(TASK, Wanted(generation, "u"), nodes, now, before or {})


def conditions(status):
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def test_all_is_well():
    status = folded({"n1": node(), "n2": node(items=(("ipReceive", "pod", ""), ("tcpRtt", "flow", "")))})
    assert conditions(status) == {"Ready": ("True", "Running"), "Degraded": ("False", "AsExpected")}
    assert status["nodes"] == {"total": 2, "ready": 2}
    assert (status["pods"], status["items"], status["summary"]) == (
        6,
        ["ipReceive/pod", "tcpRtt/flow"],
        "ipReceive,tcpRtt",
    )
    assert status["problems"] == []


def test_no_nodes():
    assert conditions(folded({}))["Ready"] == ("Unknown", "NoNodes")


def test_nodes_that_lag():
    """And such that do not know the policy at all."""
    status = folded({"n1": node(2), "n2": node(1), "n3": {}}, generation=2)
    assert conditions(status)["Ready"] == ("False", "Pending")
    assert status["conditions"][0]["message"] == "2 of 3 nodes have not taken it up yet"
    assert status["observedGeneration"] == 2


def test_invalid():
    status = folded({"n1": node(2, valid=False, problems=["spec.monitor: wrong"])}, generation=2)
    assert conditions(status)["Ready"] == ("False", "Invalid")
    assert status["conditions"][0]["message"] == "spec.monitor: wrong"
    assert status["problems"] == [{"node": "n1", "item": "", "message": "spec.monitor: wrong"}]


def test_degraded():
    """One node's kernel refuses an item; the others are fine."""
    bad = node(items=(("tcpRtt", "flow", "tp_btf/tcp_probe: EINVAL"),))
    status = folded({"n1": node(), "n2": bad, "n3": bad})
    assert conditions(status) == {"Ready": ("True", "Running"), "Degraded": ("True", "Problems")}
    assert status["nodes"] == {"total": 3, "ready": 1}
    assert status["problems"] == [{"node": "n2 and 1 more", "item": "tcpRtt", "message": "tp_btf/tcp_probe: EINVAL"}]


def test_twenty_problems_at_most():
    status = folded({f"n{n}": node(problems=[f"problem {n}"]) for n in range(100)})
    assert len(status["problems"]) == 20


def test_thousand_nodes_stay_small():
    """Of a status, whatever goes wrong."""
    worst = [("tcpRtt", "flow", "x" * 1024)] * 7
    status = folded({f"node-{n}": node(problems=["y" * 1024 + str(n)] * 20, items=worst) for n in range(1000)})
    assert len(str(status)) < 50_000


def test_same_state_same_status():
    """Whenever it is folded: a write only happens when something has changed."""
    nodes = {"n1": node(), "n2": node(problems=["x"])}
    first = folded(nodes)
    assert folded(dict(reversed(nodes.items())), before=first, now=LATER) == first
