"""YAML text and API objects -> policies and faults."""

import json
from pathlib import Path

import pytest
import yaml

from dolphin_agent.errors import PolicyError
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.policy.model import HealthCheck, LabelSelector, MonitorPolicy, PodLabel, Requirement
from dolphin_agent.policy.parse import parse_policies, policy_from_object
from dolphin_agent.policy.vocabulary import Command, Granularity, IPFamily, Operator
from tests.policy.table import BAD, BAD_YAML, GOOD, monitor, spec

EXAMPLES = Path(__file__).parent / "examples"
FLOW, POD = Granularity.FLOW, Granularity.POD
PUBLISHED = ("ipReceive", "ipSend", "tcpReceive", "tcpSend", "tcpRetrans", "tcpRtt", "tcpNewConnection")
"""Items that there were when the example was published."""


def lines(text):
    """The faults of a manifest, as printed."""
    return [str(fault) for fault in parse_policies(text, "p.yaml").faults]


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_good(case):
    """A right policy has no fault and is read."""
    parsed = parse_policies(case.yaml, "p.yaml")

    assert parsed.faults == ()
    assert len(parsed.policies) == 1


@pytest.mark.parametrize("case", [*BAD, *BAD_YAML], ids=str)
def test_bad(case):
    """A wrong policy is not read, and each of its faults names field, value and what is allowed, in one line."""
    parsed = parse_policies(case.yaml, "p.yaml")

    assert parsed.policies == ()
    assert [fault.field for fault in parsed.faults] == [field for field, _ in case.faults]
    for fault, (_, part) in zip(parsed.faults, case.faults, strict=True):
        assert part in str(fault)
        assert str(fault).startswith(f"p.yaml:{fault.line}: ")
        assert str(fault).isprintable()


def as_object(text):
    """The manifest as an API server's client decodes it; of a list, the first item."""
    loaded = json.loads(json.dumps(yaml.safe_load(text), default=str))
    return loaded["items"][0] if loaded.get("kind") == "List" else loaded


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_good_object(case):
    """An object from the API server gives the same policy as the file."""
    assert policy_from_object(as_object(case.yaml)) == parse_policies(case.yaml, "p.yaml").policies[0]


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_object(case):
    """An object from the API server has the same faults as the file, but no lines."""
    with pytest.raises(PolicyError) as refused:
        policy_from_object(as_object(case.yaml))

    assert sorted(fault.field for fault in refused.value.faults) == sorted(field for field, _ in case.faults)
    assert {fault.line for fault in refused.value.faults} == {0}


def test_published_example():
    """The field reference's own example is accepted word for word; empty strings are the defaults."""
    text = (EXAMPLES / "policy-published.yaml").read_text()
    app_is_nginx = Requirement("app", Operator.IN, frozenset(["nginx"]))

    assert parse_policies(text, "p.yaml").policies == (
        MonitorPolicy(
            namespace="kube-system",
            name="example-task",
            selector=LabelSelector((app_is_nginx, app_is_nginx)),
            pod_labels=(PodLabel("app"),),
            health_check=HealthCheck(
                failure_threshold=3, period_seconds=5, command=Command.PING, ip_families=(IPFamily.IPV4,), port=80
            ),
            monitor=FrozenMap({name: POD if name == "tcpNewConnection" else FLOW for name in PUBLISHED}),
        ),
    )


def test_misindented_example():
    """A monitor that slipped under selector is one fault, which names the field that was meant."""
    text = (EXAMPLES / "policy-misindented.yaml").read_text()

    (line,) = lines(text)

    assert line == (
        "p.yaml:11: spec.selector.monitor: unknown field; allowed here: matchLabels, matchExpressions; "
        "did you mean spec.monitor (it is indented too far)?"
    )


def test_default_granularities():
    """An item that does not say is counted per pod where it can be, else per flow."""
    text = monitor("{ip: {ipSend: {}}, tcp: {tcpRtt: {}, tcpNewConnection: {}}}")

    assert parse_policies(text, "p.yaml").policies[0].monitor == {
        "ipSend": POD,
        "tcpRtt": FLOW,
        "tcpNewConnection": POD,
    }


def test_generation_and_disabled_check():
    """The API server's generation is kept; a disabled check is none."""
    policy = policy_from_object(
        {
            "apiVersion": "crd.dolphin.io/v1",
            "kind": "MonitorPolicy",
            "metadata": {"name": "a", "namespace": "kube-system", "generation": 7},
            "spec": {"healthCheck": {"enable": False}, "monitor": {"ip": {"ipSend": {}}}},
        }
    )

    assert (policy.task, policy.generation, policy.health_check) == ("kube-system/a", 7, None)


def test_faults_of_each_document():
    """One bad document of a stream does not hide the others, and is known by its name."""
    good, bad = monitor("{ip: {ipSend: {}}}"), monitor("{}").replace("name: a", "name: b")

    parsed = parse_policies(f"{good}---\n---\n{bad}", "p.yaml")

    assert [policy.task for policy in parsed.policies] == ["kube-system/a"]
    assert [faulty.task for faulty in parsed.faulty] == ["kube-system/b"]
    assert [fault.line for fault in parsed.faults] == [12]


def test_same_task_twice_in_a_file():
    """The second definition of a task is a fault at its own line."""
    text = monitor("{ip: {ipSend: {}}}")

    parsed = parse_policies(f"{text}---\n{text}", "p.yaml")

    assert len(parsed.policies) == 1
    assert [str(fault) for fault in parsed.faults] == [
        'p.yaml:9: metadata.name "a": defined before in this file; remove one of them'
    ]


def test_lines_are_those_of_the_fields():
    """A fault has the line of the field, however the document is written."""
    text = spec("# comment\npodLabel:\n- app\n- pod\nmonitor:\n  ip:\n    ipSend:\n      aggregateType: all\n")

    assert [fault.line for fault in parse_policies(text, "p.yaml").faults] == [8, 12]


def test_terminal_is_safe():
    """What a manifest holds cannot write escape sequences or more lines to a terminal."""
    text = spec('monitor: {ip: {ipSend: {aggregateType: "\\e[31m\\nred\\ud800"}}}')

    assert lines(text) == [
        'p.yaml:5: spec.monitor.ip.ipSend.aggregateType "\\x1b[31m\\nred\\ud800": must be pod or flow'
    ]


def test_flood_of_faults():
    """A document with more faults than anyone reads is refused in no time, and says that some are not listed."""
    text = monitor("{}") + "".join(f"moniter{index}: 1\n" for index in range(2_000))

    faults = lines(text)

    assert len(faults) == 101
    assert faults[-1] == "p.yaml: further faults are not listed after 100"
