"""What users want on this node now, wherever it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dolphin_agent.frozen import FrozenMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.pods.backend import Backend, Unmonitored
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
    looked: float = field(default=0.0, compare=False)
    """Monotonic seconds: the backends' namespaces were theirs at this time or later."""


class Source(Protocol):
    """Where Desired comes from; publishes from a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""

    def look(self) -> None:
        """Look at the pods' namespaces at once and publish, even what is not new."""

    @property
    def waiting(self) -> tuple[str, ...]:
        """What it is waiting for, one line each, until it first publishes."""

    @property
    def ages(self) -> Mapping[str, float]:
        """Kind -> seconds since it was known to be current; of what is watched from afar."""
