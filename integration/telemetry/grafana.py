"""What Grafana sends to Prometheus for a dashboard: its variables' values and its panels' queries, filled in.

As its Prometheus data source does it, in packages/grafana-prometheus and pkg/promlib of grafana/grafana.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from integration.telemetry.prometheus import Prometheus

DIRECTORY = Path(__file__).parents[2] / "helm/dolphin-agent/files/dashboards"
ALL = "$__all"


@dataclass(frozen=True, slots=True)
class Target:
    """A query of a panel."""

    dashboard: str
    panel: str
    kind: str
    expr: str
    legend: str

    @property
    def legend_labels(self) -> set[str]:
        """The labels that each series is called by."""
        return set(re.findall(r"{{(\w+)}}", self.legend))


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard of the chart."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DIRECTORY.glob("*.json"))}


def targets() -> list[Target]:
    """Every query of every dashboard."""
    return [
        Target(name, panel["title"], panel["type"], target["expr"], target["legendFormat"])
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def target(dashboard: str, panel: str, number: int = 0) -> Target:
    """One query, by the start of its panel's title."""
    return [one for one in targets() if one.dashboard == dashboard and one.panel.startswith(panel)][number]


def options(server: Prometheus, dashboard: Mapping[str, Any], chosen: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The values that each variable offers."""
    found = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = interpolate(variable["query"]["query"], dashboard, chosen)
            made = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
            assert made, query
            values = server.label_values(made[1], made[2])
            if pattern := variable["regex"]:
                matches = [re.search(pattern[1:-1].replace(r"\/", "/"), value) for value in values]
                values = [match[1] for match in matches if match]
            found[variable["name"]] = sorted(set(values))
    return found


def interpolate(
    text: str, dashboard: Mapping[str, Any], chosen: Mapping[str, Sequence[str]], *, seconds: int = 60
) -> str:
    """Fill in variables (what is not chosen is at All), and `seconds` as the interval of rates and the time shown."""
    replaced = {
        "__rate_interval_ms": str(seconds * 1000),
        "__rate_interval": _duration(seconds),
        "__range": f"{seconds}s",
    }
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            values = chosen.get(variable["name"], [ALL])
            escaped = [_escape(value) for value in values]
            several = f"({'|'.join(escaped)})" if len(values) > 1 else escaped[0]
            replaced[variable["name"]] = variable["allValue"] if list(values) == [ALL] else several
    # The longest that fits is meant: `$__range_s` is not `$__range`.
    names = "|".join(sorted(replaced, key=len, reverse=True))
    return re.sub(rf"\$({names})\b", lambda match: replaced[match[1]], text)


def _duration(seconds: int) -> str:
    """As Go writes it."""
    return f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"


def _escape(value: str) -> str:
    """For a regular expression inside a PromQL string."""
    return re.sub(r"[\\^$*+?.()|\[\]{}]", r"\\\\\g<0>", value)
