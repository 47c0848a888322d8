"""What is monitored in the cluster: two Deployments, `nginx` that serves and `app1` that asks, each of one pod."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from integration.image.build import NAME, version
from integration.lib import counters

if TYPE_CHECKING:
    from integration.kube.control_plane import ControlPlane
    from integration.lib.counters import Counters

IMAGE = f"{NAME}:{version()}"
"""It has Python, which is all that they need."""
PORT = 8080
READY_SECONDS = 180


@dataclass(frozen=True)
class Workload:
    """The Deployments, by kubectl."""

    control_plane: ControlPlane

    def apply(self) -> None:
        """Create them, and wait until they run."""
        manifests = [_deployment("nginx", "serve", str(PORT)), _deployment("app1", "wait")]
        self.control_plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until they are as wished."""
        for app in ("nginx", "app1"):
            timeout = f"--timeout={READY_SECONDS}s"
            self.control_plane.kubectl("rollout", "status", f"deployment/{app}", timeout, seconds=READY_SECONDS + 10)

    def roll(self, app: str) -> None:
        """Replace the pod of one."""
        self.control_plane.kubectl("rollout", "restart", f"deployment/{app}")
        self.wait_ready()

    def pod(self, app: str) -> dict[str, Any]:
        """The Pod of one, which is not about to go."""
        items = json.loads(self.control_plane.kubectl("get", "pods", "-l", f"app={app}", "-o", "json").stdout)["items"]
        (found,) = (item for item in items if "deletionTimestamp" not in item["metadata"])
        pod: dict[str, Any] = found
        return pod

    def name(self, app: str) -> str:
        """As in the label `pod`."""
        return f"default/{self.pod(app)['metadata']['name']}"

    def ask(self, count: int) -> None:
        """Have app1 ask nginx, over both families, a connection each time."""
        addresses = [entry["ip"] for entry in self.pod("nginx")["status"]["podIPs"]]
        for address in addresses:
            host = f"[{address}]" if ":" in address else address
            self._python("app1", "ask", f"http://{host}:{PORT}/", str(count))

    def counters(self, app: str) -> Counters:
        """What the kernel counted in the pod's network namespace."""
        return counters.parse(*self._python(app, "counters", *counters.FILES).split("\0")[:3])

    def _python(self, app: str, program: str, *arguments: str) -> str:
        return self.control_plane.kubectl("exec", f"deployment/{app}", "--", *_command(program, *arguments)).stdout


def _command(program: str, *arguments: str) -> list[str]:
    """One of inside/."""
    text = (Path(__file__).with_name("inside") / f"{program}.py").read_text()
    return ["/usr/bin/python3", "-S", "-c", text, *arguments]


def _deployment(app: str, program: str, *arguments: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": _command(program, *arguments),
        "resources": {"requests": {"cpu": "10m"}},
    }
    # It is process 1, which a signal without a handler does not end.
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": {"app": app}}, "spec": spec},
        },
    }
