"""What must be attached and counted on this node: a pure function of the policies and the pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dolphin_agent.probes.items import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dolphin_agent.pods.backend import Backend, BackendKey
    from dolphin_agent.policy.model import MonitorPolicy
    from dolphin_agent.policy.vocabulary import Granularity
    from dolphin_agent.probes.items import Item, Ladder


@dataclass(frozen=True)
class Series:
    """One item of one task at one pod: what starts at zero when it appears."""

    task: str
    backend: BackendKey
    pod: str
    """namespace/name."""
    item: str
    granularity: Granularity
    labels: tuple[tuple[str, str], ...]
    """The podLabel labels; other values are another series."""


@dataclass(frozen=True)
class Plan:
    """Empty when nobody asks for anything: then nothing is loaded."""

    series: tuple[Series, ...] = ()
    wants: Mapping[BackendKey, int] = field(default_factory=dict)
    """Backend -> bits of the kinds to count, over all tasks."""
    ladders: tuple[Ladder, ...] = ()
    """Every ladder that some backend needs, in the order of declaration."""
    unmeasured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> `item/granularity` asked for that this version does not measure."""


def make_plan(policies: Iterable[MonitorPolicy], backends: Iterable[Backend]) -> Plan:
    """The plan that answers all policies over all backends; each kind is counted once per backend."""
    backends = tuple(backends)
    series: list[Series] = []
    wants: dict[BackendKey, int] = {}
    needed: set[str] = set()
    unmeasured: dict[str, tuple[str, ...]] = {}
    for policy in policies:
        items, missing = _measured(policy)
        if missing:
            unmeasured[policy.task] = missing
        for backend in backends:
            if not items or not policy.selector.matches(backend.pod.labels):
                continue
            labels = policy.label_pairs(backend.pod.labels)
            for item, granularity in items:
                needed.add(item.name)
                for kind in item.kinds:
                    wants[backend.key] = wants.get(backend.key, 0) | 1 << kind
                series.append(Series(policy.task, backend.key, backend.pod.full_name, item.name, granularity, labels))
    ladders = tuple(ladder for name, item in BY_NAME.items() if name in needed for ladder in item.ladders)
    return Plan(tuple(series), wants, ladders, unmeasured)


def _measured(policy: MonitorPolicy) -> tuple[list[tuple[Item, Granularity]], tuple[str, ...]]:
    """The policy's items that can be measured, and the names of those that cannot."""
    found, missing = [], []
    for name, granularity in policy.monitor.items():
        item = BY_NAME.get(name)
        if item and granularity in item.metrics:
            found.append((item, granularity))
        else:
            missing.append(f"{name}/{granularity}")
    return found, tuple(missing)
