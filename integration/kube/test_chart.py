"""The chart as Helm renders it and as a real API server takes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from dolphin_agent import cli, config
from integration.kube import chart
from integration.kube.chart import CHART, EARLIER, helm
from integration.kube.installed import install_crds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.kube.api import Api, Object
    from integration.kube.control_plane import ControlPlane

NAMESPACE = "chart"
INSTALLED = "installed-dolphin-agent"
"""A release of another name than the rights that all tests share."""
ALWAYS = {
    "ClusterRole",
    "ClusterRoleBinding",
    "DaemonSet",
    "Role",
    "RoleBinding",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
OPERATOR = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator."""
OPTIONAL = {"ConfigMap", "NetworkPolicy", "Service"} | OPERATOR
OFF = """
agent: {listen: "[::]:9000", otlpEndpoint: ""}
capabilities: {netRaw: false}
priorityClassName: ""
nodeSelector: null
tolerations: []
resources: null
service: {enabled: false}
"""
ON = """
image:
  repository: registry.example:5000/a/dolphin-agent
  tag: v1
  digest: "sha256:5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d5a1d"
  pullPolicy: Always
imagePullSecrets: [{name: login}]
agent:
  listen: 0.0.0.0:9100
  otlpEndpoint: http://collector.monitoring:4318
  collectInterval: 1.5s
  maxFlows: 1000000
  flowIdleTimeout: 1h
  flowPorts: all
  logLevel: debug
  logFormat: console
env:
  - {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: grpc}
  - {name: OTEL_EXPORTER_OTLP_HEADERS, valueFrom: {secretKeyRef: {name: otlp, key: headers}}}
capabilities: {netRaw: true, sysResource: true}
seccompProfile: {type: Localhost, localhostProfile: bpf.json}
appArmorProfile: {type: Unconfined}
seLinuxOptions: {type: spc_t}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms: [{matchExpressions: [{key: virtual, operator: DoesNotExist}]}]
updateStrategy: {rollingUpdate: {maxUnavailable: 10%}}
podAnnotations: {a: b}
podLabels: {c: d}
service: {annotations: {prometheus.io/scrape: "true"}}
podMonitor: {enabled: true, labels: {release: prometheus}, interval: 15s}
prometheusRule: {enabled: true, labels: {release: prometheus}, runbookUrl: "https://wiki.example/alerts"}
crds: {check: false}
dashboards: {enabled: true, labels: {team: network}}
networkPolicy: {enabled: true, from: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}
"""
SETS = {"off": OFF, "defaults": "{}", "on": ON}


@pytest.fixture(params=SETS)
def values(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of values."""
    file = tmp_path / "values.yaml"
    file.write_text(SETS[request.param])
    return file


@pytest.fixture
def objects(values: Path) -> list[Object]:
    """What the chart makes of them."""
    text = chart.render("--values", str(values), namespace=NAMESPACE).stdout
    return [one for one in yaml.safe_load_all(text) if one]


@pytest.fixture
def namespace(api: Api) -> str:
    """One to install into."""
    api.create_namespace(NAMESPACE)
    return NAMESPACE


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane) -> Iterator[None]:
    """The operator's CRDs in their outlines: which fields of a spec there are, they cannot tell."""
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    made = []
    for kind in sorted(OPERATOR):
        names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower(), "listKind": f"{kind}List"}
        group = {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]}
        name = f"{names['plural']}.{group['group']}"
        head = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}
        made.append(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        control_plane.api.apply(made[-1], {**head, "spec": group})
        control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}")
    yield
    for path in made:
        control_plane.api.delete(path)


def pod_of(objects: list[Object]) -> Object:
    """The DaemonSet's template."""
    (found,) = [one for one in objects if one["kind"] == "DaemonSet"]
    spec: Object = found["spec"]["template"]["spec"]
    return spec


def test_lint(values: Path) -> None:
    """Helm has nothing to say against it."""
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--values", str(values)).stdout


@pytest.mark.parametrize(("values", "wanted"), [("off", set()), ("on", OPTIONAL)], indirect=["values"])
def test_kinds(objects: list[Object], wanted: set[str]) -> None:
    """What is switched off is not there."""
    assert {one["kind"] for one in objects} == ALWAYS | wanted


@pytest.mark.usefixtures("namespace", "operator")
def test_api_server_accepts(objects: list[Object], control_plane: ControlPlane) -> None:
    """Every object, and without a field that it would drop."""
    text = yaml.safe_dump_all(objects)
    done = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert len(done.stdout.splitlines()) == len(objects)
    assert not done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("imge.tag=x", "'imge' not allowed"),
        ("image.tagg=x", "at '/image': additional properties 'tagg'"),
        ("agent.maxFlow=1", "at '/agent': additional properties 'maxFlow'"),
        ("agent.maxFlows=0", "at '/agent/maxFlows'"),
        ("agent.collectInterval=10", "at '/agent/collectInterval'"),
        ("agent.flowPorts=some", "'service', 'all'"),
        ("agent.listen=10001", "at '/agent/listen'"),
        ("capabilities.sysAdmin=true", "at '/capabilities': additional properties 'sysAdmin'"),
        ("updateStrategy.rollingUpdate.maxSurge=1", "additional properties 'maxSurge'"),
        ("podMonitor.enabled=yes", "at '/podMonitor/enabled'"),
        ("image.repository=", "at '/image/repository'"),
        ("prometheusRule.runbookUrl=wiki", "at '/prometheusRule/runbookUrl'"),
    ],
)
def test_wrong_value_is_named(option: str, said: str) -> None:
    """Before anything is installed."""
    done = chart.render("--set", option, check=False)
    assert done.returncode
    assert said in done.stderr


