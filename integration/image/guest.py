"""The image in a guest of another architecture: `python -m integration.image.guest [--kernel NAME] -- CMD`.

The guest's root is the image, with what tests need beside an agent: programs of Debian's, pure Python modules of the
virtual environment. The source tree is at its path. So the agent is what users run, on the image's Python and
libraries.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

from integration.image import container
from integration.image.build import SUITE, archive
from integration.lib import cache
from integration.vm import boot, kernels, tools
from integration.vm.__main__ import finish, write_through
from integration.vm.apt import PrivateApt, machine_archive

PACKAGES = (
    "busybox-static",
    "coreutils",
    "dash",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libpython3.11-stdlib",  # for pyroute2: the image is without sqlite3
    "nftables",
    "util-linux",
)
"""What guest.sh and integration/lib run."""
MODULES = ("_pytest", "iniconfig", "packaging", "pluggy*", "py.py", "pygments", "pyroute2", "pytest")
"""Python's modules that the tests import and the image is without; the same on all architectures. Of pluggy, pytest
wants the version, which is in a directory beside it."""
_MERGED = ("bin", "lib", "sbin")
"""Links to what is below usr, as everywhere in Debian but in packages."""
_MOUNTED = ("dev", "proc", "run", "sys", "tmp", "var/tmp")
"""What init.sh mounts."""


def _tools(architecture: str) -> Path:
    """Return where the packages are unpacked, fetching them where they are not yet; raises HarnessError."""

    def make(work: Path, made: Path) -> None:
        apt = PrivateApt(work / "apt", machine_archive(), SUITE, architecture)
        apt.update()
        debs = work / "debs"
        debs.mkdir()
        for name in _MERGED:
            (made / "usr" / name).mkdir(parents=True)
            (made / name).symlink_to(f"usr/{name}")
        for package in apt.download(apt.closure(*PACKAGES), debs):
            # Not by dpkg-deb -x: it puts a directory where a link to one is.
            files = tools.run(["dpkg-deb", "--fsys-tarfile", str(package)])
            with tarfile.open(fileobj=io.BytesIO(files)) as tar:
                tar.extractall(made, numeric_owner=True, filter="fully_trusted")  # noqa: S202 - as dpkg does

    files = [f"usr/share/doc/{package}" for package in PACKAGES]
    return cache.once("guests", architecture, files, make, f"fetching Debian's packages for {architecture}")


def _root(kernel: kernels.CachedKernel, root: Path) -> None:
    """Lay out a guest's root for boot.Machine; raises HarnessError."""
    architecture = kernel.architecture.name
    shutil.copytree(_tools(architecture), root, symlinks=True)
    # After the tools: where both have a file, it is the image's.
    container.unpack(archive(architecture), root)
    site = next(root.glob("usr/local/lib/python3*/dist-packages"))
    for name in MODULES:
        for module in Path(sysconfig.get_path("purelib")).glob(name):
            (site / module.name).symlink_to(module)
    for path in (*_MOUNTED, boot.PROJECT, kernel.directory):
        (root / str(path).lstrip("/")).mkdir(parents=True, exist_ok=True)


def main() -> int:
    """Run a command in a guest and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m integration.image.guest", description=__doc__)
    parser.add_argument("--kernel", default="6.12-arm64", help="a kernel of the image's architecture (6.12-arm64)")
    parser.add_argument("--timeout", type=float, default=1200, metavar="S", help="seconds until it is killed (1200)")
    parser.add_argument("argv", nargs="+", metavar="CMD", help="the command and its arguments, after --")
    return finish(_run(parser.parse_args()))


async def _run(arguments: argparse.Namespace) -> int:
    kernel = kernels.prepare(kernels.find(arguments.kernel))
    with tempfile.TemporaryDirectory(prefix="dolphin-image-guest-") as directory:
        root = Path(directory, "root")
        _root(kernel, root)
        job = boot.Job(arguments.argv, timeout=arguments.timeout)
        return await boot.run(kernel, job, boot.Machine(root=root), write_through)


if __name__ == "__main__":
    sys.exit(main())
