"""Every query that docs/policies.md gives: a real Prometheus, which scrapes a real agent, answers it with numbers.

Those of docs/slow.md ask for what goes wrong, some of which this machine's kernel may not show: it understands them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.probes.items import ITEMS
from integration.telemetry.scene import Scene, played

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"


def queries(page: str) -> list[str]:
    """Those of a page."""
    return re.findall(r"```promql\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all queries."""
    with played(tmp_path_factory.mktemp) as made:
        yield made


@pytest.mark.parametrize("query", queries("policies.md"))
def test_recipe_answers(query: str, scene: Scene) -> None:
    """Under the scene's own policies: there it is two that count per pod and per flow what one does in the recipes."""
    assert scene.classic.query(query.replace('task="kube-system/web"', 'task=~"kube-system/(pod|flow)"'), scene.at)


@pytest.mark.parametrize("query", queries("slow.md"))
def test_question_is_understood(query: str, scene: Scene) -> None:
    """It parses, and each metric in it is one that the agent exports."""
    scene.classic.query(query, scene.at)
    declared = {metric.name for item in ITEMS for metrics in item.metrics.values() for metric in metrics}
    asked = {name.removesuffix("_sum").removesuffix("_count") for name in re.findall(r"dolphin_\w+", query)}
    assert asked
    assert asked <= declared
