"""Debian's containerd, runc and CNI plugins, unpacked, not installed: no service of theirs starts on this machine."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from integration.lib import cache
from integration.vm import tools
from integration.vm.apt import PrivateApt, machine_archive

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("containerd", "runc", "containernetworking-plugins", "libseccomp2")
_FILES = ("usr/bin/containerd", "usr/bin/ctr", "usr/sbin/runc", "usr/lib/cni/bridge")


def find() -> Path:
    """Return the directory below which their files are, fetching them where they are missing; raises HarnessError."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]

    def make(work: Path, made: Path) -> None:
        apt = PrivateApt(work / "apt", machine_archive(), suite)
        apt.update()
        debs = work / "debs"
        debs.mkdir()
        for package in apt.download(PACKAGES, debs):
            tools.run(["dpkg-deb", "-x", str(package), str(made)])

    return cache.once("cluster", f"runtime-{suite}", _FILES, make, f"fetching {', '.join(PACKAGES)}")