def test_agent_takes_its_arguments(objects: list[Object], values: Path) -> None:
    """The agent's own parser, with the variables that the kubelet would set."""
    (container,) = pod_of(objects)["containers"]
    command, *arguments = container["args"]
    assert command == "run"
    variables = {one["name"]: one.get("value", "from-the-cluster") for one in container["env"]}
    parsed = cli.parser().parse_args([command, *arguments])
    settings = config.load(vars(parsed), variables)
    assert settings.node_name == "from-the-cluster"
    given = yaml.safe_load(values.read_text()).get("agent", {})
    assert settings.max_flows == given.get("maxFlows", 20_000)
    assert [port["containerPort"] for port in container["ports"]] == [settings.listen[1]]
    (mount,) = container["volumeMounts"]
    assert str(settings.proc_root) == mount["mountPath"]
    assert mount["readOnly"]


def test_least_privilege(api: Api, control_plane: ControlPlane) -> None:
    """What Kubernetes's strictest standard objects to is this, word for word, and nothing else."""
    api.create_namespace("strict")
    labels = {"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/warn-version": "v1.36"}
    api.patch("/api/v1/namespaces/strict", {"metadata": {"labels": labels}})
    only = ("--show-only", "templates/daemonset.yaml", "--set", "capabilities.netRaw=false")
    text = chart.render(*only, namespace="strict").stdout
    said = control_plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text).stderr
    _, _, objections = said.strip().partition('would violate PodSecurity "restricted:v1.36": ')
    assert objections == (
        'unrestricted capabilities (container "agent" must not include "BPF", "PERFMON", "SYS_PTRACE" in '
        "securityContext.capabilities.add), "
        'restricted volume types (volume "proc" uses restricted volume type "hostPath"), '
        'runAsNonRoot != true (pod or container "agent" must set securityContext.runAsNonRoot=true), '
        'runAsUser=0 (container "agent" must not set runAsUser=0)'
    )


def test_install_and_uninstall(namespace: str, control_plane: ControlPlane, tmp_path: Path) -> None:
    """The notes' policy is a right one; what Helm leaves is what the README says: the CRDs."""
    access = ["--kubeconfig", str(control_plane.kubeconfig(tmp_path / "config")), "-n", namespace]
    notes = helm("install", INSTALLED, str(CHART), *access).stdout
    example = re.search(r"<<END\n(.*?)\n    END", notes, re.DOTALL)
    assert example
    control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=example[1])
    assert f"rollout status -n {namespace} ds/{INSTALLED}" in notes
    there = (f"ds/{INSTALLED}", f"service/{INSTALLED}", "serviceaccount/dolphin-agent")
    control_plane.kubectl("get", "-n", namespace, *there)
    helm("upgrade", INSTALLED, str(CHART), *access, "--set", "service.enabled=false")
    assert control_plane.kubectl("get", "-n", namespace, f"service/{INSTALLED}", check=False).returncode
    helm("uninstall", INSTALLED, *access)
    left = f"-l app.kubernetes.io/instance={INSTALLED} -A -o name".split()
    kinds = ",".join(sorted(ALWAYS | OPTIONAL - OPERATOR))
    assert control_plane.kubectl("get", kinds, *left).stdout == ""
    control_plane.kubectl("get", "crd", "monitorpolicies.crd.dolphin.io", "nodemonitors.crd.dolphin.io")


@pytest.fixture
def earlier_crds(control_plane: ControlPlane) -> Iterator[None]:
    """Those of the version before."""
    crds = helm("show", "crds", str(EARLIER)).stdout
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crds)
    yield
    install_crds(control_plane)


@pytest.mark.usefixtures("earlier_crds")
def test_crds_of_another_version(namespace: str, control_plane: ControlPlane, tmp_path: Path) -> None:
    """Helm would leave them as they are: the chart refuses, and says what to type first."""
    access = ["--kubeconfig", str(control_plane.kubeconfig(tmp_path / "config")), "-n", namespace]
    upgrade = ("upgrade", "--install", INSTALLED, str(CHART), *access, "--reuse-values")
    fresh = helm(*upgrade, check=False)
    helm("install", INSTALLED, str(EARLIER), *access)
    for refused in (fresh, helm(*upgrade, check=False)):
        assert refused.returncode
        assert "is not that of chart" in refused.stderr
        assert "helm show crds CHART | kubectl apply --server-side --force-conflicts -f -" in refused.stderr
    helm(*upgrade, "--set", "crds.check=false")
    install_crds(control_plane)
    helm(*upgrade, "--set", "crds.check=true")
    helm("uninstall", INSTALLED, *access)
