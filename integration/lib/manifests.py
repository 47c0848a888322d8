"""The two inputs of a standalone agent: a directory of policies and a file of pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_DNS, uuid5

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

POLICY_NAMESPACE = "kube-system"

_KINDS = {
    "ipReceive": "ip",
    "ipSend": "ip",
    "ipDrop": "ip",
    "ipError": "ip",
    "tcpReceive": "tcp",
    "tcpSend": "tcp",
    "tcpRetrans": "tcp",
    "tcpDrop": "tcp",
    "tcpError": "tcp",
    "tcpRtt": "tcp",
    "tcpNewConnection": "tcp",
    "tcpConnectFail": "tcp",
    "udpReceive": "udp",
    "udpSend": "udp",
}
"""The group of each item in `spec.monitor`."""


def policy(
    name: str,
    items: Iterable[str],
    *,
    granularity: str = "pod",
    labels: Mapping[str, str] | None = None,
    pod_label: Sequence[str] = (),
    health: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a MonitorPolicy for some items, of the pods with some labels (None: every pod).

    `health` has the fields of an enabled health check.
    """
    monitor: dict[str, dict[str, Any]] = {}
    for item in items:
        monitor.setdefault(_KINDS[item], {})[item] = {"aggregateType": granularity}
    spec: dict[str, Any] = {"monitor": monitor} if monitor else {}
    if health is not None:
        spec["healthCheck"] = {"enable": True, **health}
    if labels is not None:
        spec["selector"] = {"matchLabels": dict(labels)}
    if pod_label:
        spec["podLabel"] = list(pod_label)
    return {
        "apiVersion": "crd.dolphin.io/v1",
        "kind": "MonitorPolicy",
        "metadata": {"name": name, "namespace": POLICY_NAMESPACE},
        "spec": spec,
    }


@dataclass(frozen=True, slots=True)
class PodManifest:
    """A pod as the agent is told of it."""

    name: str
    netns: Path
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    ips: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The value of the label `pod` in the pod's series."""
        return f"{self.namespace}/{self.name}"

    def manifest(self) -> dict[str, Any]:
        """Return the v1 Pod."""
        metadata = {
            "name": self.name,
            "namespace": self.namespace,
            "uid": str(uuid5(NAMESPACE_DNS, f"{self.name}.{self.namespace}")),
            "labels": dict(self.labels),
            "annotations": {"dolphin.io/netns": str(self.netns)},
        }
        spec = {"containers": [{"name": "main", "image": "none"}]}
        status = {"podIPs": [{"ip": ip} for ip in self.ips]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


class Manifests:
    """The files below `root` that a standalone agent watches."""

    def __init__(self, root: Path) -> None:
        """Begin with no policy and no pod."""
        self.policies = root / "policies"
        self.pods = root / "pods.yaml"
        self.policies.mkdir()
        self.pods.touch()

    def write_pods(self, *pods: PodManifest) -> None:
        """Replace the file of pods."""
        _write(self.pods, yaml.safe_dump_all(pod.manifest() for pod in pods))

    def write_policy(self, name: str, items: Iterable[str], **options: Any) -> None:  # noqa: ANN401 - `policy` has them
        """Add or change one policy, in a file of its own; options are those of `policy`."""
        self.write_policy_text(name, yaml.safe_dump(policy(name, items, **options)))

    def write_policy_text(self, name: str, text: str) -> None:
        """Write whatever text as a policy's file."""
        _write(self.policies / f"{name}.yaml", text)

    def remove_policy(self, name: str) -> None:
        """Remove one policy's file."""
        (self.policies / f"{name}.yaml").unlink()


def _write(path: Path, text: str) -> None:
    # By renaming: the agent never reads half a file.
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)
