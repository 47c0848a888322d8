"""The servers and tools of a Kubernetes cluster, built from Go modules once and kept outside the source tree.

`python -m integration.kube.binaries [NAME...]` builds what is missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vm import tools
from integration.vm.errors import HarnessError
from integration.vm.kernels import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES = "v1.36.3"
ETCD = "v3.6.8"
"""Debian's 3.4 breaks watches: it has no RequestWatchProgress."""
HELM = "v3.22.0"

GO = (1, 21)
"""The oldest Go that fetches the version which a module asks for by itself."""
TOOLCHAIN = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64"
"""The module that an older one fetches and is replaced by."""
_TAIL = 30
"""Lines of a failed build to show."""


@dataclass(frozen=True)
class Build:
    """What one module gives. Packages that are built together share their work."""

    name: str
    module: str
    version: str
    packages: tuple[str, ...]
    """Of commands; the last part of each is the name of its binary, except where `binary` says otherwise."""
    binary: str = ""

    @property
    def binaries(self) -> tuple[str, ...]:
        """Names in the cache."""
        return (self.binary,) if self.binary else tuple(package.rpartition("/")[2] for package in self.packages)


BUILDS = (
    Build(
        "kubernetes",
        "k8s.io/kubernetes",
        KUBERNETES,
        ("k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl"),
    ),
    Build("etcd", "go.etcd.io/etcd/server/v3", ETCD, ("go.etcd.io/etcd/server/v3",), "etcd"),
    Build("helm", "helm.sh/helm/v3", HELM, ("helm.sh/helm/v3/cmd/helm",)),
)


def find(binary: str) -> Path:
    """Return the path of a binary, building it if it is missing; raises HarnessError."""
    for build in BUILDS:
        if binary in build.binaries:
            return _prepare(build) / binary
    known = ", ".join(name for build in BUILDS for name in build.binaries)
    raise HarnessError(f"{binary!r} is not built here; there are {known}")


def _prepare(build: Build) -> Path:
    directory = cache_root().with_name("kube") / f"{build.name}-{build.version}"
    with _locked(directory):
        if not all((directory / name).exists() for name in build.binaries):
            shutil.rmtree(directory, ignore_errors=True)
            _build(build, directory)
    return directory


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(build: Build, target: Path) -> None:
    print(f"building {' '.join(build.binaries)} {build.version}, which takes minutes", file=sys.stderr, flush=True)
    prefix = f"build-{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)  # of a build that was killed: gigabytes
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as work:
        source, made = Path(work, "source"), Path(work, "made")
        source.mkdir()
        made.mkdir()
        go = _Go(source, Path(work, "cache"))
        _write_module(build, source, go)
        go.run("mod", "tidy")
        flags = ["-trimpath", "-ldflags", _linker_flags(build)]
        output = made / build.binary if build.binary else made
        go.run("build", *flags, "-o", str(output) + ("" if build.binary else "/"), *build.packages)
        made.rename(target)


def _write_module(build: Build, source: Path, go: _Go) -> None:
    """Make a module that needs nothing but the commands."""
    imports = "\n".join(f'\t_ "{package}"' for package in build.packages)
    (source / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{imports}\n)\n")
    text = f"module tools\n\ngo 1.26.0\n\nrequire {build.module} {build.version}\n"
    if build.name == "kubernetes":
        # Its own go.mod names the modules that are published apart as v0.0.0, and replaces them by directories.
        (source / "go.mod").write_text("module tools\n\ngo 1.26.0\n")
        found = json.loads(go.run("mod", "download", "-json", f"{build.module}@{build.version}"))
        apart = sorted(set(re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", Path(found["GoMod"]).read_text(), re.MULTILINE)))
        text += "".join(f"replace {name} => {name} v0{build.version.removeprefix('v1')}\n" for name in apart)
    (source / "go.mod").write_text(text)


def _linker_flags(build: Build) -> str:
    if build.name != "kubernetes":
        return "-s -w"
    major, minor, _ = build.version.removeprefix("v").split(".")
    variables = {"gitVersion": build.version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())


class _Go:
    """The Go command, with a build cache of its own: only the binaries are kept."""

    def __init__(self, directory: Path, cache: Path) -> None:
        self._directory = directory
        self._environment = os.environ | {
            "CGO_ENABLED": "0",
            "GOCACHE": str(cache),
            "GOFLAGS": "-mod=mod",
            "GOTOOLCHAIN": "auto",
        }
        self._program = shutil.which("go") or _install()
        found = re.search(r"go(\d+)\.(\d+)", self.run("version"))
        if not found or (int(found[1]), int(found[2])) < GO:
            self._program = self._newer()

    def run(self, *arguments: str) -> str:
        """Run a subcommand and return what it prints; raises HarnessError with the end of its complaints."""
        done = subprocess.run(
            [self._program, *arguments],
            cwd=self._directory,
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


def main() -> int:
    """Build what is missing and say where it is."""
    names = sys.argv[1:] or [name for build in BUILDS for name in build.binaries]
    try:
        for name in names:
            started = time.monotonic()
            path = find(name)
            print(f"{name}: {path}, {time.monotonic() - started:.1f} s")
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
