"""Pods that can be watched: each with the network namespace it has now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dolphin_agent.pods.model import Pod

BackendKey = tuple[str, int, int]
"""Pod UID, namespace number, incarnation."""

HOST_NETWORK = "uses hostNetwork: the node's own traffic is not a pod's; not monitored"


@dataclass(frozen=True)
class Backend:
    """A pod in its network namespace."""

    pod: Pod
    netns: int
    """Inode number of the namespace, which is also its number inside the kernel."""
    incarnation: int = 0
    """Raised when the kernel says that the namespace died and another one has its number."""

    @property
    def key(self) -> BackendKey:
        """Its identity: a restarted sandbox is another one."""
        return (self.pod.uid, self.netns, self.incarnation)


class Unmonitored(NamedTuple):
    """A pod that is no backend."""

    pod: str
    """`namespace/name`."""
    reason: str

    def __str__(self) -> str:
        return f"pod {self.pod}: {self.reason}"


class Resolved(NamedTuple):
    """What a look at the pods' namespaces found; pods that have none yet are in neither."""

    backends: tuple[Backend, ...]
    unmonitored: tuple[Unmonitored, ...]


class Resolver(Protocol):
    """Finds the namespaces of pods. Used by one thread."""

    def resolve(self, pods: Iterable[Pod]) -> Resolved:
        """Look once."""


def distinct(found: Iterable[Backend | Unmonitored]) -> Resolved:
    """Leave out all but the first pod in each namespace: its traffic would count twice."""
    backends: dict[int, Backend] = {}
    unmonitored: list[Unmonitored] = []
    for one in found:
        if isinstance(one, Unmonitored):
            unmonitored.append(one)
            continue
        first = backends.setdefault(one.netns, one)
        if first is not one:
            reason = f"is in the network namespace of {first.pod.full_name}; not counted twice"
            unmonitored.append(Unmonitored(one.pod.full_name, reason))
    return Resolved(tuple(backends.values()), tuple(unmonitored))
