"""What users want on this node now, wherever it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dolphin_agent.frozen import FrozenMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.pods.backend import Backend, Unmonitored
    from dolphin_agent.pods.model import Pod
    from dolphin_agent.policy.model import MonitorPolicy
    from dolphin_agent.policy.objects import Refusal


@dataclass(frozen=True)
class Desired:
    """Immutable."""

    policies: tuple[MonitorPolicy, ...] = ()
    backends: tuple[Backend, ...] = ()
    problems: tuple[str, ...] = ()
    """One line each: what is wrong, and what is done meanwhile."""
    rejected: Mapping[str, Refusal] = field(default_factory=FrozenMap)
    """Task -> why its present form does not run; an earlier one may."""
    unmonitored: tuple[Unmonitored, ...] = ()
    """Pods that are none, and why."""
    pods: tuple[Pod, ...] = ()
    """All pods of the node, whether or not they are backends: health checks need addresses alone."""
    node: int = 0
    """Number of the node's own network namespace; 0: not known."""
    looked: float = field(default=0.0, compare=False)
    """Monotonic seconds: the backends' namespaces were theirs at this time or later."""
