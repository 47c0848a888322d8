"""Container images without a registry: an archive in Docker's format, which containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from integration.vm import tools

PAUSE = "docker.io/dolphin/pause:1"
"""What holds a pod's namespaces: busybox, waiting."""
_WAIT = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"


def write_pause(file: Path) -> None:
    """Write the image PAUSE."""
    busybox = Path(tools.find("busybox")).read_bytes()
    _write(file, PAUSE, {"bin/busybox": busybox}, ["/bin/busybox", "sh", "-c", _WAIT])


def _write(file: Path, reference: str, files: dict[str, bytes], entrypoint: list[str]) -> None:
    """Write an image of one layer."""
    layer = _tar(files, mode=0o755)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]).encode()
    file.write_bytes(_tar({f"{digest}.tar": layer, name: config, "manifest.json": manifest}))


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
