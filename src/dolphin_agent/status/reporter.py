"""Writes what the agent says of itself to the API server; the leader also writes what all agents say together.

A write happens when something has changed, and never more often than every few seconds; numbers that change all the
time have a slower pace, and do not matter before they have moved by a tenth. When the API server is away, the latest
state is written once it is back.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from dolphin_agent.errors import KubeError, OccupiedError
from dolphin_agent.kube.client import APPLY_PATCH, MERGE_PATCH
from dolphin_agent.kube.reflector import Reflector, Resource
from dolphin_agent.policy.vocabulary import NAMESPACE
from dolphin_agent.status import event
from dolphin_agent.status.fold import Wanted, fold, pick_node
from dolphin_agent.status.lease import Lease
from dolphin_agent.status.node_monitor import API_VERSION, KIND, NUMBERS, AgentIdentity, status_of, without_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dolphin_agent.kube.client import Client
    from dolphin_agent.status.describe import Status
    from dolphin_agent.status.fold import OnNode
    from dolphin_agent.status.node_monitor import Numbers

WRITE_SECONDS = 5.0
"""Between two writes of this node's object, and between two foldings."""
NUMBERS_SECONDS = 60.0
"""Between two writes that only bring numbers up to date."""
RETRY_SECONDS = 10.0
"""After a failure."""
MOVED = 0.1
"""By what share numbers must have moved to be written."""

NODE_MONITORS = "/apis/crd.dolphin.io/v1/nodemonitors"
POLICIES = f"/apis/crd.dolphin.io/v1/namespaces/{NAMESPACE}/monitorpolicies"
MANAGER = "dolphin-agent"
_NOT_FOUND = 404

log = structlog.get_logger()


def identity(environment: Mapping[str, str] = os.environ) -> AgentIdentity:
    """This agent: the pod that the downward API tells of, else this process."""
    name, namespace = environment.get("POD_NAME"), environment.get("POD_NAMESPACE")
    return AgentIdentity(
        identity=environment.get("POD_UID") or f"{socket.gethostname()}-{os.getpid()}",
        pod=f"{namespace}/{name}" if name and namespace else "",
        version=version("dolphin-agent"),
        start=_now(),
    )


def refuse_occupied(client: Client, node: str, own: AgentIdentity) -> None:
    """Raise OccupiedError if another agent that still runs has reported from this node; KubeError."""
    try:
        agent = client.get(f"{NODE_MONITORS}/{quote(node)}").get("status", {}).get("agent", {})
    except KubeError as fault:
        if fault.status == _NOT_FOUND:
            return
        raise
    namespace, _, name = str(agent.get("pod") or "").partition("/")
    if not name or agent.get("identity") == own.identity:
        return
    query = {"fieldSelector": f"metadata.name={name},spec.nodeName={node}"}
    for pod in client.get(f"/api/v1/namespaces/{quote(namespace)}/pods", query).get("items") or ():
        metadata, phase = pod.get("metadata", {}), pod.get("status", {}).get("phase")
        alive = phase not in ("Succeeded", "Failed") and not metadata.get("deletionTimestamp")
        if alive and metadata.get("uid") == agent.get("identity"):
            raise OccupiedError(
                f"node {node} is monitored by pod {namespace}/{name} (version {agent.get('version')}, since "
                f"{agent.get('startTime')}): two agents would count and report everything twice; delete one of them"
            )


