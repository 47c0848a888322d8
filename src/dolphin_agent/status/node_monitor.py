"""This node's NodeMonitor: what the agent says of itself, as an object of the API server. Pure functions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dolphin_agent.health.metrics import STATUS
from dolphin_agent.status.health import ITEM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dolphin_agent.snapshot.model import Snapshot
    from dolphin_agent.status.describe import ItemStatus, Status, TaskStatus

API_VERSION = "crd.dolphin.io/v1"
KIND = "NodeMonitor"

MAX_PROBLEMS = 20
"""Of each list; the rest is counted in the last entry."""
MAX_UNMONITORED = 50
MAX_POLICIES = 64
"""Twice as many as run at once."""
MAX_TEXT = 1024
"""Characters of a message; the CustomResourceDefinition takes no longer one."""
NUMBERS = ("series", "lost", "unhealthy")
"""Fields that change all the time while traffic flows."""


@dataclass(frozen=True)
class AgentIdentity:
    """Who writes."""

    identity: str
    """Unique: the pod's UID, or host and process."""
    pod: str
    """`namespace/name`; empty outside of pods."""
    version: str
    start: str
    """RFC 3339."""


@dataclass(frozen=True)
class Numbers:
    """What is counted, apart from the traffic."""

    series: Mapping[str, int]
    """Task -> series."""
    lost: int = 0
    """Events that may be missing, over all items."""
    unhealthy: Mapping[str, int] = field(default_factory=dict)
    """Task -> health checks, by pod and IP family, whose pod is unhealthy."""


def numbers(snapshot: Snapshot, lost: Mapping[tuple[str, str], int]) -> Numbers:
    """Count the series of each task, and its pods that are unhealthy."""
    series: Counter[str] = Counter()
    unhealthy: Counter[str] = Counter()
    for family in snapshot.families:
        for common in (*(one.common for one in family.points), *(one.common for one in family.distributions)):
            series[dict(common.pairs)["task"]] += 1
        if family.metric is STATUS:
            unhealthy.update(dict(one.common.pairs)["task"] for one in family.points if not one.value)
    return Numbers(series, sum(lost.values()), unhealthy)


def status_of(
    agent: AgentIdentity, status: Status, counted: Numbers, now: str, before: Mapping[str, Any]
) -> dict[str, Any]:
    """The object's `status`; `before` is the last one, whose condition keeps its time while it does not change."""
    return {
        "agent": {"identity": agent.identity, "pod": agent.pod, "version": agent.version, "startTime": agent.start},
        "conditions": [condition("Ready", *_ready(status), now, before.get("conditions") or ())],
        "tasks": len(status.tasks),
        "pods": status.pods,
        "series": sum(counted.series.values()),
        "lost": counted.lost,
        "unhealthy": sum(counted.unhealthy.values()),
        "problems": bounded(status.problems, MAX_PROBLEMS),
        "policies": [_policy(task, status, counted) for task in _most(status.policies)],
        "unmonitored": [
            {"pod": pod, "reason": reason[:MAX_TEXT]}
            for pod, reason in sorted(status.unmonitored.items())[:MAX_UNMONITORED]
        ],
    }


def without_numbers(status: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth a write as soon as it changes."""
    policies = [{key: value for key, value in one.items() if key not in NUMBERS} for one in status["policies"]]
    return {**{key: value for key, value in status.items() if key not in NUMBERS}, "policies": policies}


def condition(
    kind: str, value: str, reason: str, message: str, now: str, before: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """A condition as Kubernetes has them; the time is that of the last change of its value."""
    known = next((one for one in before if one.get("type") == kind), {})
    since = known.get("lastTransitionTime") if known.get("status") == value else None
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message[:MAX_TEXT],
        "lastTransitionTime": since or now,
    }


def bounded(texts: Sequence[str], most: int) -> list[str]:
    """So many of the texts that fit, the last one saying how many are left out."""
    shown = [text[:MAX_TEXT] for text in texts[:most]]
    if len(texts) > most:
        shown[-1] = f"and {len(texts) - most + 1} more; all are in the agent's log"
    return shown


def _ready(status: Status) -> tuple[str, str, str]:
    if not status.ready:
        return "False", "NotSynced", "; ".join(status.problems) or "policies and pods are not known yet"
    if status.problems:
        return "True", "WithProblems", status.problems[0]
    return "True", "Running", "every policy is in force"


def _most(policies: Sequence[TaskStatus]) -> list[TaskStatus]:
    """As many as fit; of those that do not run, the last ones are left out."""
    fit = sorted(policies, key=lambda one: (not one.running, one.task))[:MAX_POLICIES]
    return sorted(fit, key=lambda one: one.task)


def _policy(task: TaskStatus, status: Status, counted: Numbers) -> dict[str, Any]:
    problems = [task.rejected] if task.rejected else []
    return {
        "task": task.task,
        "observedGeneration": task.generation,
        "valid": not task.rejected,
        "running": task.running,
        "pods": task.pods,
        "series": counted.series.get(task.task, 0),
        "unhealthy": counted.unhealthy.get(task.task, 0),
        "items": [*(_item(name, granularity, status.items) for name, granularity in task.items), *_health(task)],
        "problems": bounded(problems, MAX_PROBLEMS),
    }


def _health(task: TaskStatus) -> Iterator[dict[str, Any]]:
    """The health check among the items; its command stands for a granularity."""
    if task.health:
        reason = task.health.reason[:MAX_TEXT]
        yield {"item": ITEM, "granularity": task.health.command, "hooks": "", "inexact": "", "reason": reason}


def _item(name: str, granularity: str, ladders: Iterable[ItemStatus]) -> dict[str, Any]:
    """An item of several ladders is as good as the worst of them."""
    own = [ladder for ladder in ladders if ladder.item.split()[0] == name]
    missing = [f"{ladder.item}: {'; '.join(ladder.refused)}" for ladder in own if not ladder.hooks]
    inexact = [f"{ladder.hooks}: {ladder.inexact}" for ladder in own if ladder.inexact]
    return {
        "item": name,
        "granularity": granularity,
        "hooks": ", ".join(ladder.hooks for ladder in own if ladder.hooks)[:MAX_TEXT],
        "inexact": "; ".join(inexact)[:MAX_TEXT],
        "reason": "; ".join(missing)[:MAX_TEXT],
    }
