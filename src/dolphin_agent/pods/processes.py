"""Pods' network namespaces by their processes: the cgroup's path has the pod's uid.

Every container runtime places a pod's processes below a cgroup that the kubelet names after the pod, whatever the
cgroup driver and version:

    /kubepods/burstable/pod<uid>/<container>                                                    cgroupfs
    /kubepods.slice/.../kubepods-burstable-pod<uid, with _>.slice/cri-containerd-<id>.scope     systemd, containerd
    the same with crio-<id>.scope, docker-<id>.scope

The namespace itself is never opened, so it can always die; neither is anything forked, nor is the runtime asked.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dolphin_agent import capabilities
from dolphin_agent.errors import ConfigError
from dolphin_agent.pods.backend import HOST_NETWORK, Backend, Unmonitored, distinct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dolphin_agent.pods.backend import Resolved
    from dolphin_agent.pods.model import Pod

_POD = re.compile(rb"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[./\n]|$)")
"""A uid, or the hash of a static pod. The first one counts: a cluster inside of a pod has its own below."""

SETTLED_SECONDS = 30.0
"""How long a process that belongs to no pod is looked at again: a runtime starts it first and places it then."""

MISSING_SECONDS = 10.0
"""After how long a running pod without a process is reported."""

_STARTED = 19
"""Index of a process's start time in /proc/PID/stat, counted from behind the command's name (proc(5): field 22)."""


@dataclass
class _Sandbox:
    """Where a pod's namespace was found."""

    directory: int
    """/proc/PID, opened: it answers for this process only, even if its number is given to another one."""
    inode: int


class ProcessResolver:
    """Looks at one process per pod each time, and at all new ones of the node while some pod has none."""

    def __init__(self, root: Path) -> None:
        """Take the /proc of the node. Raises ConfigError if it is none."""
        self._root = root
        self.own = _own_netns(root)
        """The node's own."""
        self._sandboxes: dict[str, _Sandbox] = {}
        self._members: dict[str, set[int]] = {}
        """Pod uid, with dashes -> its processes."""
        self._strangers: dict[int, float] = {}
        """Process of no pod -> monotonic time until which it is looked at again."""
        self._missing: dict[str, float] = {}
        """Pod uid -> since when a running pod has had no process."""

    def resolve(self, pods: Iterable[Pod]) -> Resolved:
        """Look once."""
        pods = tuple(pods)
        wanted = [pod for pod in pods if not (pod.host_network or pod.terminated)]
        uids = {pod.cgroup_uid for pod in wanted}
        for uid in [uid for uid in self._sandboxes if uid not in uids or not self._holds(self._sandboxes[uid])]:
            os.close(self._sandboxes.pop(uid).directory)
        if len(self._sandboxes) < len(uids):
            self._scan()
            for uid in uids - self._sandboxes.keys():
                if sandbox := self._find(uid):
                    self._sandboxes[uid] = sandbox
        return distinct(self._each(pods, uids))

    def close(self) -> None:
        """Let go of the processes."""
        for sandbox in self._sandboxes.values():
            os.close(sandbox.directory)
        self._sandboxes.clear()

    def _each(self, pods: Iterable[Pod], uids: set[str]) -> Iterator[Backend | Unmonitored]:
        now = time.monotonic()
        self._missing = {uid: since for uid, since in self._missing.items() if uid in uids}
        for pod in pods:
            if pod.terminated:
                continue
            if pod.host_network:
                yield Unmonitored(pod.full_name, HOST_NETWORK)
            elif sandbox := self._sandboxes.get(pod.cgroup_uid):
                self._missing.pop(pod.cgroup_uid, None)
                yield Backend(pod, sandbox.inode)
            elif pod.running and now - self._missing.setdefault(pod.cgroup_uid, now) > MISSING_SECONDS:
                yield Unmonitored(
                    pod.full_name,
                    f"runs, but no process in {self._root} is in a cgroup of it; is that the node's /proc, and are its "
                    "containers on this kernel (Kata's are not)?",
                )

    def _holds(self, sandbox: _Sandbox) -> bool:
        """Whether the process is still there; takes in what namespace it is in."""
        try:
            sandbox.inode = os.stat("ns/net", dir_fd=sandbox.directory).st_ino
        except OSError:
            return False
        return sandbox.inode != self.own

    def _scan(self) -> None:
        """Learn which pods the node's new processes belong to."""
        now = time.monotonic()
        there = {int(name) for name in os.listdir(self._root) if name.isdecimal()}  # noqa: PTH208 - a third of the cost
        left = {uid: members & there for uid, members in self._members.items()}
        self._members = {uid: members for uid, members in left.items() if members}
        known: set[int] = set().union(*self._members.values())
        self._strangers = {pid: until for pid, until in self._strangers.items() if pid in there}
        for pid in there - known:
            if now > self._strangers.setdefault(pid, now + SETTLED_SECONDS):
                continue
            if (found := self._pod_of(pid)) is not None:
                self._members.setdefault(found, set()).add(pid)
                del self._strangers[pid]

    def _pod_of(self, pid: int) -> str | None:
        try:
            found = _POD.search((self._root / str(pid) / "cgroup").read_bytes())
        except OSError:
            return None  # it has ended
        return found[1].decode().replace("_", "-") if found else None

    def _find(self, uid: str) -> _Sandbox | None:
        """The namespace of a pod's oldest process: a later one may have made a namespace of its own."""
        started = sorted(
            (start, pid) for pid in self._members.get(uid, ()) if (start := self._start_of(pid)) is not None
        )
        for _, pid in started:
            try:
                directory = os.open(self._root / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            sandbox = _Sandbox(directory, 0)
            # The node's namespace is that of a process still on its way, as long as the runtime sets it up; that the
            # number is this pod's is asked once more, as it may have been given to another process meanwhile.
            if self._pod_of(pid) != uid:
                self._members[uid].discard(pid)
            elif self._holds(sandbox):
                return sandbox
            os.close(directory)
        return None

    def _start_of(self, pid: int) -> int | None:
        try:
            text = (self._root / str(pid) / "stat").read_bytes()
        except OSError:
            return None
        return int(text[text.rindex(b")") + 2 :].split()[_STARTED])


def _own_netns(root: Path) -> int:
    """The number of the node's own namespace. Raises ConfigError."""
    try:
        return (root / "1/ns/net").stat().st_ino
    except PermissionError as fault:
        if not capabilities.held("CAP_SYS_PTRACE"):
            raise ConfigError(
                f"{root}/1/ns/net: permission denied; the agent needs the capability SYS_PTRACE to see whose network "
                "namespace is whose"
            ) from fault
        # A process that more is allowed to than to this one, as in a sandbox.
        return (root / "self/ns/net").stat().st_ino
    except OSError as fault:
        raise ConfigError(
            f"--proc-root {root}: {fault.strerror}; mount the node's /proc there (hostPath /proc, read-only)"
        ) from fault
