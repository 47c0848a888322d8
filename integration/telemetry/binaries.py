"""The OpenTelemetry Collector, built from Go modules once and kept outside the source tree.

`python -m integration.telemetry.binaries` builds it where it is missing.
"""

from __future__ import annotations

import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib import gobuild
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from integration.lib.gobuild import Go

COLLECTOR = "otelcol"
_SOURCE = Path(__file__).with_name("otelcol")
_FILES = tuple(_SOURCE / name for name in ("main.go", "go.mod", "go.sum"))


def version() -> str:
    """The Collector's version, which go.mod pins."""
    found = re.search(r"go\.opentelemetry\.io/collector/otelcol (v\S+)", (_SOURCE / "go.mod").read_text())
    assert found
    return found[1]


def find(binary: str = COLLECTOR) -> Path:
    """Return the path of the Collector, building it if there is none of this source; raises HarnessError."""
    if binary != COLLECTOR:
        raise HarnessError(f"{binary!r} is not built here; there is {COLLECTOR}")
    digest = sha256(b"".join(file.read_bytes() for file in _FILES)).hexdigest()
    return gobuild.once("telemetry", f"{COLLECTOR}-{version()}-{digest[:8]}", [COLLECTOR], _build) / binary


def _build(go: Go, made: Path) -> None:
    for file in _FILES:
        shutil.copy(file, go.directory)
    flags = ["-mod=readonly", "-trimpath", "-ldflags", f"-s -w -X main.version={version()}"]
    go.run("build", *flags, "-o", str(made / COLLECTOR), ".")


if __name__ == "__main__":
    sys.exit(gobuild.main(sys.argv[1:] or [COLLECTOR], find))
