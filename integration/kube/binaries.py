"""The servers and tools of a Kubernetes cluster, built from Go modules once and kept outside the source tree.

`python -m integration.kube.binaries [NAME...]` builds what is missing.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from integration.lib import gobuild
from integration.vm.errors import HarnessError

KUBERNETES_MODULE = "k8s.io/kubernetes"
KUBERNETES = "v1.36.3"
ETCD = "v3.6.8"
"""Debian's 3.4 breaks watches: it has no RequestWatchProgress."""
HELM = "v3.22.0"


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
        KUBERNETES_MODULE,
        KUBERNETES,
        ("k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl"),
    ),
    Build(
        "kubernetes-node",
        KUBERNETES_MODULE,
        KUBERNETES,
        tuple(f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-controller-manager", "kube-scheduler", "kubelet")),
    ),
    Build("etcd", "go.etcd.io/etcd/server/v3", ETCD, ("go.etcd.io/etcd/server/v3",), "etcd"),
    Build("helm", "helm.sh/helm/v3", HELM, ("helm.sh/helm/v3/cmd/helm",)),
)


def find(binary: str) -> Path:
    """Return the path of a binary, building it if it is missing; raises HarnessError."""
    for build in BUILDS:
        if binary in build.binaries:
            name = f"{build.name}-{build.version}"
            return gobuild.once("kube", name, build.binaries, partial(compile_module, build)) / binary
    known = ", ".join(name for build in BUILDS for name in build.binaries)
    raise HarnessError(f"{binary!r} is not built here; there are {known}")


def compile_module(build: Build, go: gobuild.Go, made: Path) -> None:
    """Build into the directory `made`, for gobuild.once."""
    _write_module(build, go)
    go.run("mod", "tidy")
    flags = ["-trimpath", "-ldflags", _linker_flags(build)]
    output = made / build.binary if build.binary else made
    go.run("build", *flags, "-o", str(output) + ("" if build.binary else "/"), *build.packages)


def _write_module(build: Build, go: gobuild.Go) -> None:
    """Make a module that needs nothing but the commands."""
    imports = "\n".join(f'\t_ "{package}"' for package in build.packages)
    (go.directory / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{imports}\n)\n")
    text = f"module tools\n\ngo 1.26.0\n\nrequire {build.module} {build.version}\n"
    if build.module == KUBERNETES_MODULE:
        # Its own go.mod names the modules that are published apart as v0.0.0, and replaces them by directories.
        (go.directory / "go.mod").write_text("module tools\n\ngo 1.26.0\n")
        found = json.loads(go.run("mod", "download", "-json", f"{build.module}@{build.version}"))
        apart = sorted(set(re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", Path(found["GoMod"]).read_text(), re.MULTILINE)))
        text += "".join(f"replace {name} => {name} v0{build.version.removeprefix('v1')}\n" for name in apart)
    (go.directory / "go.mod").write_text(text)


def _linker_flags(build: Build) -> str:
    if build.module != KUBERNETES_MODULE:
        return "-s -w"
    major, minor, _ = build.version.removeprefix("v").split(".")
    variables = {"gitVersion": build.version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())


if __name__ == "__main__":
    sys.exit(gobuild.main(sys.argv[1:] or [name for build in BUILDS for name in build.binaries], find))
