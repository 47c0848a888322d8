"""The control plane of a cluster with nodes: a scheduler and controllers too, and the way to the kubelets."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import yaml

from integration.kube.control_plane import ControlPlane

if TYPE_CHECKING:
    from pathlib import Path

_NOT_RUN = ("nodeipam", "attachdetach", "persistentvolume-binder", "persistentvolume-expander", "ttl")
"""Controllers that have nothing to do here."""


class ClusterControlPlane(ControlPlane):
    """Reached by nodes at `address`; a context manager."""

    def __init__(self, work: Path, address: str) -> None:
        """Take a directory as ControlPlane does. Raises HarnessError when a server cannot be built."""
        flags = [
            "--bind-address=0.0.0.0",
            f"--advertise-address={address}",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={work / 'ca.crt'}",
            f"--kubelet-client-certificate={work / 'kubelet-client.crt'}",
            f"--kubelet-client-key={work / 'kubelet-client.key'}",
        ]
        super().__init__(work, address=address, flags=flags)
        self.certificate("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client")
        self.certificate("controllers", "/CN=system:kube-controller-manager")
        self.certificate("scheduler", "/CN=system:kube-scheduler")

    def __enter__(self) -> Self:
        """Start all servers; raises HarnessError with the end of their logs."""
        with ExitStack() as stack:
            super().__enter__()
            stack.callback(self.stop)
            without = ",".join(f"-{name}" for name in _NOT_RUN)
            self.start(
                "kube-controller-manager",
                f"--kubeconfig={self._kubeconfig('controllers')}",
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                "--secure-port=0",
                f"--service-account-private-key-file={self.work / 'sa.key'}",
                f"--root-ca-file={self.ca}",
                f"--controllers=*,{without}",
            )
            self.start(
                "kube-scheduler",
                f"--kubeconfig={self._kubeconfig('scheduler')}",
                "--leader-elect=false",
                "--secure-port=0",
            )
            stack.pop_all()
        return self

    def node_files(self, node: str, address: str) -> dict[str, str]:
        """Name -> content of what the kubelet of a node needs to be believed, and to believe."""
        subject = f"/O=system:nodes/CN=system:node:{node}"
        self.certificate("node", subject)
        self.certificate("serving", subject, f"subjectAltName=DNS:{node},IP:{address}\nextendedKeyUsage=serverAuth")
        names = ("ca.crt", "node.crt", "node.key", "serving.crt", "serving.key")
        return {name: (self.work / name).read_text() for name in names}

    def _kubeconfig(self, name: str) -> Path:
        file = self.kubeconfig(self.work / f"{name}.kubeconfig")
        content = yaml.safe_load(file.read_text())
        certificate = {
            "client-certificate": str(self.work / f"{name}.crt"),
            "client-key": str(self.work / f"{name}.key"),
        }
        content["users"][0]["user"] = certificate
        file.write_text(yaml.safe_dump(content))
        return file
