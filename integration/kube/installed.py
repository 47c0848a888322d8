"""What of the chart is installed for the tests: the CRDs, and the ServiceAccount with its rights, which agents use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from integration.kube.chart import CHART, render

if TYPE_CHECKING:
    from pathlib import Path

    from integration.kube.api import Object
    from integration.kube.control_plane import ControlPlane

POLICIES = "/apis/crd.dolphin.io/v1/namespaces/kube-system/monitorpolicies"
NODE_MONITORS = "/apis/crd.dolphin.io/v1/nodemonitors"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
AGENT_NAMESPACE = "kube-system"
"""Where the chart is installed: agents that are no pods keep their Lease there."""
SERVICE_ACCOUNT = "dolphin-agent"


def rights() -> list[Object]:
    """The ServiceAccount, its roles and their bindings."""
    return [
        item
        for item in yaml.safe_load_all(render("--show-only", "templates/rbac.yaml", namespace=AGENT_NAMESPACE).stdout)
        if item
    ]


def install_crds(control_plane: ControlPlane) -> None:
    """Install the CRDs and wait until they are served."""
    control_plane.kubectl("apply", "--server-side", "-f", str(CHART / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CHART / "crds"))


def install_rights(control_plane: ControlPlane) -> None:
    """Install ServiceAccount and rights, or make them again what the chart says."""
    control_plane.api.create_namespace(AGENT_NAMESPACE)
    control_plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(rights()))


def agent_token(control_plane: ControlPlane, *, bound_to: str = "") -> str:
    """A token of the agents' ServiceAccount, good for an hour or for as long as a Secret exists."""
    return control_plane.token(AGENT_NAMESPACE, SERVICE_ACCOUNT, bound_to=bound_to)


def agent_kubeconfig(control_plane: ControlPlane, file: Path, *, server: str = "", ca: Path | None = None) -> Path:
    """Write a kubeconfig of the agents' ServiceAccount."""
    return control_plane.kubeconfig(file, token=agent_token(control_plane), server=server, ca=ca)
