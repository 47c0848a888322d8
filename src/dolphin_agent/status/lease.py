"""Which one of all agents speaks for all: whoever holds the Lease.

As in client-go (tools/leaderelection), nobody's clock is trusted: a Lease has expired when it has not changed for its
duration, measured here. Agents that are not the leader look seldom, as there may be thousands.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dolphin_agent.errors import KubeError

if TYPE_CHECKING:
    from dolphin_agent.kube.client import Client

NAME = "dolphin-agent"
DURATION = 30
"""Seconds without a renewal after which the Lease is free."""
RENEW_SECONDS = 10.0
LOOK_SECONDS = (20.0, 40.0)
"""How often the others look, by chance between these."""
_CONFLICT, _NOT_FOUND = 409, 404


class Lease:
    """Holds the Lease or tries to get it. Used by one thread."""

    def __init__(self, client: Client, namespace: str, identity: str) -> None:
        self._client = client
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._identity = identity
        self._next = 0.0
        self._renewed = float("-inf")
        self._seen: tuple[Any, ...] = ()
        self._seen_at = 0.0

    @property
    def held(self) -> bool:
        """Whether this agent leads now; ends by itself when renewing fails for as long as the Lease lasts."""
        return time.monotonic() - self._renewed < DURATION

    def tend(self) -> None:
        """Renew the Lease, or try to get it, if it is time to. Raises KubeError."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + RENEW_SECONDS
        try:
            taken = self._try(now)
        except KubeError as fault:
            if fault.status != _CONFLICT:
                raise
            taken = False  # another one was quicker
        if taken:
            self._renewed = now
        else:
            self._renewed = float("-inf")
            self._next = now + random.uniform(*LOOK_SECONDS)  # noqa: S311 - spreads load, no secret

    def release(self) -> None:
        """Give the Lease up, so that another agent need not wait for its end. Raises KubeError."""
        if not self.held:
            return
        self._renewed = float("-inf")
        lease = self._client.get(f"{self._path}/{NAME}")
        if lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"]["holderIdentity"] = ""
            self._client.send("PUT", f"{self._path}/{NAME}", lease)

    def _try(self, now: float) -> bool:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION, "renewTime": stamp}
        try:
            lease = self._client.get(f"{self._path}/{NAME}")
        except KubeError as fault:
            if fault.status != _NOT_FOUND:
                raise
            self._client.send(
                "POST",
                self._path,
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": NAME},
                    "spec": {**mine, "acquireTime": stamp, "leaseTransitions": 0},
                },
            )
            return True
        spec = lease.setdefault("spec", {})
        holder = spec.get("holderIdentity")
        if holder != self._identity:
            seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
            if seen != self._seen:
                self._seen, self._seen_at = seen, now
            if holder and now - self._seen_at < DURATION:
                return False
            mine |= {"acquireTime": stamp, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        lease["spec"] = {**spec, **mine}
        self._client.send("PUT", f"{self._path}/{NAME}", lease)  # with its resourceVersion: 409 if it changed
        return True
