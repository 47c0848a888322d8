"""The CustomResourceDefinitions say again what vocabulary.py and schema.py say: the same."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dolphin_agent.manifests.names import LABEL_KEY_RULE, LABEL_VALUE_RULE
from dolphin_agent.policy import vocabulary as words
from dolphin_agent.policy.model import HealthCheck
from dolphin_agent.policy.schema import SCHEMA
from dolphin_agent.status import fold, node_monitor

CRDS = Path(__file__).parents[2] / "helm" / "dolphin-agent" / "crds"


def definition(name):
    return yaml.safe_load((CRDS / f"{name}.yaml").read_text())["spec"]


def root(name):
    (version,) = definition(name)["versions"]
    return version["schema"]["openAPIV3Schema"]


SPEC = root("monitorpolicies")["properties"]["spec"]
CHECK = SPEC["properties"]["healthCheck"]["properties"]
POD_LABEL = SPEC["properties"]["podLabel"]
EXPRESSION = SPEC["properties"]["selector"]["properties"]["matchExpressions"]["items"]
MONITOR = SPEC["properties"]["monitor"]["properties"]


def walk(node, path=""):
    """Every schema below one, with its path."""
    yield path, node
    for name, below in node.get("properties", {}).items():
        yield from walk(below, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], f"{path}{{}}")


def fields(node):
    """The tree of fields, as schema.py has it: a list stands for its entries."""
    below = node.get("items", node).get("properties", {})
    return {name: fields(part) for name, part in below.items()}


def messages(*nodes):
    return "\n".join(rule["message"] for node in nodes for rule in node["x-kubernetes-validations"])


def test_names():
    """What clients and users call them."""
    policy, node = definition("monitorpolicies"), definition("nodemonitors")

    assert f"{policy['group']}/{policy['versions'][0]['name']}" == words.API_VERSION == node_monitor.API_VERSION
    assert (policy["names"]["kind"], node["names"]["kind"]) == (words.KIND, node_monitor.KIND)
    assert (policy["scope"], node["scope"]) == ("Namespaced", "Cluster")
    assert (policy["names"]["shortNames"], node["names"]["shortNames"]) == (["mp"], ["nm"])


def test_fields():
    """A field that one side does not have would be dropped or refused."""
    assert fields(SPEC) == SCHEMA["spec"]


def test_items():
    """Each in its group, with its granularities; the first is the default."""
    found = {
        name: (group, item["properties"]["aggregateType"])
        for group, part in MONITOR.items()
        for name, item in part["properties"].items()
    }

    assert found.keys() == words.ITEMS.keys()
    for name, offer in words.ITEMS.items():
        group, granularity = found[name]
        assert group == offer.group
        assert granularity["enum"] == ["", *offer.granularities]
        assert granularity["default"] == offer.granularities[0]


def test_every_item_is_a_wish():
    """The rule that refuses a policy without any knows them all."""
    (rule,) = SPEC["x-kubernetes-validations"]

    asked = re.findall(r"has\(self\.monitor\.(\w+)\.(\w+)\)", rule["rule"])
    assert sorted(asked) == sorted((offer.group, name) for name, offer in words.ITEMS.items())


def test_enumerations():
    assert CHECK["command"]["enum"] == ["", *words.Command]
    assert CHECK["ipFamilies"]["items"]["enum"] == ["", *words.IPFamily]
    assert EXPRESSION["properties"]["operator"]["enum"] == list(words.Operator)


def test_limits():
    bounds = {name: (CHECK[name]["minimum"], CHECK[name]["maximum"]) for name in CHECK if "minimum" in CHECK[name]}

    assert bounds == {
        "failureThreshold": (1, words.MAX_FAILURE_THRESHOLD),
        "periodSeconds": (1, words.MAX_PERIOD_SECONDS),
        "port": (1, words.MAX_PORT),
    }
    assert CHECK["path"]["maxLength"] == words.MAX_PATH
    assert CHECK["ipFamilies"]["maxItems"] == len(words.IPFamily)
    assert POD_LABEL["maxItems"] == words.MAX_POD_LABELS
    assert POD_LABEL["items"]["maxLength"] == words.MAX_LABEL_NAME


def test_defaults():
    """What is left out is stored as what the agent would take it for."""
    written = {name: part["default"] for name, part in CHECK.items() if "default" in part}
    check = HealthCheck()

    assert written == {
        "failureThreshold": check.failure_threshold,
        "periodSeconds": check.period_seconds,
        "command": check.command,
        "ipFamilies": list(check.ip_families),
    }


def test_taken_labels():
    rules = POD_LABEL["items"]["x-kubernetes-validations"]

    assert tuple(re.findall(r"'(\w+)'", rules[0]["rule"])) == words.SYSTEM_LABELS
    assert ", ".join(words.SYSTEM_LABELS) in rules[0]["message"]
    assert rules[1]["rule"] == f"self != '{words.HISTOGRAM_LABEL}'"


def test_words():
    """Where a rule can be told in the validator's words, it is."""
    labels = SPEC["properties"]["selector"]["properties"]["matchLabels"]

    assert LABEL_KEY_RULE in messages(labels)
    assert LABEL_KEY_RULE in messages(EXPRESSION["properties"]["key"])
    assert LABEL_KEY_RULE in messages(POD_LABEL["items"])
    assert LABEL_VALUE_RULE in messages(labels["additionalProperties"])
    assert LABEL_VALUE_RULE in messages(EXPRESSION["properties"]["values"]["items"])
    assert f"from 1 to {words.MAX_PORT}" in messages(SPEC["properties"]["healthCheck"])
    assert f"at most {words.MAX_PATH} " in messages(CHECK["path"])


