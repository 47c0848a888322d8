"""Pods that can be watched: each with the network namespace it has now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent.errors import PodError
from dolphin_agent.pods import netns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dolphin_agent.pods.model import Pod

BackendKey = tuple[str, int, int]
"""Pod UID, namespace number, incarnation."""


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


class Resolver:
    """Finds pods' namespaces; remembers which paths were checked, so that polling costs one stat per pod."""

    def __init__(self) -> None:
        self._checked: dict[str, tuple[int, int]] = {}
        self._own = netns.own_netns()

    def resolve(self, pods: Iterable[Pod]) -> tuple[tuple[Backend, ...], tuple[str, ...]]:
        """The backends, and one line for each pod that cannot be one."""
        backends: dict[int, Backend] = {}
        problems: list[str] = []
        for pod in pods:
            try:
                backend = self._backend(pod)
            except PodError as fault:
                problems.append(f"pod {pod.full_name}: {fault}")
                continue
            if backend is None:
                continue
            first = backends.setdefault(backend.netns, backend)
            if first is not backend:
                problems.append(
                    f"pod {pod.full_name}: is in the network namespace of {first.pod.full_name}; not counted twice"
                )
        return tuple(backends.values()), tuple(problems)

    def _backend(self, pod: Pod) -> Backend | None:
        if pod.terminated:
            return None
        if pod.host_network:
            raise PodError("uses hostNetwork: the node's own traffic is not a pod's; not monitored")
        if pod.netns_path is None:
            raise PodError("has no dolphin.io/netns annotation")
        try:
            found = Path(pod.netns_path).stat()
        except OSError:
            self._checked.pop(pod.netns_path, None)
            found = None
        if found is None or self._checked.get(pod.netns_path) != (found.st_dev, found.st_ino):
            netns_id = netns.resolve(pod.netns_path)
            self._checked[pod.netns_path] = (netns_id.device, netns_id.inode)
            inode = netns_id.inode
        else:
            inode = found.st_ino
        if inode == self._own.inode:
            raise PodError(f"{pod.netns_path} is the node's own network namespace; not monitored")
        return Backend(pod, inode)
