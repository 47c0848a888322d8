"""The kernels that are tested, and a cache of them outside the source tree."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vm import tools
from integration.vm.apt import PrivateApt, machine_archive
from integration.vm.architectures import AMD64, ARM64, Architecture
from integration.vm.errors import HarnessError, KernelUnavailableError
from integration.vm.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAYOUT = 1
"""Version of a cached kernel's layout; one with another is made again."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel series as Debian ships it: the generic flavour of an architecture."""

    name: str
    """The series, such as 6.12; with an architecture after it where that is not amd64."""
    suite: str
    """The Debian suite that has it."""
    architecture: Architecture = AMD64

    @property
    def series(self) -> str:
        """What the versions of its package begin with."""
        return self.name.removesuffix(f"-{self.architecture.name}")


SUPPORTED = (
    Kernel("5.10", "bullseye"),
    Kernel("6.1", "bookworm"),
    Kernel("6.12", "trixie"),
    Kernel("7.2", "forky"),
    Kernel("6.12-arm64", "trixie", ARM64),
)
"""Every kernel that can be tested."""


@dataclass(frozen=True, slots=True)
class CachedKernel:
    """A kernel, ready to boot."""

    name: str
    release: str
    """What `uname -r` prints in it."""
    version: str
    """The version of its Debian package."""
    directory: Path
    architecture: Architecture

    @property
    def vmlinux(self) -> Path:
        """The kernel as QEMU starts it."""
        return self.directory / "vmlinux"

    @property
    def root_modules(self) -> list[Path]:
        """The modules that mounting the root file system needs, in the order of loading."""
        return sorted((self.directory / "root-modules").iterdir())


def cache_root() -> Path:
    """Return the directory of all cached kernels, which XDG_CACHE_HOME moves."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "dolphin-agent" / "kernels"


def find(name: str) -> Kernel:
    """Return the supported kernel called `name`; raises KernelUnavailableError."""
    for kernel in SUPPORTED:
        if kernel.name == name:
            return kernel
    known = ", ".join(kernel.name for kernel in SUPPORTED)
    raise KernelUnavailableError(f"kernel {name!r} is not supported; there are {known}")


def prepare(kernel: Kernel) -> CachedKernel:
    """Return a kernel from the cache, fetching and unpacking it where it is not there yet.

    Safe to call from several processes at once. Raises MissingToolError and KernelUnavailableError.
    """
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    target = root / kernel.name
    with _locked(root / f"{kernel.name}.lock"):
        cached = _read(kernel, target)
        if cached is None:
            with tempfile.TemporaryDirectory(dir=root, prefix=f"{kernel.name}-") as work:
                made = _make(kernel, Path(work))
                # Complete under another name first: whatever interrupts this leaves no half a kernel.
                shutil.rmtree(target, ignore_errors=True)
                made.rename(target)
            cached = _read(kernel, target)
    if cached is None:
        raise KernelUnavailableError(f"{target} cannot be read back")
    return cached


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(kernel: Kernel, directory: Path) -> CachedKernel | None:
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        if manifest["layout"] != _LAYOUT:
            return None
        return CachedKernel(kernel.name, manifest["release"], manifest["version"], directory, kernel.architecture)
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _make(kernel: Kernel, work: Path) -> Path:
    apt = PrivateApt(work / "apt", machine_archive(), kernel.suite, kernel.architecture.name)
    apt.update()
    release, version = _newest(kernel, apt.versions("linux-image-"))
    # From forky on the image's package is nearly empty: others of the same release have its files.
    packages = [name for name in apt.closure(f"linux-image-{release}") if name.endswith(f"-{release}")]
    debs = work / "debs"
    debs.mkdir()
    made = work / "kernel"
    made.mkdir()
    try:
        unpack(apt.download(packages, debs), release, made)
    except HarnessError as error:
        raise KernelUnavailableError(f"kernel {kernel.name} from {', '.join(packages)}: {error}") from error
    manifest = {"layout": _LAYOUT, "release": release, "version": version}
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made


def _newest(kernel: Kernel, versions: dict[str, str]) -> tuple[str, str]:
    """Choose from {package: version} the newest of a series; returns (release, package version)."""
    image = re.compile(rf"linux-image-(?P<release>\d[^-]*(?:-\d+)?-{kernel.architecture.name})")
    images = {match["release"]: version for name, version in versions.items() if (match := image.fullmatch(name))}
    series = {release: version for release, version in images.items() if version.startswith(f"{kernel.series}.")}
    if not series:
        others = ", ".join(sorted(images.values())) or "no kernel at all"
        raise KernelUnavailableError(
            f"Debian's {kernel.suite} has no kernel {kernel.series} for {kernel.architecture.name}; it has {others}. "
            "Where the suite has moved on, change SUPPORTED in integration/vm/kernels.py"
        )
    newest = max(series, key=lambda release: cmp_to_key(_compare_versions)(series[release]))
    return newest, series[newest]


def _compare_versions(left: str, right: str) -> int:
    """Order two Debian versions as dpkg does."""
    if left == right:
        return 0
    try:
        tools.run(["dpkg", "--compare-versions", left, "gt", right])
    except HarnessError:
        return -1
    return 1
