"""The image as an OCI archive, by the Dockerfile that users build it with, from a base made of Debian's packages.

`python -m integration.image.build [ARCHITECTURE...]` writes `dist/dolphin-agent-<version>-<architecture>.oci.tar`. Both
architectures are built on either.
"""

from __future__ import annotations

import argparse
import os
import platform
import ssl
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vm import tools
from integration.vm.apt import machine_archive
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
ARCHITECTURES = ("amd64", "arm64")
HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
"""This machine's."""
NAME = "localhost/dolphin-agent"
BASE = "localhost/dolphin-agent-base"
SUITE = "bookworm"
"""What the Dockerfile asks for."""


def version() -> str:
    """The version of the agent."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def archive(architecture: str) -> Path:
    """Where the image is."""
    return DIST / f"dolphin-agent-{version()}-{architecture}.oci.tar"


def build(architecture: str) -> Path:
    """Build the image; what did not change is taken from an earlier build. Raises HarnessError."""
    with tempfile.TemporaryDirectory() as work:
        if not tools.run(["buildah", "images", "--quiet", "--filter", f"reference={BASE}"]):
            _make_base(Path(work))
        _buildah(architecture, Path(work))
    target = archive(architecture)
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    name = f"{NAME}:{version()}"
    tools.run(["buildah", "push", "--quiet", _tag(architecture), f"oci-archive:{target}:{name}"])
    return target


def _tag(architecture: str) -> str:
    return f"{NAME}:{version()}-{architecture}"


def _make_base(work: Path) -> None:
    """Make what debian:bookworm-slim is to users."""
    debian = machine_archive()
    root = work / "base"
    keys = [f"--keyring={debian.keyring}", "--variant=minbase"]
    tools.run(["debootstrap", *keys, SUITE, str(root), debian.uri])
    uri = debian.uri.rstrip("/")
    sources = [(uri, SUITE), (uri, f"{SUITE}-updates"), (f"{uri}-security", f"{SUITE}-security")]
    lines = "".join(f"deb {where} {suite} main\n" for where, suite in sources)
    (root / "etc/apt/sources.list").write_text(lines)
    container = tools.run(["buildah", "from", "scratch"]).decode().strip()
    try:
        tools.run(["buildah", "add", "--quiet", container, str(root), "/"])
        tools.run(["buildah", "commit", "--quiet", container, BASE])
    finally:
        tools.run(["buildah", "rm", container])


def _buildah(architecture: str, work: Path) -> None:
    # How this machine reaches its archives is for the build alone: it is in no layer.
    settings = tools.run(["apt-config", "dump"]).decode().splitlines()
    (work / "apt.conf").write_text("\n".join(line for line in settings if line.startswith("Acquire::")))
    secrets = {"apt.conf": work / "apt.conf", "pip.conf": Path("/etc/pip.conf")}
    if certificates := ssl.get_default_verify_paths().cafile:
        secrets["certificates"] = Path(certificates)
    given = [f"--secret=id={name},src={path}" for name, path in secrets.items() if path.exists()]
    # Debian 12's buildah does not expand variables there.
    text = (ROOT / "Dockerfile").read_text().replace("--platform=$BUILDPLATFORM", f"--platform=linux/{HERE}")
    (work / "Dockerfile").write_text(text)
    # chroot is enough of a container for a build, and works inside of one.
    how = ["--isolation=chroot", "--layers", f"--platform=linux/{architecture}", f"--build-arg=BASE={BASE}"]
    what = [f"--file={work / 'Dockerfile'}", f"--tag={_tag(architecture)}", str(ROOT)]
    tools.run(["buildah", "build", *how, *given, *what])


def command(description: str | None, make: Callable[[str], str]) -> int:
    """Make something for each architecture that the command line names and print what `make` says of it.

    Returns an exit status.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help="amd64, arm64; both")
    try:
        for architecture in parser.parse_args().architectures or ARCHITECTURES:
            print(make(architecture))
    except HarnessError as fault:
        sys.stderr.write(f"image: {fault}\n")
        return 1
    return 0


def _built(architecture: str) -> str:
    began = time.monotonic()
    made = build(architecture)
    unpacked = tools.run(["buildah", "images", "--format={{.Size}}", _tag(architecture)]).decode().strip()
    took = f"{time.monotonic() - began:.0f} s"
    return f"{os.path.relpath(made)}: {made.stat().st_size / 1e6:.0f} MB, unpacked {unpacked}; {took}"


if __name__ == "__main__":
    sys.exit(command(__doc__, _built))
