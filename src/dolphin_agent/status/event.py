"""Kubernetes Events: what has become wrong, told where people look for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dolphin_agent.kube.client import Client

_NOTE = 1000
"""Characters of an Event's note; the API takes 1024."""


@dataclass(frozen=True)
class Subject:
    """What an Event is about: an object in a namespace."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


def post(client: Client, subject: Subject, reporter: str, reason: str, note: str) -> None:
    """Write a warning. Raises KubeError."""
    client.send(
        "POST",
        f"/apis/events.k8s.io/v1/namespaces/{subject.namespace}/events",
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{subject.name[:200].rstrip('.-')}-", "namespace": subject.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "dolphin.io/agent",
            "reportingInstance": reporter[:128],
            "action": "Monitor",
            "type": "Warning",
            "reason": reason,
            "note": note[:_NOTE],
            "regarding": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
        },
    )