class Reporter:
    """Reports from a thread of its own; `status` and `counted` are asked there for what is to be reported."""

    def __init__(
        self,
        client: Client,
        node: str,
        namespace: str,
        status: Callable[[], Status],
        counted: Callable[[], Numbers],
        occupied: Callable[[OccupiedError], None],
    ) -> None:
        """Take the node's name and the namespace of the Lease."""
        self._client = client
        self._node = node
        self._status = status
        self._counted = counted
        self._occupied = occupied
        self._own = identity()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._checked = False
        self._owner: dict[str, Any] | None = None
        self._reported: Status | None = None
        """What was written last, or found to be no news."""
        self._counted_at = float("-inf")
        self._written: dict[str, Any] = {}
        self._written_at = float("-inf")
        self._lease = Lease(client, namespace, self._own.identity)
        self._leader: _Leader | None = None
        self._warnings: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.problem = ""
        """Why reporting does not work now, or empty."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the Lease is given up if that is quickly done."""
        self._stop.set()
        self._wake.set()
        self._thread.join(2)

    def changed(self) -> None:
        """There is something new to report."""
        self._wake.set()

    def warn(self, reason: str, note: str) -> None:
        """Say in an Event about this agent's pod that something is wrong; outside of a pod, nowhere."""
        self._warnings.put((reason, note))
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._report()
                self._tell_warnings()
                self._lead()
                self.problem = self._leader.problem if self._leader else ""
            except OccupiedError as fault:
                self._occupied(fault)
                return
            except KubeError as fault:
                self._complain(str(fault))
            except Exception:  # reporting must not end because of one state that cannot be reported
                log.exception("reporting failed")
                self._complain("internal error, see the log")
            self._wake.wait(1)
            self._wake.clear()
        self._resign()

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("status cannot be reported", reason=problem)
            self.problem = problem
        self._stop.wait(RETRY_SECONDS)

    def _report(self) -> None:
        if time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        if not self._checked:
            refuse_occupied(self._client, self._node, self._own)
            self._checked = True
        now = self._status()
        if now == self._reported and time.monotonic() - self._counted_at < NUMBERS_SECONDS:
            return
        # Not before it is needed: counting takes a reading of everything.
        status = status_of(self._own, now, self._counted(), _now(), self._written)
        self._counted_at = time.monotonic()
        if self._written and without_numbers(status) == without_numbers(self._written) and not self._has_moved(status):
            self._reported = now
            return
        path = f"{NODE_MONITORS}/{quote(self._node)}"
        query = {"fieldManager": MANAGER, "force": "true"}
        head: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self._node}}
        if self._owner is None:
            self._owner = self._find_owner()
            metadata = {**head["metadata"], "ownerReferences": [self._owner]}
            self._client.send("PATCH", path, {**head, "metadata": metadata}, query=query, content_type=APPLY_PATCH)
        try:
            self._client.send(
                "PATCH", f"{path}/status", {**head, "status": status}, query=query, content_type=APPLY_PATCH
            )
        except KubeError as fault:
            if fault.status == _NOT_FOUND:
                self._owner = None  # somebody deleted it
            raise
        self._written, self._written_at, self._reported = status, time.monotonic(), now

    def _tell_warnings(self) -> None:
        namespace, _, name = self._own.pod.partition("/")
        while not self._warnings.empty():
            warning = self._warnings.get()
            if not name:
                continue
            pod = event.Subject("v1", "Pod", namespace, name, self._own.identity)
            try:
                event.post(self._client, pod, self._own.identity, *warning)
            except KubeError as fault:  # the status has it too
                log.warning("no Event could be written", reason=str(fault))

    def _has_moved(self, status: Mapping[str, Any]) -> bool:
        """Whether its numbers are worth a write of their own."""
        if time.monotonic() - self._written_at < NUMBERS_SECONDS:
            return False
        return any(abs(status[n] - self._written[n]) > MOVED * self._written[n] for n in NUMBERS)

    def _find_owner(self) -> dict[str, Any]:
        """The Node, so that the object goes when the node goes."""
        try:
            node = self._client.get(f"/api/v1/nodes/{quote(self._node)}")
        except KubeError as fault:
            if fault.status != _NOT_FOUND:
                raise
            raise KubeError(
                f"there is no node {self._node} in this cluster, so no pod is found and nothing is monitored: set "
                "NODE_NAME from the pod's spec.nodeName (fieldRef)",
                status=_NOT_FOUND,
            ) from fault
        return {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}

    def _lead(self) -> None:
        self._lease.tend()
        if not self._lease.held:
            self._resign()
            return
        if self._leader is None:
            log.info("leading", what="status of all MonitorPolicies")
            self._leader = _Leader(self._client, self._own, self._wake.set)
        self._leader.fold()

    def _resign(self) -> None:
        if self._leader:
            self._leader.stop()
            self._leader = None
        try:
            self._lease.release()
        except KubeError as fault:
            log.info("the Lease was not given up", reason=str(fault))


class _Leader:
    """Folds all NodeMonitors into the policies' status, for as long as the Lease is held."""

    def __init__(self, client: Client, own: AgentIdentity, changed: Callable[[], None]) -> None:
        self._client = client
        self._own = own
        self._nodes: Reflector[dict[str, OnNode]] = Reflector(
            client, Resource("nodemonitors", NODE_MONITORS, large=True), pick_node, changed
        )
        self._policies: Reflector[dict[str, Any]] = Reflector(
            client, Resource("monitorpolicies", POLICIES), _pick_status, changed
        )
        self._folded_at = float("-inf")
        self._done: tuple[object, object] = (None, None)
        """The nodes and policies that were folded last."""
        for reflector in (self._nodes, self._policies):
            reflector.start()

    def stop(self) -> None:
        """End."""
        for reflector in (self._nodes, self._policies):
            reflector.stop()

    @property
    def problem(self) -> str:
        """Why some kind cannot be followed, or empty."""
        return self._nodes.view.problem or self._policies.view.problem

    def fold(self) -> None:
        """Write each status that has changed. Raises KubeError."""
        nodes, policies = self._nodes.view, self._policies.view
        now = time.monotonic()
        known = nodes.objects is self._done[0] and policies.objects is self._done[1]  # views are made anew
        if known or not (nodes.synced and policies.synced) or now - self._folded_at < WRITE_SECONDS:
            return
        self._folded_at = now
        for task, policy in policies.objects.items():
            before = policy["status"]
            status = fold(task, Wanted(policy["generation"], policy["uid"]), nodes.objects, _now(), before)
            if status == before:
                continue
            name = task.partition("/")[2]
            try:
                self._client.send(
                    "PATCH", f"{POLICIES}/{quote(name)}/status", {"status": status}, content_type=MERGE_PATCH
                )
            except KubeError as fault:
                if fault.status != _NOT_FOUND:  # deleted meanwhile
                    raise
                continue
            subject = event.Subject(API_VERSION, "MonitorPolicy", NAMESPACE, name, policy["uid"])
            for reason, note in _events(before, status):
                event.post(self._client, subject, self._own.identity, reason, note)
        self._done = (nodes.objects, policies.objects)


def _pick_status(item: Mapping[str, Any]) -> dict[str, Any]:
    metadata = item["metadata"]
    return {
        "generation": int(metadata.get("generation") or 0),
        "uid": str(metadata.get("uid") or ""),
        "status": item.get("status") or {},
    }


def _events(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, note) of what has become wrong."""
    found = []
    for kind, bad, only in (("Ready", "False", "Invalid"), ("Degraded", "True", "Problems")):
        new, old = _condition(after, kind), _condition(before, kind)
        became = (new.get("status"), new.get("reason")) != (old.get("status"), old.get("reason"))
        if new.get("status") == bad and new.get("reason") == only and became:
            found.append(("Invalid" if kind == "Ready" else "Degraded", str(new["message"])))
    return found


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
