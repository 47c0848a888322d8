"""All nodes' NodeMonitors -> the status of each MonitorPolicy. Pure functions."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dolphin_agent.status.node_monitor import MAX_TEXT, condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_PROBLEMS = 20
"""Named in a policy's status."""


class NodeProblem(NamedTuple):
    """What is wrong with a policy on one node."""

    item: str
    """Empty: the whole policy."""
    message: str


@dataclass(frozen=True, slots=True)
class OnNode:
    """One policy on one node, as far as its status needs it."""

    generation: int
    valid: bool
    pods: int
    items: tuple[str, ...]
    """`ipReceive/flow`."""
    problems: tuple[NodeProblem, ...]


@dataclass(frozen=True)
class Wanted:
    """A policy as the folding agent sees it."""

    generation: int
    uid: str


def pick_node(item: Mapping[str, Any]) -> dict[str, OnNode]:
    """Keep of a NodeMonitor what folding needs: task -> how it does there. Equal texts are kept once."""
    policies = (item.get("status") or {}).get("policies") or ()
    return {sys.intern(one["task"]): _on_node(one) for one in policies}


def _on_node(policy: Mapping[str, Any]) -> OnNode:
    items = policy.get("items") or ()
    whole = (NodeProblem("", sys.intern(text)) for text in policy.get("problems") or ())
    single = (
        NodeProblem(sys.intern(item["item"]), sys.intern(text))
        for item in items
        if (text := item.get("reason") or item.get("inexact"))
    )
    return OnNode(
        generation=int(policy.get("observedGeneration") or 0),
        valid=policy.get("valid") is not False,
        pods=int(policy.get("pods") or 0),
        items=tuple(sys.intern(f"{item['item']}/{item['granularity']}") for item in items),
        problems=(*whole, *single),
    )


def fold(
    task: str, policy: Wanted, nodes: Mapping[str, Mapping[str, OnNode]], now: str, before: Mapping[str, Any]
) -> dict[str, Any]:
    """The status of one policy over all nodes; `before` is the present one, whose conditions keep their times."""
    here = {node: found for node in sorted(nodes) if (found := nodes[node].get(task))}
    current = {node: found for node, found in here.items() if found.generation >= policy.generation}
    invalid = [node for node, found in current.items() if not found.valid]
    faulty = [node for node, found in current.items() if found.problems]
    good = len(current) - len(set(faulty) | set(invalid))
    items = list(dict.fromkeys(item for found in here.values() for item in found.items))
    conditions = before.get("conditions") or ()
    return {
        "observedGeneration": policy.generation,
        "conditions": [
            condition("Ready", *_ready(len(nodes), len(current), invalid, current), now, conditions),
            condition("Degraded", *_degraded(current, faulty), now, conditions),
        ],
        "nodes": {"total": len(nodes), "ready": good},
        "pods": sum(found.pods for found in here.values()),
        "items": items,
        "summary": ",".join(item.partition("/")[0] for item in items)[:MAX_TEXT],
        "problems": list(_problems(current))[:MAX_PROBLEMS],
    }


def _ready(total: int, current: int, invalid: list[str], nodes: Mapping[str, OnNode]) -> tuple[str, str, str]:
    if not total:
        return "Unknown", "NoNodes", "no agent has reported yet"
    if invalid:
        reason = nodes[invalid[0]].problems[0].message if nodes[invalid[0]].problems else "refused"
        return "False", "Invalid", reason
    if current < total:
        return "False", "Pending", f"{total - current} of {total} nodes have not taken it up yet"
    return "True", "Running", f"in force on {total} nodes"


def _degraded(nodes: Mapping[str, OnNode], faulty: list[str]) -> tuple[str, str, str]:
    if not faulty:
        return "False", "AsExpected", "every item is counted exactly"
    first = nodes[faulty[0]].problems[0]
    what = f"item {first.item}: " if first.item else ""
    return "True", "Problems", f"{len(faulty)} of {len(nodes)} nodes; {faulty[0]}: {what}{first.message}"


def _problems(nodes: Mapping[str, OnNode]) -> Iterable[dict[str, str]]:
    """Each problem once, with the first node that has it and the number of the others."""
    found: dict[NodeProblem, list[str]] = {}
    for node, one in nodes.items():
        for problem in one.problems:
            found.setdefault(problem, []).append(node)
    for problem, where in found.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        yield {"node": f"{where[0]}{more}", "item": problem.item, "message": problem.message[:MAX_TEXT]}
