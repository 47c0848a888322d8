"""Binaries built from Go modules, once, and kept outside the source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib import cache
from integration.vm import tools
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OLDEST = (1, 21)
"""The oldest Go that fetches the version which a module asks for by itself."""
TOOLCHAIN = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64"
"""The module that an older one fetches and is replaced by."""
_TAIL = 30
"""Lines of a failed build to show."""


class Go:
    """The Go command in the directory of a module, with a build cache of its own: only the binaries are kept."""

    def __init__(self, directory: Path, cache: Path) -> None:
        """Find a Go that is new enough, or fetch one; raises HarnessError."""
        self.directory = directory
        self._environment = os.environ | {
            "CGO_ENABLED": "0",
            "GOCACHE": str(cache),
            "GOFLAGS": "-mod=mod",
            "GOTOOLCHAIN": "auto",
        }
        self._program = shutil.which("go") or _install()
        found = re.search(r"go(\d+)\.(\d+)", self.run("version"))
        if not found or (int(found[1]), int(found[2])) < OLDEST:
            self._program = self._newer()

    def run(self, *arguments: str) -> str:
        """Run a subcommand and return what it prints; raises HarnessError with the end of its complaints."""
        done = subprocess.run(
            [self._program, *arguments],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            # With -json it complains there.
            tail = "\n".join((done.stderr or done.stdout).splitlines()[-_TAIL:])
            raise HarnessError(f"go {' '.join(arguments)} failed:\n{tail}")
        return done.stdout

    def _newer(self) -> str:
        """Fetch a Go that is new enough with one that is not, and return its path."""
        root = Path(json.loads(self.run("mod", "download", "-json", TOOLCHAIN))["Dir"])
        # Modules are unpacked without the right to execute, which a newer Go gives to its own by itself.
        programs = [*(root / "bin").iterdir(), *(path for path in (root / "pkg/tool").rglob("*") if path.is_file())]
        for path in programs:
            path.chmod(0o555)
        return str(root / "bin/go")


def once(kind: str, name: str, binaries: Sequence[str], build: Callable[[Go, Path], None]) -> Path:
    """Return the directory of `kind` in the cache that has the binaries, after building them where one is missing.

    `build` gets a Go in an empty directory and the directory to write the binaries to. Raises HarnessError.
    """

    def make(work: Path, made: Path) -> None:
        source = work / "source"
        source.mkdir()
        build(Go(source, work / "cache"), made)

    return cache.once(kind, name, binaries, make, f"building {name} ({' '.join(binaries)})")


def main(names: Sequence[str], find: Callable[[str], Path]) -> int:
    """Build what is missing, say where it is, and return an exit status."""
    try:
        for name in names:
            started = time.monotonic()
            path = find(name)
            print(f"{name}: {path}, {time.monotonic() - started:.1f} s")
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        return 1
    return 0


def _install() -> str:
    """Install Debian's Go and return its path."""
    if os.geteuid():
        raise HarnessError("go is missing: install Debian's package golang-go, or be root for that")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    tools.run(["apt-get", "-q", "-q", "update"])
    tools.run(["apt-get", "-q", "-q", "install", "--yes", "--no-install-recommends", "golang-go"], env=quiet)
    program = shutil.which("go")
    if not program:
        raise HarnessError("Debian's package golang-go is installed, but PATH has no go")
    return program