@pytest.mark.parametrize("name", ["monitorpolicies", "nodemonitors"])
def test_everything_is_bounded(name):
    """Else rules cost too much, and one object could fill etcd."""
    for path, node in walk(root(name)):
        kind = node["type"]
        free = kind == "string" and not node.keys() & {"maxLength", "enum", "format"}
        assert not free, path
        assert kind != "array" or "maxItems" in node, path
        assert "additionalProperties" not in node or "maxProperties" in node, path


@pytest.mark.parametrize("name", ["monitorpolicies", "nodemonitors"])
def test_rules_have_plain_messages(name):
    """A messageExpression costs more than the API server grants (`estimated messageExpression cost exceeds budget`)."""
    assert "messageExpression" not in json.dumps(definition(name))
    for path, node in walk(root(name)):
        assert all(rule.get("message") for rule in node.get("x-kubernetes-validations", [])), path


def test_what_agents_report_fits():
    """An object that breaks a bound is refused as a whole, and the node would seem silent."""
    policy = root("monitorpolicies")["properties"]["status"]["properties"]
    node = root("nodemonitors")["properties"]["status"]["properties"]

    assert policy["problems"]["maxItems"] == fold.MAX_PROBLEMS
    assert node["problems"]["maxItems"] == node_monitor.MAX_PROBLEMS
    assert node["policies"]["items"]["properties"]["problems"]["maxItems"] == node_monitor.MAX_PROBLEMS
    assert node["unmonitored"]["maxItems"] == node_monitor.MAX_UNMONITORED
    texts = (
        policy["summary"],
        policy["problems"]["items"]["properties"]["message"],
        policy["conditions"]["items"]["properties"]["message"],
        node["problems"]["items"],
        node["conditions"]["items"]["properties"]["message"],
        node["policies"]["items"]["properties"]["problems"]["items"],
        node["unmonitored"]["items"]["properties"]["reason"],
    )
    assert {text["maxLength"] for text in texts} == {node_monitor.MAX_TEXT}
    assert policy["items"]["maxItems"] >= 2 * len(words.ITEMS)
