"""What the agent says of itself at /readyz: which items run where, by which hook, and what does not and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import SLOTS
from dolphin_agent.health.plan import HealthPlan
from dolphin_agent.probes.items import ITEMS
from dolphin_agent.status.health import health_status
from dolphin_agent.status.health import problems as health_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dolphin_agent.desired import Desired
    from dolphin_agent.probes.engine import EngineStatus
    from dolphin_agent.probes.ladder import Choice
    from dolphin_agent.probes.plan import Plan
    from dolphin_agent.status.health import HealthStatus


@dataclass(frozen=True)
class ItemStatus:
    """One ladder of one item."""

    item: str
    """`ipReceive`; `tcpNewConnection inbound` where an item has several ladders; `service ports` for flows."""
    hooks: str
    """In use; empty when the kernel refused all."""
    inexact: str
    """What this way may count wrongly; empty when exact."""
    refused: tuple[str, ...]
    """`hooks: reason` of each better way that the kernel refused."""


@dataclass(frozen=True)
class TaskStatus:
    """One policy on this node."""

    task: str
    generation: int
    """Of the form that was looked at last, whether it runs or not."""
    rejected: str = ""
    """Why that form does not run; an earlier one may."""
    running: bool = True
    pods: int = 0
    items: tuple[tuple[str, str], ...] = ()
    """(item, granularity) of the form that runs."""
    health: HealthStatus | None = None
    """None where it asks for no health check."""


@dataclass(frozen=True)
class Status:
    """JSON-serialisable by dataclasses.asdict."""

    ready: bool = False
    """Policies and pods are known and the plan is applied, as far as the kernel lets it."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Task -> pods it selects."""
    policies: tuple[TaskStatus, ...] = ()
    pods: int = 0
    """Pods counted now."""
    items: tuple[ItemStatus, ...] = ()
    unmonitored: dict[str, str] = field(default_factory=dict)
    """Pod that cannot be monitored -> why."""
    problems: tuple[str, ...] = ()
    retry: bool = False
    """Something was refused that is worth trying again."""


def describe(desired: Desired, plan: Plan, engine: EngineStatus, health: HealthPlan | None = None) -> Status:
    """The status after a plan was applied; `health` has all checks that cannot be made, whoever found it out."""
    health = health or HealthPlan()
    pods: dict[str, set[str]] = {policy.task: set() for policy in desired.policies}
    for series in plan.series:
        pods[series.task].add(series.pod)
    for check in health.checks:
        pods[check.task].add(check.pod)
    for impossible in health.impossible:
        pods[impossible.task].add(impossible.pod)
    items = tuple(item_status(choice) for choice in engine.choices)
    problems = [*desired.problems]
    if engine.fault:
        problems.append(engine.fault)
    for item in items:
        if not item.hooks:
            problems.append(f"item {item.item}: not measured on this kernel: {'; '.join(item.refused)}")
        elif item.inexact:
            problems.append(f"item {item.item}: {item.hooks} is not exact: {item.inexact}")
    if engine.guard:
        problems.append(
            f"{engine.guard.hooks}: {engine.guard.reason}; a namespace that replaces a pod's within a second "
            "and gets the same number is taken for the pod's until then"
        )
    names = {backend.pod.uid: backend.pod.full_name for backend in desired.backends}
    problems.extend(
        f"pod {names.get(uid, uid)}: more pods than the {SLOTS - 1} that can be counted at a time; not counted"
        for uid, _, _ in engine.without_slot
    )
    problems.extend(health_problems(health.impossible))
    retry = bool(engine.fault) or any(not item.hooks for item in items)
    return Status(
        ready=True,
        tasks={task: len(names) for task, names in pods.items()},
        policies=tuple(_policies(desired, {task: len(names) for task, names in pods.items()}, health)),
        pods=engine.backends,
        items=items,
        unmonitored={one.pod: one.reason for one in desired.unmonitored},
        problems=tuple(problems),
        retry=retry,
    )


def _policies(desired: Desired, pods: Mapping[str, int], health: HealthPlan) -> Iterator[TaskStatus]:
    running = {policy.task: policy for policy in desired.policies}
    for task in sorted(running.keys() | desired.rejected.keys()):
        policy, rejected = running.get(task), desired.rejected.get(task)
        yield TaskStatus(
            task=task,
            generation=rejected.generation if rejected else policy.generation if policy else 0,
            rejected=rejected.reason if rejected else "",
            running=policy is not None,
            pods=pods.get(task, 0),
            items=tuple((name, granularity.value) for name, granularity in policy.monitor.items()) if policy else (),
            health=health_status(policy, health),
        )


def item_status(choice: Choice) -> ItemStatus:
    """How one ladder stands."""
    owner = next((item.name for item in ITEMS if choice.ladder in item.ladders), "")
    return ItemStatus(
        item=f"{owner} {choice.ladder.name}".strip(),
        hooks=choice.hooks,
        inexact=choice.rung.inexact if choice.rung else "",
        refused=tuple(f"{refusal.hooks}: {refusal.reason}" for refusal in choice.refusals),
    )
