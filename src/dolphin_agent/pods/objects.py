"""A v1 Pod as the API server's JSON has it -> Pod. Nothing is taken on trust: what is wrong there is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.pods.model import Pod

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDED = ("Succeeded", "Failed")
STATIC_POD = "kubernetes.io/config.hash"
"""Of a static pod: what the kubelet knows it by. The pod that the API server shows is only its mirror."""


def read_pod(item: Mapping[str, Any]) -> Pod | None:
    """Read a pod; None for an object without a name or uid, which no API server has."""
    metadata, spec, status = (_mapping(item.get(part)) for part in ("metadata", "spec", "status"))
    name, namespace, uid = metadata.get("name"), metadata.get("namespace"), metadata.get("uid")
    if not (isinstance(name, str) and isinstance(namespace, str) and isinstance(uid, str)):
        return None
    labels = _mapping(metadata.get("labels"))
    static = _mapping(metadata.get("annotations")).get(STATIC_POD)
    addresses = status.get("podIPs")
    found = [_mapping(one).get("ip") for one in addresses] if isinstance(addresses, list) else []
    return Pod(
        namespace=namespace,
        name=name,
        uid=uid,
        labels=FrozenMap({key: value for key, value in labels.items() if isinstance(value, str)}),
        cgroup_uid=static if isinstance(static, str) and static else uid,
        ips=tuple(ip for ip in found if isinstance(ip, str) and ip),
        host_network=spec.get("hostNetwork") is True,
        terminated=status.get("phase") in ENDED or metadata.get("deletionTimestamp") is not None,
        running=status.get("phase") == "Running",
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
