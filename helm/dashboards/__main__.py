"""Writes every dashboard as JSON, where the chart takes it from."""

from __future__ import annotations

from pathlib import Path

from helm.dashboards import agent, connections, drops, errors, flows, health, pods
from helm.dashboards.grafana import render

DIRECTORY = Path(__file__).parents[1] / "dolphin-agent/files/dashboards"
DASHBOARDS = (
    pods.DASHBOARD,
    flows.DASHBOARD,
    connections.DASHBOARD,
    drops.DASHBOARD,
    errors.DASHBOARD,
    health.DASHBOARD,
    agent.DASHBOARD,
)


def main() -> None:
    """Write them."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (DIRECTORY / f"{dashboard.name}.json").write_text(render(dashboard))


if __name__ == "__main__":
    main()
