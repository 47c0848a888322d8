"""Pods' network namespaces by the path that an annotation gives."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dolphin_agent.errors import PodError
from dolphin_agent.pods import netns
from dolphin_agent.pods.backend import HOST_NETWORK, Backend, Unmonitored, distinct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dolphin_agent.pods.backend import Resolved
    from dolphin_agent.pods.model import Pod


class PathResolver:
    """Remembers which paths were checked, so that polling costs one stat per pod."""

    def __init__(self) -> None:
        self._checked: dict[str, tuple[int, int]] = {}
        self.own = netns.own_netns().inode
        """The node's own."""

    def resolve(self, pods: Iterable[Pod]) -> Resolved:
        """Look once."""
        return distinct(self._each(pods))

    def _each(self, pods: Iterable[Pod]) -> Iterator[Backend | Unmonitored]:
        for pod in pods:
            if pod.terminated:
                continue
            try:
                yield Backend(pod, self._inode(pod))
            except PodError as fault:
                yield Unmonitored(pod.full_name, str(fault))

    def _inode(self, pod: Pod) -> int:
        if pod.host_network:
            raise PodError(HOST_NETWORK)
        if pod.netns_path is None:
            raise PodError("has no dolphin.io/netns annotation")
        try:
            # Not a Path: making one takes as long as all the rest, for each pod, twice a second.
            found = os.stat(pod.netns_path)  # noqa: PTH116
        except OSError:
            self._checked.pop(pod.netns_path, None)
            found = None
        if found is None or self._checked.get(pod.netns_path) != (found.st_dev, found.st_ino):
            netns_id = netns.resolve(pod.netns_path)
            self._checked[pod.netns_path] = (netns_id.device, netns_id.inode)
            inode = netns_id.inode
        else:
            inode = found.st_ino
        if inode == self.own:
            raise PodError(f"{pod.netns_path} is the node's own network namespace; not monitored")
        return inode
