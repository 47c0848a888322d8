"""The alerts: each can be acted on, about metrics that exist, and tried both ways."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helm.names import known

ROOT = Path(__file__).parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "helm/dolphin-agent/files/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
TRIALS = yaml.safe_load((ROOT / "integration/telemetry/alerts_test.yaml").read_text())["tests"]

each = pytest.mark.parametrize("alert", ALERTS, ids=lambda one: one["alert"])


@each
def test_is_complete(alert):
    """Severity, patience, words for people."""
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["for"]
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}


@each
def test_has_a_runbook(alert):
    """The address leads to a heading."""
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert alert["alert"] in headings
    assert anchor == alert["alert"].lower()


@each
def test_is_tried_both_ways(alert):
    """promtool sees it fire, and sees it silent."""
    mine = [one for trial in TRIALS for one in trial.get("alert_rule_test", ()) if one["alertname"] == alert["alert"]]
    assert {bool(one.get("exp_alerts")) for one in mine} == {True, False}


def test_every_paragraph_has_an_alert():
    """No runbook for what never fires."""
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS]


@pytest.mark.parametrize("rule", RULES, ids=lambda one: one.get("alert") or one["record"])
def test_is_about_metrics_that_exist(rule):
    """No name that neither the agent nor a rule gives."""
    patterns = re.findall(r'__name__=~"([^"]+)"', rule["expr"])
    names = set(re.findall(r"\bdolphin[_:][\w:]+", re.sub(r'"[^"]*"', "", rule["expr"])))
    assert patterns or names or "up" in rule["expr"]
    assert names <= {*known(), *(one["record"] for one in RULES if "record" in one)}
    assert all(any(re.fullmatch(pattern, name) for name in known()) for pattern in patterns)
