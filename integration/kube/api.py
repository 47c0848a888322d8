"""What tests do at the API server, with all rights and in plain JSON."""

from __future__ import annotations

import json
import ssl
import time
from typing import TYPE_CHECKING, Any

import urllib3

if TYPE_CHECKING:
    from pathlib import Path

Object = dict[str, Any]

STARTING = (429, 503)
"""What a server answers whose storage is not ready yet."""
STARTING_SECONDS = 20
NODE_CAPACITY = {"cpu": "4", "memory": "8Gi", "pods": "250"}


class ApiError(Exception):
    """The API server said no; the text is its message."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status for tests to judge."""
        self.status = status
        super().__init__(f"{status}: {message}")


class Api:
    """A client; one connection pool."""

    def __init__(
        self, server: str, ca: Path, *, certificate: tuple[Path, Path] | None = None, token: str | None = None
    ) -> None:
        """Take who asks: the owner of a client certificate or of a token."""
        context = ssl.create_default_context(cafile=ca)
        if certificate:
            context.load_cert_chain(*certificate)
        self._server = server
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=urllib3.Timeout(20))

    def raw(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> urllib3.BaseHTTPResponse:
        """Ask and return the answer, whatever it is."""
        data = None if body is None else json.dumps(body)
        headers = {**self._headers, "Content-Type": content_type}
        return self._pool.request(method, f"{self._server}{path}", body=data, headers=headers)

    def ask(self, method: str, path: str, body: Object | None = None, content_type: str = "application/json") -> Object:
        """Ask and return the answer's object; raises ApiError."""
        answer = self.raw(method, path, body, content_type)
        end = time.monotonic() + STARTING_SECONDS
        while answer.status in STARTING and time.monotonic() < end:
            time.sleep(0.2)
            answer = self.raw(method, path, body, content_type)
        if answer.status >= 300:
            try:
                message = answer.json()["message"]
            except (ValueError, KeyError):
                message = answer.data.decode(errors="replace")
            raise ApiError(answer.status, message)
        found: Object = answer.json()
        return found

    def get(self, path: str) -> Object:
        """Read an object or a list."""
        return self.ask("GET", path)

    def create(self, collection: str, body: Object) -> Object:
        """Create an object."""
        return self.ask("POST", collection, body)

    def patch(self, path: str, body: Object) -> Object:
        """Merge a patch into an object."""
        return self.ask("PATCH", path, body, "application/merge-patch+json")

    def apply(self, path: str, body: Object) -> Object:
        """Create or replace an object as a whole, by server-side apply."""
        return self.ask("PATCH", f"{path}?fieldManager=test&force=true", body, "application/apply-patch+yaml")

    def delete(self, path: str) -> None:
        """Delete an object at once; none is fine."""
        try:
            self.ask("DELETE", path, {"gracePeriodSeconds": 0})
        except ApiError as fault:
            if fault.status != 404:
                raise

    def create_namespace(self, name: str) -> None:
        """Create a namespace and its default ServiceAccount, which a controller does in a cluster."""
        self.apply(f"/api/v1/namespaces/{name}", _object("v1", "Namespace", name))
        self.create_service_account(name, "default")

    def create_service_account(self, namespace: str, name: str) -> None:
        """Create a ServiceAccount."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        self.apply(path, _object("v1", "ServiceAccount", name, namespace=namespace))

    def create_node(self, name: str) -> Object:
        """Create a Node that is ready, without a kubelet."""
        self.apply(f"/api/v1/nodes/{name}", _object("v1", "Node", name))
        status = {
            "capacity": NODE_CAPACITY,
            "allocatable": NODE_CAPACITY,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
        }
        return self.patch(f"/api/v1/nodes/{name}/status", {"status": status})

    def create_pod(
        self,
        namespace: str,
        name: str,
        *,
        node: str,
        labels: dict[str, str] | None = None,
        phase: str = "Running",
        ips: tuple[str, ...] = (),
        **spec: object,
    ) -> Object:
        """Create a Pod on a node, as scheduler and kubelet would show it."""
        container = {"name": "main", "image": "none"}
        pod = _object("v1", "Pod", name, namespace=namespace, labels=labels or {})
        pod["spec"] = {"nodeName": node, "containers": [container], "automountServiceAccountToken": False, **spec}
        path = f"/api/v1/namespaces/{namespace}/pods"
        self.create(path, pod)
        return self.pod_status(namespace, name, phase=phase, ips=ips)

    def pod_status(self, namespace: str, name: str, *, phase: str, ips: tuple[str, ...] = ()) -> Object:
        """Say of a Pod what a kubelet would."""
        status: Object = {"phase": phase}
        if ips:
            status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
        return self.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})

    def delete_pod(self, namespace: str, name: str) -> None:
        """Delete a Pod, as a kubelet confirms it."""
        self.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")


def _object(version: str, kind: str, name: str, **metadata: object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}}
