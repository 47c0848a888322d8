"""The chart says again what the agent and its own values.yaml say: the same."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from dolphin_agent import config, log
from integration.kube import chart

ROOT = Path(__file__).parents[1]
TEXT = (chart.CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())
AGENT = SCHEMA["properties"]["agent"]["properties"]
NOT_THERE = {"standalone", "policies", "pods", "kubeconfig", "node_name", "proc_root"}
"""Settings that no pod of a DaemonSet has, or that the template gives."""


def flag(key):
    """`maxFlows` as the agent calls it."""
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", key)


def leaves(tree, path=""):
    """Every value that is no mapping with keys, with its path."""
    if isinstance(tree, dict) and tree:
        for key, below in tree.items():
            yield from leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path


def test_versions_are_in_step():
    """An image, a chart and a package of one version belong together."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    (label,) = re.findall(r'image\.version="(.*)"', (ROOT / "Dockerfile").read_text())
    assert (found["version"], found["appVersion"], label) == (version, version, version)
    assert set(re.findall(r"dolphin-agent:(\d[\d.]*)", (ROOT / "docs/install.md").read_text())) == {version}


def test_readme_is_up_to_date():
    """`make chart-readme` writes it."""
    present = chart.README.read_text()
    assert present == chart.readme(present, TEXT)


def test_every_value_is_documented():
    """By the comment above it, or above what it is a part of."""
    documented = [one.key for one in chart.values(TEXT)]
    bare = [leaf for leaf in leaves(VALUES) if not any(f"{leaf}.".startswith(f"{key}.") for key in documented)]
    assert not bare
    assert len(documented) == len(set(documented))


def test_schema_has_the_values_and_no_others():
    """And every section refuses keys it does not know."""

    def compare(schema, values, path):
        assert schema["additionalProperties"] is False, path
        known = schema["properties"].keys()
        if values:
            assert known == values.keys(), path
        for key in known & values.keys():
            if "properties" in schema["properties"][key]:
                compare(schema["properties"][key], values[key], f"{path}.{key}")

    own = {key: below for key, below in SCHEMA["properties"].items() if key != "global"}  # Helm's, for subcharts
    compare({**SCHEMA, "properties": own}, VALUES, "")


def test_agent_has_every_setting_with_its_default():
    """A new setting of the agent is one of the chart."""
    given = {flag(key): str(value) for key, value in VALUES["agent"].items() if value != ""}
    assert {flag(key) for key in VALUES["agent"]} == config.FIELDS.keys() - NOT_THERE
    assert config.load({**given, "node_name": "n"}, {}) == config.load({"node_name": "n"}, {})


def test_schema_allows_what_the_agent_does():
    """Whatever passes the schema starts an agent."""
    assert AGENT["maxFlows"] == {"type": "integer", "minimum": 1, "maximum": config.MAX_FLOWS}
    assert AGENT["logLevel"]["enum"] == list(log.LEVELS)
    assert AGENT["logFormat"]["enum"] == list(log.FORMATS)


@pytest.mark.parametrize("text", ["10", "10 s", "-1s", "1d", "", "500ms", "0.5h", "10s"])
def test_schema_judges_times_like_the_agent(text):
    """Zero is the one that only the agent refuses."""
    try:
        config.duration(text)
    except ValueError:
        right = False
    else:
        right = True
    assert bool(re.search(SCHEMA["definitions"]["time"]["pattern"], text)) is right
