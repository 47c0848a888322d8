"""The chart's alerts, as promtool judges them."""

from __future__ import annotations

from pathlib import Path

from integration.telemetry.prometheus import promtool_rules

ALERTS = Path(__file__).parents[2] / "helm/dolphin-agent/files/alerts.yaml"


def test_rules_are_understood() -> None:
    """Syntax, and templates."""
    promtool_rules("check", ALERTS)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    """The cases of alerts_test.yaml."""
    promtool_rules("test", Path(__file__).with_name("alerts_test.yaml"))
