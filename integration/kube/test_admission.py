"""The API server and the agent judge policies alike, over one table: tests/policy/cases.py."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dolphin_agent.policy.parse import policy_from_object
from dolphin_agent.policy.vocabulary import ITEMS
from dolphin_agent.status import fold, node_monitor
from integration.kube.api import ApiError
from integration.kube.chart import CHART, render
from integration.kube.installed import NODE_MONITORS, POLICIES
from integration.lib.wait import wait_until
from tests.policy.cases import CASES, Case, policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dolphin_agent.policy.model import MonitorPolicy
    from integration.kube.api import Api, Object
    from integration.kube.conftest import Policies
    from integration.kube.control_plane import ControlPlane

STRICT = f"{POLICIES}?dryRun=All&fieldValidation=Strict"
"""As kubectl asks."""
LENIENT = f"{POLICIES}?dryRun=All&fieldValidation=Ignore"
"""As many other clients do: unknown fields are dropped."""

PUBLISHED = (CHART.parents[1] / "tests/policy/examples/policy-published.yaml").read_text()
MISINDENTED = (CHART.parents[1] / "tests/policy/examples/policy-misindented.yaml").read_text()

ACCEPTED = [case for case in CASES if case.validator is None and case.server is None]


def judge(api: Api, path: str, item: Object) -> str | None:
    """What the API server says to a new object; None: it accepts it."""
    answer = api.raw("POST", path, item)
    return None if answer.status == 201 else str(answer.json()["message"])


def agrees(said: str | None, wanted: str | None) -> bool:
    """Whether it is what the table says."""
    return said is None if wanted is None else said is not None and wanted in said


def meaning(item: Object) -> MonitorPolicy:
    """What the agent makes of an object, apart from how often it was changed."""
    return dataclasses.replace(policy_from_object(item), generation=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdict(api: Api, case: Case) -> None:
    """As the table says, for kubectl and for clients that have unknown fields dropped."""
    strict = judge(api, STRICT, case.object)
    assert agrees(strict, case.server), strict
    lenient = judge(api, LENIENT, case.object)
    assert agrees(lenient, case.pruned), lenient


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_nothing_changes_its_meaning(api: Api, case: Case) -> None:
    """Defaults and dropped nulls make of a policy what the agent had made of it anyway."""
    stored = api.create(STRICT, case.object)
    assert meaning(stored) == meaning(case.object)


@pytest.mark.parametrize("case", [case for case in CASES if case.pruned is None], ids=str)
def test_what_is_let_in_is_right(api: Api, case: Case) -> None:
    """Whatever was dropped of it."""
    policy_from_object(api.create(LENIENT, case.object))


@pytest.mark.parametrize("kind", ["monitorpolicies", "nodemonitors"])
def test_established(api: Api, kind: str) -> None:
    """And nothing about the schemas is complained of."""
    found = api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.crd.dolphin.io")
    conditions = {one["type"]: one["status"] for one in found["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


def test_published_example_word_for_word(control_plane: ControlPlane, policies: Policies) -> None:
    """By kubectl; and it means what it means in a file."""
    written = yaml.safe_load(PUBLISHED)
    control_plane.kubectl("apply", "-f", "-", stdin=PUBLISHED)
    stored = policies.get(written["metadata"]["name"])
    assert stored["spec"] == written["spec"], "it leaves nothing to defaults, and its empty strings stay"
    assert meaning(stored) == meaning(written)


def test_defaults_are_stored(api: Api) -> None:
    """So that `kubectl get -o yaml` shows what is in force."""
    monitor: Object = {}
    for name, offer in ITEMS.items():
        monitor.setdefault(offer.group, {})[name] = {}
    spec = api.create(STRICT, policy({"healthCheck": {"enable": True}, "monitor": monitor}))["spec"]
    assert spec["healthCheck"] == {
        "enable": True, "failureThreshold": 1, "periodSeconds": 60, "command": "ping", "ipFamilies": ["ipv4"]
    }  # fmt: skip
    found = {name: item["aggregateType"] for group in spec["monitor"].values() for name, item in group.items()}
    assert found == {name: offer.granularities[0] for name, offer in ITEMS.items()}


def test_kubectl_names_a_misplaced_field(control_plane: ControlPlane) -> None:
    """What a user sees; with validation off, the field is dropped and the answer says what probably happened."""
    done = control_plane.kubectl("apply", "-f", "-", stdin=MISINDENTED, check=False)
    assert done.returncode
    assert 'unknown field "spec.selector.monitor"' in done.stderr
    done = control_plane.kubectl("apply", "--validate=ignore", "-f", "-", stdin=MISINDENTED, check=False)
    assert done.returncode
    assert "pruned by the API server if it was indented under spec.selector" in done.stderr


@pytest.fixture
def namespace_rule(control_plane: ControlPlane, api: Api) -> Iterator[str]:
    """The chart's ValidatingAdmissionPolicy, and a namespace that it closes."""
    api.create_namespace("elsewhere")
    manifests = render("--show-only", "templates/admission.yaml").stdout
    control_plane.kubectl("apply", "-f", "-", stdin=manifests)
    yield "elsewhere"
    control_plane.kubectl("delete", "-f", "-", stdin=manifests)


def test_namespace(control_plane: ControlPlane, api: Api, namespace_rule: str) -> None:
    """A policy anywhere but in kube-system is refused in the validator's words; elsewhere nothing changes."""
    item = yaml.safe_load(PUBLISHED)
    item["metadata"]["namespace"] = namespace_rule
    path = STRICT.replace("kube-system", namespace_rule)
    # It takes effect some time after it is made.
    wait_until(lambda: judge(api, path, item), deadline=20, what="a refusal", interval=0.2)
    said = judge(api, path, item)
    assert said is not None
    assert 'metadata.namespace "elsewhere": must be kube-system' in said
    done = control_plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(item), check=False)
    assert 'metadata.namespace "elsewhere": must be kube-system' in done.stderr
    assert judge(api, STRICT, yaml.safe_load(PUBLISHED)) is None


def test_policy_columns(control_plane: ControlPlane, policies: Policies, api: Api) -> None:
    """A status survives, and `kubectl get` shows it."""
    policies.apply("shown", ["ipReceive", "ipSend"])
    nodes = {"vm1": fold.pick_node({"status": node_status("kube-system/shown")})}
    generation = policies.get("shown")["metadata"]["generation"]
    status = fold.fold("kube-system/shown", fold.Wanted(generation, "uid"), nodes, "2026-01-01T00:00:00Z", {})
    api.patch(f"{POLICIES}/shown/status", {"status": status})
    assert policies.get("shown")["status"] == status, "no field is unknown"

    header, line = control_plane.kubectl("get", "mp", "-n", "kube-system", "shown").stdout.splitlines()
    assert header.split() == ["NAME", "READY", "NODES", "PODS", "ITEMS", "AGE"]
    assert line.split()[:5] == ["shown", "True", "0", "7", "ipReceive,ipSend"]
    header, line = control_plane.kubectl("get", "mp", "-n", "kube-system", "shown", "-o", "wide").stdout.splitlines()
    assert header.split() == ["NAME", "READY", "NODES", "PODS", "ITEMS", "AGE", "DEGRADED"]
    assert line.split()[-1] == "True"


def test_status_is_apart(policies: Policies, api: Api) -> None:
    """A change of the spec keeps the status, and nobody writes a status with the spec."""
    policies.apply("shown")
    api.patch(f"{POLICIES}/shown/status", {"status": {"pods": 7}})
    api.patch(f"{POLICIES}/shown", {"spec": {"podLabel": ["app"]}, "status": {"pods": 8}})
    item = policies.get("shown")
    assert (item["metadata"]["generation"], item["status"]["pods"]) == (2, 7)
    api.patch(f"{POLICIES}/shown/status", {"spec": {"podLabel": ["role"]}, "status": {"pods": 9}})
    item = policies.get("shown")
    assert (item["metadata"]["generation"], item["spec"]["podLabel"], item["status"]["pods"]) == (2, ["app"], 9)


