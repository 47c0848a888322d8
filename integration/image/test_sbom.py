"""The list of what is in the image is complete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from integration.image.build import ROOT
from integration.image.sbom import sbom

if TYPE_CHECKING:
    from integration.image.container import Image


def test_all_packages(image: Image) -> None:
    """Each of Debian's and each of Python's, with its version."""
    listed = json.loads(sbom(image.config["architecture"]).read_text())["components"]
    found = {one["name"].lower().replace("_", "-") for one in listed if one.get("version")}
    lines = (ROOT / "helm/image/packages").read_text().splitlines()
    debian = {line for line in lines if not line.startswith("#")}
    metadata = [path.name for path in (image.root / "usr/local").rglob("*.dist-info")]
    python = {name.partition("-")[0].lower().replace("_", "-") for name in metadata}
    assert len(python) > 20
    assert debian | python <= found
