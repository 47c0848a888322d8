"""What a dashboard is made of, and its JSON: Grafana 10's own panels only, so that no plugin is needed."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

_SCHEMA = 38
"""Grafana 10.0's; newer ones migrate it when they load it."""
_COLUMNS = 24
_HEIGHT = 8
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_TAG = "dolphin-agent"


class Kind(enum.Enum):
    """How a panel draws; the values are Grafana's names."""

    TIME = "timeseries"
    HEATMAP = "heatmap"
    TABLE = "table"
    STAT = "stat"
    STATES = "state-timeline"


@dataclass(frozen=True)
class Query:
    """One expression and what each of its series is called."""

    expr: str
    legend: str = ""
    """With labels as `{{pod}}`."""
    downwards: bool = False
    """Drawn below zero, as the counterpart of another."""


@dataclass(frozen=True)
class Panel:
    """One question, answered."""

    title: str
    description: str
    """What the number is exactly, and what it cannot see."""
    unit: str
    """Grafana's name of it."""
    queries: tuple[Query, ...]
    kind: Kind = Kind.TIME
    width: int = 12
    """Of 24 columns."""
    states: tuple[tuple[str, str, str], ...] = ()
    """(value, what to show for it, colour), where numbers stand for states."""
    good_below: float | None = None
    """From here on a stat is red."""


@dataclass(frozen=True)
class Variable:
    """A choice of one, several or all label values."""

    name: str
    label: str
    query: str
    """A `label_values()`."""
    regex: str = ""
    """What of a value to take, as a JavaScript expression with one group; empty: all of it."""


@dataclass(frozen=True)
class Dashboard:
    """A page of panels, laid out in rows from left to right."""

    name: str
    """Of its file, and the end of its address."""
    title: str
    description: str
    variables: tuple[Variable, ...]
    panels: tuple[Panel, ...]
    refresh: str = field(default="30s", kw_only=True)


def render(dashboard: Dashboard) -> str:
    """Return the JSON that Grafana imports."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        panels.append(_panel(panel, number, {"h": _HEIGHT, "w": panel.width, "x": x, "y": y}))
        x += panel.width
    made = {
        "uid": f"dolphin-agent-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": [_TAG],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": dashboard.refresh,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": _TAG,
                "tags": [_TAG],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            },
        ],
        "templating": {"list": [_datasource(), *(_variable(one) for one in dashboard.variables)]},
        "panels": panels,
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.states:
        options = {value: {"text": text, "color": colour} for value, text, colour in panel.states}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.good_below is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.good_below}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": position,
        "targets": [_target(*named, panel.kind) for named in zip(ascii_uppercase, panel.queries, strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
    }
    if panel.kind is Kind.TABLE:
        hidden = {"Time": True}
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return made


def _target(ref: str, query: Query, kind: Kind) -> dict[str, Any]:
    instant = kind in (Kind.TABLE, Kind.STAT)
    formats = {Kind.TABLE: "table", Kind.HEATMAP: "heatmap"}
    return {
        "refId": ref,
        "datasource": _DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": formats.get(kind, "time_series"),
        "instant": instant,
        "range": not instant,
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byFrameRefID", "options": ref},
            "properties": [{"id": "custom.transform", "value": "negative-Y"}],
        }
        for ref, query in zip(ascii_uppercase, panel.queries, strict=False)
        if query.downwards
    ]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind is Kind.TIME:
        return {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind is Kind.HEATMAP:
        colours = {"mode": "scheme", "scheme": "Oranges", "steps": 64}
        return {"calculate": False, "color": colours, "yAxis": {"unit": panel.unit}, "tooltip": {"show": True}}
    if panel.kind is Kind.TABLE:
        return {"showHeader": True, "sortBy": [{"displayName": "Value", "desc": True}]}
    if panel.kind is Kind.STAT:
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
    return {"mergeValues": True, "showValue": "never", "rowHeight": 0.9, "legend": {"showLegend": True}}


def _datasource() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "current": {}}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": _DATASOURCE,
        "definition": variable.query,
        "query": {"query": variable.query, "refId": "StandardVariableQuery"},
        "regex": variable.regex,
        "multi": True,
        "includeAll": True,
        # Else "All" would be every value, one after the other, in each query.
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }
