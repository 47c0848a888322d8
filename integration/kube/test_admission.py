"""The API server and the agent judge policies alike, over the same table."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dolphin_agent.manifests.stream import parse_stream
from dolphin_agent.policy import vocabulary as words
from dolphin_agent.policy.parse import parse_policies
from integration.kube import binaries
from integration.kube.conftest import CHART, POLICIES
from integration.lib.wait import wait_until
from tests.policy.table import BAD, GOOD, Case

if TYPE_CHECKING:
    from integration.kube.api import Api
    from integration.kube.conftest import Policies
    from integration.kube.control_plane import ControlPlane

STRICT = "dryRun=All&fieldValidation=Strict"
"""As kubectl asks."""

OTHERWISE = {
    "item without a body": "a null is the same as nothing to the API server: write `ipReceive: {}`",
    "no namespace": "the URL has it",
}
"""Cases that the API server judges otherwise, and why."""

PUBLISHED = (CHART.parents[1] / "tests/policy/examples/policy-published.yaml").read_text()


def objects(case: Case) -> list[dict[str, Any]]:
    """The case's objects, as a client would create them."""
    found = []
    for document in parse_stream(case.yaml, "case").documents:
        item = json.loads(json.dumps(document.value))
        for field in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
            item.get("metadata", {}).pop(field, None)
        found.append(item)
    return found


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_good(api: Api, case: Case) -> None:
    """Accepted, but for what is listed above."""
    for item in objects(case):
        answer = api.raw("POST", f"{POLICIES}?{STRICT}", item)
        assert (answer.status == 201) == (case.name not in OTHERWISE), answer.data


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad(api: Api, case: Case) -> None:
    """Refused, and the message names the field."""
    for item in objects(case):
        answer = api.raw("POST", f"{POLICIES}?{STRICT}", item)
        assert (answer.status >= 400) == (case.name not in OTHERWISE), answer.data
        if answer.status == 422:
            words = re.split(r"[.\[]", case.faults[0][0].removeprefix("spec."))
            message = answer.json()["message"]
            assert any(word.rstrip("]") in message for word in words), message


def test_published_example_word_for_word(api: Api, control_plane: ControlPlane) -> None:
    """By kubectl; the validator takes it too."""
    assert parse_policies(PUBLISHED, "published").faults == ()
    control_plane.kubectl("apply", "-f", "-", stdin=PUBLISHED)
    name = yaml.safe_load(PUBLISHED)["metadata"]["name"]
    stored = api.get(f"{POLICIES}/{name}")
    api.delete(f"{POLICIES}/{name}")
    assert stored["spec"]["monitor"].keys() == yaml.safe_load(PUBLISHED)["spec"]["monitor"].keys()


def test_defaults_are_stored(api: Api) -> None:
    """Those that the API server fills in."""
    item = {
        "apiVersion": "crd.dolphin.io/v1",
        "kind": "MonitorPolicy",
        "metadata": {"name": "defaults", "namespace": "kube-system"},
        "spec": {"healthCheck": {"enable": True}},
    }
    stored = api.create(f"{POLICIES}?{STRICT}", item)["spec"]["healthCheck"]
    assert stored == {
        "enable": True, "failureThreshold": 1, "periodSeconds": 60, "command": "ping", "ipFamilies": ["ipv4"]
    }  # fmt: skip


def test_pruned_policy_is_refused(api: Api) -> None:
    """A client that is not strict: `monitor` under `selector` is pruned, and the message says that."""
    (case,) = (case for case in BAD if case.name == "monitor under selector")
    (item,) = objects(case)
    answer = api.raw("POST", f"{POLICIES}?dryRun=All&fieldValidation=Ignore", item)
    assert answer.status == 422
    assert "pruned by the API server if it was indented under spec.selector" in answer.json()["message"]


def test_kubectl_names_a_misspelt_field(control_plane: ControlPlane) -> None:
    """What a user sees."""
    text = PUBLISHED.replace("ipReceive", "ipRecieve")
    done = control_plane.kubectl("apply", "-f", "-", stdin=text, check=False)
    assert done.returncode
    assert 'unknown field "spec.monitor.ip.ipRecieve"' in done.stderr


def test_namespace(control_plane: ControlPlane, api: Api) -> None:
    """Only in kube-system: the chart's ValidatingAdmissionPolicy."""
    api.create_namespace("elsewhere")
    manifests = render(control_plane, "admission.yaml")
    control_plane.kubectl("apply", "-f", "-", stdin=manifests)
    item = yaml.safe_load(PUBLISHED)
    item["metadata"]["namespace"] = "elsewhere"
    path = "/apis/crd.dolphin.io/v1/namespaces/elsewhere/monitorpolicies?dryRun=All"
    try:
        # It takes effect some time after it is made.
        wait_until(lambda: api.raw("POST", path, item).status != 201, deadline=20, what="a refusal", interval=0.2)
        answer = api.raw("POST", path, item)
        assert answer.status == 422
        assert 'metadata.namespace "elsewhere": must be kube-system' in answer.json()["message"]
        item["metadata"]["namespace"] = "kube-system"
        assert api.raw("POST", f"{POLICIES}?dryRun=All", item).status == 201
    finally:
        control_plane.kubectl("delete", "-f", "-", stdin=manifests)


def test_columns(control_plane: ControlPlane, api: Api, policies: Policies) -> None:
    """What `kubectl get` shows."""
    policies.apply("shown")
    status = {
        "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "nodes": {"total": 3, "ready": 2},
        "pods": 7,
        "summary": "ipReceive",
    }
    api.patch(f"{POLICIES}/shown/status", {"status": status})
    header, line = control_plane.kubectl("get", "mp", "-n", "kube-system", "shown").stdout.splitlines()
    assert header.split() == ["NAME", "READY", "NODES", "PODS", "ITEMS", "AGE"]
    assert line.split()[:5] == ["shown", "True", "2", "7", "ipReceive"]


def test_schema_is_the_agents() -> None:
    """Enumerations and bounds are written down twice, here and in policy/vocabulary.py: they agree."""
    crd = yaml.safe_load((CHART / "crds/monitorpolicies.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    monitor = spec["monitor"]["properties"]
    found = {
        name: (group, tuple(item["properties"]["aggregateType"]["enum"]))
        for group, part in monitor.items()
        for name, item in part["properties"].items()
    }
    assert found == {name: (offer.group, ("", *offer.granularities)) for name, offer in words.ITEMS.items()}
    check = spec["healthCheck"]["properties"]
    assert tuple(check["command"]["enum"]) == ("", *words.Command)
    assert tuple(check["ipFamilies"]["items"]["enum"]) == ("", *words.IPFamily)
    bounds = [check[name]["maximum"] for name in ("failureThreshold", "periodSeconds", "port")]
    assert bounds == [words.MAX_FAILURE_THRESHOLD, words.MAX_PERIOD_SECONDS, words.MAX_PORT]
    assert check["path"]["maxLength"] == words.MAX_PATH
    assert spec["podLabel"]["maxItems"] == words.MAX_POD_LABELS
    assert spec["podLabel"]["items"]["maxLength"] == words.MAX_LABEL_NAME
    rules = json.dumps(spec["podLabel"]["x-kubernetes-validations"])
    assert all(f"'{label}'" in rules for label in (*words.SYSTEM_LABELS, words.HISTOGRAM_LABEL))
    operators = spec["selector"]["properties"]["matchExpressions"]["items"]["properties"]["operator"]["enum"]
    assert operators == list(words.Operator)


def render(control_plane: ControlPlane, template: str, namespace: str = "kube-system") -> str:
    """Render one template of the chart."""
    version = ["--kube-version", binaries.KUBERNETES]  # its own is what it was linked with
    command = [str(binaries.find("helm")), "template", "dolphin-agent", str(CHART), "-n", namespace, *version]
    done = subprocess.run(
        [*command, "-s", f"templates/{template}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=control_plane.work,
        timeout=60,
    )
    return done.stdout
