"""Policies and pods from the API server: follows them, and hands on what is wanted, whenever that changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dolphin_agent.desired import Desired
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.kube.reflector import Reflector, Resource
from dolphin_agent.pods.backend import Resolved
from dolphin_agent.pods.objects import read_pod
from dolphin_agent.pods.processes import ProcessResolver
from dolphin_agent.policy.objects import PolicyObjects, pick_policy
from dolphin_agent.policy.vocabulary import NAMESPACE
from dolphin_agent.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from dolphin_agent.kube.client import Client
    from dolphin_agent.pods.model import Pod

CRDS = "; the CustomResourceDefinitions are missing: kubectl apply -f helm/dolphin-agent/crds"

MONITOR_POLICIES = Resource(
    "monitorpolicies", f"/apis/crd.dolphin.io/v1/namespaces/{NAMESPACE}/monitorpolicies", absent=CRDS
)


def pods_on(node: str) -> Resource:
    """The pods of one node: what every agent may ask for, however large the cluster."""
    return Resource("pods", "/api/v1/pods", FrozenMap({"fieldSelector": f"spec.nodeName={node}"}))


class Cluster(Source):
    """Follows one node's pods and all policies; `uncounted` says why no pod can be counted, where that is so.

    Raises ConfigError when pods can be counted and the node's processes cannot be looked at.
    """

    def __init__(
        self, client: Client, node: str, proc_root: Path, publish: Callable[[Desired], None], uncounted: str = ""
    ) -> None:
        super().__init__(publish)
        self._uncounted = uncounted
        self._resolver = None if uncounted else ProcessResolver(proc_root)
        self._pods: Reflector[Pod] = Reflector(client, pods_on(node), read_pod, self._wake.set)
        self._items: Reflector[dict[str, Any]] = Reflector(client, MONITOR_POLICIES, pick_policy, self._wake.set)
        self._policies = PolicyObjects()

    def start(self) -> None:
        """Begins to follow; the first state is published once both kinds are known."""
        for reflector in (self._pods, self._items):
            reflector.start()
        super().start()

    def stop(self) -> None:
        """Ends the threads."""
        for reflector in (self._pods, self._items):
            reflector.stop()
        super().stop()
        if self._resolver:
            self._resolver.close()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The kinds that have never been listed, and why."""
        return tuple(
            reflector.view.problem or f"{name}: not listed yet"
            for name, reflector in (("pods", self._pods), ("monitorpolicies", self._items))
            if not reflector.view.synced
        )

    @property
    def ages(self) -> Mapping[str, float]:
        """Kind -> seconds since the API server showed that it is current."""
        return {"pods": self._pods.age, "monitorpolicies": self._items.age}

    def poll(self) -> Desired | None:
        """The state now; None until both kinds are known."""
        pods, items = self._pods.view, self._items.view
        if not (pods.synced and items.synced):
            return None
        self._policies.take(items.objects)
        looked = time.monotonic()
        backends, unmonitored = self._resolver.resolve(pods.objects.values()) if self._resolver else Resolved((), ())
        rejected = FrozenMap(self._policies.refusals)
        watching = (view.problem for view in (pods, items) if view.problem)
        refused = (f"{task}: {one.reason}" for task, one in rejected.items())
        policies = tuple(self._policies.policies.values())
        is_missed = self._uncounted and any(policy.monitor for policy in policies)
        return Desired(
            policies,
            backends,
            (*watching, *refused, *([self._uncounted] if is_missed else ())),
            rejected,
            unmonitored,
            tuple(pods.objects.values()),
            self._resolver.own if self._resolver else 0,
            looked,
        )