@pytest.fixture
def node_object(api: Api) -> Iterator[str]:
    """The path of a NodeMonitor."""
    path = f"{NODE_MONITORS}/shown"
    api.apply(path, {"apiVersion": "crd.dolphin.io/v1", "kind": "NodeMonitor", "metadata": {"name": "shown"}})
    yield path
    api.delete(path)


def node_status(task: str = "kube-system/shown") -> Object:
    """A NodeMonitor's status with every field."""
    item = {"granularity": "pod", "hooks": "fentry/ip_rcv_core", "inexact": "", "reason": ""}
    refused = {"granularity": "pod", "hooks": "", "inexact": "may miss some", "reason": "tp_btf/x: EINVAL"}
    now = "2026-01-01T00:00:00Z"
    return {
        "agent": {"identity": "uid", "pod": "kube-system/agent-x", "version": "1.0", "startTime": now},
        "conditions": [node_monitor.condition("Ready", "True", "Running", "fine", now, ())],
        "tasks": 1,
        "pods": 7,
        "series": 2**31,
        "lost": 2**40,
        "problems": ["something"],
        "policies": [
            {
                "task": task,
                "observedGeneration": 1,
                "valid": True,
                "running": True,
                "pods": 7,
                "series": 40,
                "items": [{"item": "ipReceive", **item}, {"item": "ipSend", **refused}],
                "problems": [],
            }
        ],
        "unmonitored": [{"pod": "default/web", "reason": "uses hostNetwork"}],
    }


def apply_status(api: Api, path: str, status: Object) -> Object:
    """Write a NodeMonitor's status as its agent does."""
    head = {"apiVersion": "crd.dolphin.io/v1", "kind": "NodeMonitor", "metadata": {"name": "shown"}}
    stored: Object = api.apply(f"{path}/status", {**head, "status": status})["status"]
    return stored


def test_node_columns(control_plane: ControlPlane, api: Api, node_object: str) -> None:
    """A status survives, and `kubectl get` shows it."""
    assert apply_status(api, node_object, node_status()) == node_status()
    header, line = control_plane.kubectl("get", "nm", "shown").stdout.splitlines()
    assert header.split() == ["NAME", "READY", "TASKS", "PODS", "SERIES", "LOST", "AGE", "PROBLEM"]
    assert line.split()[:6] == ["shown", "True", "1", "7", str(2**31), str(2**40)]


def test_node_status_is_replaced(api: Api, node_object: str) -> None:
    """Server-side apply by the one manager drops what is no longer said."""
    apply_status(api, node_object, node_status("kube-system/old"))
    stored = apply_status(api, node_object, {**node_status("kube-system/new"), "problems": [], "unmonitored": []})
    assert [one["task"] for one in stored["policies"]] == ["kube-system/new"]
    assert (stored["problems"], stored["unmonitored"]) == ([], [])


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("problems", ["x"] * 21, "at most 20"),
        ("problems", ["x" * 1025], "1024"),
        ("unmonitored", [{"pod": f"a/{index}", "reason": "x"} for index in range(51)], "at most 50"),
        ("policies", [{"task": f"a/{index}"} for index in range(65)], "at most 64"),
        ("policies", [{"task": "a/b", "problems": ["x"] * 21}], "at most 20"),
        ("policies", [{"task": "a/b"}, {"task": "a/b"}], "duplicate entries"),
    ],
    ids=["problems", "length", "unmonitored", "policies", "their problems", "task twice"],
)
def test_oversize_status_is_refused(api: Api, node_object: str, field: str, value: list[Any], bound: str) -> None:
    """No agent fills etcd."""
    with pytest.raises(ApiError, match=bound):
        apply_status(api, node_object, {field: value})
