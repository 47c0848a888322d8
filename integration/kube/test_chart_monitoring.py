"""What the chart makes for Grafana's sidecar and for the Prometheus operator, as helm renders it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import yaml

from integration.kube import binaries
from integration.kube.chart import CHART

FILES = CHART / "files"


def rendered(*options: str) -> list[dict[str, Any]]:
    """Every object of the chart."""
    command = [str(binaries.find("helm")), "template", "dolphin-agent", str(CHART), "-n", "monitoring"]
    version = ["--kube-version", binaries.KUBERNETES]
    done = subprocess.run([*command, *version, *options], capture_output=True, text=True, check=True, timeout=60)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def of_kind(kind: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of them."""
    return [item for item in objects if item["kind"] == kind]


def test_nothing_unless_asked_for() -> None:
    """A cluster without Grafana or the operator's CRDs takes the chart."""
    objects = rendered()
    assert not of_kind("PrometheusRule", objects)
    assert not [item for item in of_kind("ConfigMap", objects) if "dashboard" in item["metadata"]["name"]]


def test_dashboards_are_where_the_sidecar_looks() -> None:
    """A ConfigMap for each file, unchanged, with the sidecar's label and those asked for."""
    options = ["--set", "dashboards.enabled=true", "--set-string", "dashboards.labels.team=net"]
    maps = [item for item in of_kind("ConfigMap", rendered(*options)) if "dashboard" in item["metadata"]["name"]]
    found = {name: json.loads(text) for item in maps for name, text in item["data"].items()}
    assert found == {file.name: json.loads(file.read_text()) for file in (FILES / "dashboards").iterdir()}
    for item in maps:
        assert item["metadata"]["namespace"] == "monitoring"
        assert item["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "team": "net"}.items()
        assert item["metadata"]["labels"]["app.kubernetes.io/name"] == "dolphin-agent"


def test_rules_are_those_of_the_file() -> None:
    """Helm leaves Prometheus's own templates alone."""
    options = ["--set", "prometheusRule.enabled=true", "--set-string", "prometheusRule.labels.release=stack"]
    (rule,) = of_kind("PrometheusRule", rendered(*options))
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == yaml.safe_load((FILES / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "stack"


def test_runbooks_are_where_the_value_says() -> None:
    """Each alert's paragraph, at the address that people can open."""
    address = "https://git.example/dolphin/alerts.md"
    options = ["--set", "prometheusRule.enabled=true", "--set", f"prometheusRule.runbookUrl={address}"]
    (rule,) = of_kind("PrometheusRule", rendered(*options))
    alerts = [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]
    assert alerts
    for one in alerts:
        assert one["annotations"]["runbook_url"] == f"{address}#{one['alert'].lower()}"
