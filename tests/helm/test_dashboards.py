"""The dashboards: as declared, for Grafana as it is installed, about metrics that exist."""

import json
import re

import pytest

from helm.dashboards.__main__ import DASHBOARDS, DIRECTORY
from helm.dashboards.grafana import Kind, render
from tests.helm.names import known

CORE_PANELS = {"timeseries", "heatmap", "table", "stat", "state-timeline"}
"""Those that come with Grafana."""


each = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.name)


@each
def test_file_is_what_is_declared(dashboard):
    """`make dashboards` was run after the last change."""
    assert (DIRECTORY / f"{dashboard.name}.json").read_text() == render(dashboard)


def test_nothing_else_is_shipped():
    """A dashboard that is no longer declared is deleted."""
    assert {file.stem for file in DIRECTORY.iterdir()} == {one.name for one in DASHBOARDS}


@each
def test_needs_no_plugin_and_no_particular_data_source(dashboard):
    """Grafana's own panels, and the data source that the user picks."""
    made = json.loads(render(dashboard))
    assert {panel["type"] for panel in made["panels"]} <= CORE_PANELS
    sources = [panel["datasource"] for panel in made["panels"]]
    sources += [target["datasource"] for panel in made["panels"] for target in panel["targets"]]
    sources += [one["datasource"] for one in made["templating"]["list"] if one["type"] == "query"]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    assert len(made["panels"]) <= 8


@each
def test_each_panel_asks_and_explains(dashboard):
    """A question, a unit, and what the number is."""
    for panel in dashboard.panels:
        assert panel.title.endswith("?"), panel.title
        assert panel.unit
        assert panel.description.endswith("."), panel.title
        assert panel.kind is not Kind.TIME or all(query.legend for query in panel.queries), panel.title


@each
def test_panels_do_not_overlap(dashboard):
    """Each cell of the page is one panel's."""
    places = [panel["gridPos"] for panel in json.loads(render(dashboard))["panels"]]
    cells = [(x, p["y"]) for p in places for x in range(p["x"], p["x"] + p["w"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@each
def test_queries_are_about_metrics_that_exist(dashboard):
    """No name that the agent does not export."""
    for panel in dashboard.panels:
        for query in panel.queries:
            names = set(re.findall(r"\bdolphin_\w+", query.expr))
            assert names, panel.title
            assert names <= known(), panel.title


@each
def test_variables_that_queries_use_are_declared(dashboard):
    """Grafana leaves an unknown variable as it stands, and the query finds nothing."""
    declared = {one.name for one in dashboard.variables}
    for panel in dashboard.panels:
        for query in panel.queries:
            used = {name for name in re.findall(r"\$(\w+)", query.expr) if not name.startswith("__")}
            assert used <= declared, panel.title
