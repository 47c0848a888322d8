"""The images that `make image` has built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.image.build import ARCHITECTURES, archive
from integration.image.container import Image, unpack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Architecture -> its image."""
    return {name: unpack(archive(name), _directory(tmp_path_factory, name)) for name in ARCHITECTURES}


def _directory(factory: pytest.TempPathFactory, name: str) -> Path:
    return factory.mktemp(f"image-{name}") / "root"


@pytest.fixture(params=ARCHITECTURES)
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    """Each of them."""
    return images[request.param]
