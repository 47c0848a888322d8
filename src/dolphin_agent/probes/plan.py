"""What must be attached and counted on this node: a pure function of the policies and the pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import ANY_PER_FLOW
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME, SERVICE_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dolphin_agent.pods.backend import Backend, BackendKey
    from dolphin_agent.policy.model import MonitorPolicy
    from dolphin_agent.probes.items import Ladder


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
    keys: tuple[str, ...] = ()
    """The podLabel keys that these are made of."""

    @property
    def name(self) -> tuple[object, ...]:
        """What tells it apart outside: two with equal names would be exported under the same labels."""
        return self.task, self.pod, self.item, self.granularity, self.labels


@dataclass(frozen=True)
class Plan:
    """Empty when nobody asks for anything: then nothing is loaded."""

    series: tuple[Series, ...] = ()
    wants: Mapping[BackendKey, int] = field(default_factory=dict)
    """Backend -> Kind.counted and Kind.per_flow bits, over all tasks."""
    ladders: tuple[Ladder, ...] = ()
    """Every ladder that some backend needs, in the order of declaration."""
    addresses: Mapping[str, int] = field(default_factory=dict)
    """Address -> number of its namespace, of the backends that a ladder looks up by address."""
    node: int = 0
    """Number of the node's own namespace, where that is done; 0: not known."""


def make_plan(
    policies: Iterable[MonitorPolicy], backends: Iterable[Backend], *, fold_ports: bool = True, node: int = 0
) -> Plan:
    """The plan that answers all policies over all backends; each kind is counted once per backend."""
    backends = tuple(backends)
    series: list[Series] = []
    wants: dict[BackendKey, int] = {}
    needed: set[str] = set()
    addresses: dict[str, int] = {}
    for policy in policies:
        items = [(BY_NAME[name], granularity) for name, granularity in policy.monitor.items()]
        for backend in backends:
            if not items or not policy.selector.matches(backend.pod.labels):
                continue
            labels = policy.label_pairs(backend.pod.labels)
            keys = tuple(label.key for label in policy.pod_labels)
            for item, granularity in items:
                needed.add(item.name)
                if any(ladder.by_address for ladder in item.ladders):
                    addresses.update(dict.fromkeys(backend.pod.ips, backend.netns))
                for kind in item.kinds:
                    bits = kind.counted | (kind.per_flow if granularity is Granularity.FLOW else 0)
                    wants[backend.key] = wants.get(backend.key, 0) | bits
                name = backend.pod.full_name
                series.append(Series(policy.task, backend.key, name, item.name, granularity, labels, keys))
    ladders = [ladder for name, item in BY_NAME.items() if name in needed for ladder in item.ladders]
    if fold_ports and any(bits & ANY_PER_FLOW for bits in wants.values()):
        ladders.append(SERVICE_PORTS)
    return Plan(tuple(series), wants, tuple(dict.fromkeys(ladders)), addresses, node if addresses else 0)
