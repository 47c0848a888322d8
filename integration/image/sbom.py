"""What is in an image, by Syft: Debian's packages and Python's, as CycloneDX.

`python -m integration.image.sbom [ARCHITECTURE...]` writes `dist/dolphin-agent-<version>-<architecture>.cdx.json` from
the archive beside it. Syft is built from Go modules the first time.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from integration.image.build import archive, command
from integration.kube.binaries import Build, compile_module
from integration.lib import gobuild
from integration.vm import tools

if TYPE_CHECKING:
    from pathlib import Path

SYFT = Build("syft", "github.com/anchore/syft", "v1.57.0", ("github.com/anchore/syft/cmd/syft",))


def sbom(architecture: str) -> Path:
    """Where the list is."""
    return archive(architecture).with_name(archive(architecture).name.replace(".oci.tar", ".cdx.json"))


def write(architecture: str) -> Path:
    """Write the list of an image; raises HarnessError."""
    directory = gobuild.once("image", f"{SYFT.name}-{SYFT.version}", SYFT.binaries, partial(compile_module, SYFT))
    target = sbom(architecture)
    offline = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
    source = f"oci-archive:{archive(architecture)}"
    tools.run([str(directory / "syft"), "scan", source, "--quiet", f"--output=cyclonedx-json={target}"], env=offline)
    return target


if __name__ == "__main__":
    sys.exit(command(__doc__, lambda architecture: os.path.relpath(write(architecture))))
