"""How a policy's health checks stand. An unhealthy pod is a metric; what no probe can find out is a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dolphin_agent.health.plan import HealthPlan, Impossible
    from dolphin_agent.policy.model import MonitorPolicy

ITEM = "healthCheck"
"""What items and problems call it."""


@dataclass(frozen=True)
class HealthStatus:
    """The health check of one policy on this node."""

    command: str
    checks: int
    """Pods that have an address, by IP family."""
    reason: str
    """Why some pods cannot be asked, and which; empty where all can."""


def health_status(policy: MonitorPolicy | None, plan: HealthPlan) -> HealthStatus | None:
    """How it stands; None where the policy has none."""
    if policy is None or policy.health_check is None:
        return None
    impossible = [one for one in plan.impossible if one.task == policy.task]
    checks = sum(one.task == policy.task for one in plan.checks)
    return HealthStatus(policy.health_check.command.value, checks, "; ".join(_with_pods(impossible)))


def problems(impossible: Iterable[Impossible]) -> list[str]:
    """Each reason once; of which pods it is true is in the status of the policy, as their number grows one by one."""
    return sorted({f"{ITEM}: {one.reason}" for one in impossible})


def _with_pods(impossible: Iterable[Impossible]) -> Iterator[str]:
    """Each reason, with a pod that it is true of and the number of the others."""
    found: dict[str, set[str]] = {}
    for one in impossible:
        found.setdefault(one.reason, set()).add(one.pod)
    for reason, pods in sorted(found.items()):
        more = f" and {len(pods) - 1} more" if len(pods) > 1 else ""
        yield f"{reason} (pod {min(pods)}{more})"
