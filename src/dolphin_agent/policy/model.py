"""A MonitorPolicy that is known to be right: immutable, comparable by value, free of YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.policy.vocabulary import Command, Granularity, IPFamily, Operator

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_FOUND = "not found"
"""The exported value of a label that a pod does not have."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label of a pod."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()
    """Empty exactly with Exists and DoesNotExist."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Judge as Kubernetes does: NotIn and DoesNotExist also hold where the label is absent."""
        match self.operator:
            case Operator.IN:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Which pods a policy is about."""

    requirements: tuple[Requirement, ...] = ()
    """All must hold; none at all selects every pod. `matchLabels: {k: v}` is the requirement `k In [v]`."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a pod with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class PodLabel:
    """A pod label that is copied onto every series."""

    key: str
    """As on the pod, such as `app.kubernetes.io/name`."""

    @property
    def label_name(self) -> str:
        """The exported name: `_` for every character Prometheus lacks, and before a leading digit."""
        name = re.sub(r"[^a-zA-Z0-9_]", "_", self.key)
        return f"_{name}" if name[:1].isdigit() else name


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """An enabled active check of every selected pod."""

    failure_threshold: int = 1
    """Consecutive failures until a pod counts as unhealthy."""
    period_seconds: int = 60
    """Seconds from the start of one check to that of the next."""
    command: Command = Command.PING
    ip_families: tuple[IPFamily, ...] = (IPFamily.IPV4,)
    """Each is checked on its own; in the order written."""
    port: int | None = None
    """TCP port; never None with curl."""
    path: str = "/"
    """The HTTP path that curl asks for."""


@dataclass(frozen=True, slots=True)
class MonitorPolicy:
    """One user's wish: which pods, what of them, how finely."""

    namespace: str
    name: str
    generation: int = 0
    """The API server's count of spec changes; 0 in a hand-written file."""
    selector: LabelSelector = LabelSelector()
    pod_labels: tuple[PodLabel, ...] = ()
    """In the order written; their `label_name`s differ."""
    health_check: HealthCheck | None = None
    """None where none is asked for or `enable` is false."""
    monitor: Mapping[str, Granularity] = field(default_factory=FrozenMap)
    """Item name (a key of `vocabulary.ITEMS`) -> granularity; empty if only health is asked for."""

    @property
    def task(self) -> str:
        """The value of the `task` label, unique on a node: `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def label_pairs(self, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Give the (exported name, value) pairs that a pod with `labels` adds to its series."""
        return tuple((label.label_name, labels.get(label.key, NOT_FOUND)) for label in self.pod_labels)
