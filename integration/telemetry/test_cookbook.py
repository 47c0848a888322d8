"""Every query that docs/policies.md gives: a real Prometheus, which scrapes a real agent, answers it with numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from integration.telemetry.scene import Scene, played

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/policies.md"
QUERIES = re.findall(r"```promql\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all queries."""
    with played(tmp_path_factory.mktemp) as made:
        yield made


@pytest.mark.parametrize("query", QUERIES)
def test_recipe_answers(query: str, scene: Scene) -> None:
    """Under the scene's own policies: there it is two that count per pod and per flow what one does in the recipes."""
    assert scene.classic.query(query.replace('task="kube-system/web"', 'task=~"kube-system/(pod|flow)"'), scene.at)
