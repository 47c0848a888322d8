"""An image taken out of its archive, and containers of it."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from integration.lib.agent import Agent
from integration.vm import tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PORT = 10001
MASKED = {
    "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")],
    "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
}
"""What container runtimes do; the network is the machine's."""


@dataclass(frozen=True)
class Image:
    """One that was unpacked."""

    config: dict[str, Any]
    """As in the OCI image specification."""
    files: dict[str, tarfile.TarInfo]
    """By path, without the slash at its beginning."""
    root: Path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(info.size for info in self.files.values())


def unpack(archive: Path, root: Path) -> Image:
    """Unpack an OCI archive of one image into a directory."""
    with tarfile.open(archive) as tar:

        def blob(descriptor: dict[str, str]) -> bytes:
            file = tar.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")
            assert file
            return file.read()

        index = tar.extractfile("index.json")
        assert index
        (described,) = json.load(index)["manifests"]
        manifest = json.loads(blob(described))
        config = json.loads(blob(manifest["config"]))
        files: dict[str, tarfile.TarInfo] = {}
        for descriptor in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(descriptor)))) as layer:
                files |= {info.name.removeprefix("./").rstrip("/"): info for info in layer}
                layer.extractall(root, numeric_owner=True, filter="fully_trusted")  # noqa: S202 - as a runtime does
    return Image(config, files, root)


@dataclass(frozen=True)
class Container:
    """How a pod's container is run: `security` as in its securityContext."""

    image: Image
    security: dict[str, Any]
    work: Path
    mounts: tuple[tuple[Path, str], ...] = ()
    """Of the machine, read-only: where it is, and where the container has it."""
    environment: tuple[str, ...] = ()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._runc(command), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )

    @contextmanager
    def agent(self, *options: str) -> Iterator[Agent]:
        """Run the agent for the length of a block."""
        log = self.work / "log"
        command = self._runc(["run", f"--listen=127.0.0.1:{PORT}", *options])
        with (
            log.open("wb") as output,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                yield Agent(process, PORT, log)
            finally:
                if process.poll() is None:
                    tools.run(["runc", "delete", "--force", self.work.name])

    def _runc(self, command: Sequence[str]) -> list[str]:
        (self.work / "config.json").write_text(json.dumps(self._specification(command)))
        return [tools.find("runc"), "run", f"--bundle={self.work}", self.work.name]

    def _specification(self, command: Sequence[str]) -> dict[str, Any]:
        allowed = [f"CAP_{name}" for name in self.security["capabilities"]["add"]]
        assert self.security["capabilities"]["drop"] == ["ALL"]
        binds = [
            {"type": "bind", "source": str(source), "destination": target, "options": ["rbind", "ro"]}
            for source, target in self.mounts
        ]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.root), "readonly": self.security["readOnlyRootFilesystem"]},
            "process": {
                "args": [*self.image.config["config"]["Entrypoint"], *command],
                "cwd": self.image.config["config"].get("WorkingDir") or "/",
                "env": [*self.image.config["config"]["Env"], *self.environment],
                "user": {"uid": self.security["runAsUser"], "gid": self.security["runAsGroup"]},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), allowed),
                "noNewPrivileges": not self.security["allowPrivilegeEscalation"],
            },
            "mounts": [
                {"type": "proc", "source": "proc", "destination": "/proc"},
                {"type": "bind", "source": "/sys", "destination": "/sys", "options": ["rbind", "ro"]},
                {"type": "tmpfs", "source": "tmpfs", "destination": "/dev", "options": ["nosuid", "mode=755"]},
                *binds,
            ],
            "linux": MASKED,
        }
