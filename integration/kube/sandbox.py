"""A pod's network namespace and a process in it, placed in the cgroup where a container runtime would place it."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib.netns import Netns, new_netns
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = Path("/sys/fs/cgroup")
CONTAINER = "5a1d" * 16


@dataclass(frozen=True)
class Layout:
    """How kubelet and runtime name a pod's cgroup."""

    name: str
    path: str
    """`{uid}` as Kubernetes writes it, `{uid_}` with `_` for `-`, `{id}` for the container."""
    version: int = 2

    def directory(self, uid: str) -> Path:
        """The directory of a pod's container."""
        # This machine's or guest's version 2 hierarchy is the root, or beside those of version 1.
        unified = CGROUPS / "unified"
        version2 = unified if unified.exists() else CGROUPS
        root = version2 if self.version == 2 else CGROUPS / "pids"
        return root / self.path.format(uid=uid, uid_=uid.replace("-", "_"), id=CONTAINER)


_SLICE = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice"
CONTAINERD = Layout("containerd, systemd", f"{_SLICE}/cri-containerd-{{id}}.scope")
CGROUPFS = Layout("containerd, cgroupfs", "kubepods/burstable/pod{uid}/{id}")
LAYOUTS = (
    CONTAINERD,
    CGROUPFS,
    Layout("CRI-O, systemd", f"{_SLICE}/crio-{{id}}.scope"),
    Layout("docker, systemd", f"{_SLICE}/docker-{{id}}.scope"),
    Layout("docker, cgroupfs, guaranteed", "kubepods/pod{uid}/{id}"),
    Layout("cgroup v1, cgroupfs", "kubepods/burstable/pod{uid}/{id}", version=1),
    Layout("cgroup v1, systemd", f"{_SLICE}/cri-containerd-{{id}}.scope", version=1),
)


@dataclass(frozen=True)
class Sandbox:
    """One that runs."""

    netns: Netns
    process: subprocess.Popen[bytes]
    started: float
    """Monotonic time at which its process was in its cgroup and namespace."""

    @property
    def inode(self) -> int:
        """The number of its namespace."""
        return self.netns.inum


@contextmanager
def sandbox(uid: str, name: str, layout: Layout = CONTAINERD) -> Iterator[Sandbox]:
    """Run a sandbox for the length of a block; its namespace is called `name`."""
    with new_netns(name) as netns, place(uid, netns, layout) as process:
        yield Sandbox(netns, process, time.monotonic())


@contextmanager
def place(uid: str, netns: Netns, layout: Layout = CONTAINERD) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process of a pod in a namespace for the length of a block."""
    directory = layout.directory(uid)
    directory.mkdir(parents=True)
    try:
        with _process(netns, directory) as process:
            yield process
    finally:
        _remove(directory)


@contextmanager
def _process(netns: Netns, cgroup: Path) -> Iterator[subprocess.Popen[bytes]]:
    enter = f"echo $$ > {cgroup}/cgroup.procs && exec ip netns exec {netns.name} sleep 1000"
    with subprocess.Popen(["sh", "-c", enter]) as process:
        try:
            there = Path(f"/proc/{process.pid}/ns/net")
            wait_until(lambda: there.stat().st_ino == netns.inum, deadline=10, what="the sandbox runs", interval=0.01)
            yield process
        finally:
            process.kill()


def _remove(directory: Path) -> None:
    """Remove a cgroup, and those above it that are empty."""
    wait_until(lambda: not (directory / "cgroup.procs").read_text(), deadline=10, what="the cgroup is empty")
    for path in (directory, *directory.parents):
        if not path.name.startswith(("kubepods", "pod", "cri", "docker", CONTAINER)):
            break
        try:
            path.rmdir()
        except OSError:
            break
