"""Programs of this machine that the harness runs."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from integration.vm.errors import HarnessError, MissingToolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PACKAGES = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "buildah": "buildah",
    "busybox": "busybox-static",
    "debootstrap": "debootstrap",
    "depmod": "kmod",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "runc": "runc",
    "zstd": "zstd",
}
"""The Debian package of each program."""

_SYSTEM_PATH = "/usr/sbin:/sbin"


def find(tool: str) -> str:
    """Return the path of a program; administrators' directories are searched though PATH may lack them.

    Raises MissingToolError.
    """
    path = shutil.which(tool) or shutil.which(tool, path=_SYSTEM_PATH)
    if path is None:
        raise MissingToolError(tool, PACKAGES[tool])
    return path


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """Run a program to its end and return what it printed.

    Raises MissingToolError, and HarnessError, with what it said, where it fails.
    """
    command = [find(argv[0]), *argv[1:]]
    done = subprocess.run(command, cwd=cwd, env=env, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise HarnessError(f"{' '.join(argv)} failed with status {done.returncode}:\n{said}")
    return done.stdout
