"""etcd and kube-apiserver on loopback, with TLS and RBAC as in a cluster, ready in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import urllib3
import yaml

from integration.kube import binaries
from integration.kube.api import Api
from integration.lib.server import ENVIRONMENT, Authority, Server, free_ports
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

READY_SECONDS = 60
GUEST_ADDRESS = "10.0.2.100"
"""Where a guest finds the API server (integration.vm run --forward)."""
SERVICE_ADDRESS = "10.96.0.1"
"""Of the Service `kubernetes`: the first of --service-cluster-ip-range."""


class ControlPlane:
    """One cluster without nodes; a context manager.

    Without the controller manager nothing makes ServiceAccounts, Nodes or Pods but the tests.
    """

    def __init__(self, work: Path, *, address: str = GUEST_ADDRESS, flags: Sequence[str] = ()) -> None:
        """Take a directory for data, certificates and logs.

        `address` is another one by which the API server is reached, `flags` are added to its own. Raises HarnessError
        when a server cannot be built.
        """
        self.work = work
        self._flags = flags
        self._etcd_port, self._peer_port, self.port = free_ports(3)
        self._servers: dict[str, Server] = {}
        self._authority = Authority(work)
        self._authority.openssl("genrsa", "-out", "sa.key", "2048")
        self._authority.openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
        names = f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{SERVICE_ADDRESS},IP:{address}"
        self.certificate("apiserver", "/CN=kube-apiserver", f"{names}\nextendedKeyUsage=serverAuth")
        self.certificate("admin", "/O=system:masters/CN=admin")

    def __enter__(self) -> Self:
        """Start both servers and wait until they are ready; raises HarnessError with the end of their logs."""
        with ExitStack() as stack:
            stack.callback(self.stop)
            self._start_etcd()
            self._start_api_server()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both."""
        self.stop()

    @property
    def server(self) -> str:
        """Its URL."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The certificate that its own is signed with."""
        return self.work / "ca.crt"

    @property
    def api(self) -> Api:
        """A client with all rights."""
        return Api(self.server, self.ca, certificate=(self.work / "admin.crt", self.work / "admin.key"))

    @property
    def api_server(self) -> subprocess.Popen[bytes]:
        """The API server's process."""
        return self._servers["kube-apiserver"].process

    @property
    def etcd(self) -> subprocess.Popen[bytes]:
        """etcd's process."""
        return self._servers["etcd"].process

    def stop(self) -> None:
        """Stop the last one first: without etcd the API server hangs in its shutdown."""
        while self._servers:
            self._servers.popitem()[1].stop()

    def restart_api_server(self, *flags: str) -> None:
        """Stop it and start it on the same port and data, with more flags."""
        self._servers.pop("kube-apiserver").stop()
        self._start_api_server(*flags)

    def stop_api_server(self) -> None:
        """Stop it; `start_api_server` brings it back."""
        self._servers.pop("kube-apiserver").stop()

    def start_api_server(self) -> None:
        """Start it again."""
        self._start_api_server()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze the API server for the length of a block: connections stay, nothing answers."""
        self.api_server.send_signal(signal.SIGSTOP)
        # It answers until all its threads have seen the signal.
        os.waitid(os.P_PID, self.api_server.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            self.api_server.send_signal(signal.SIGCONT)

    def compact(self) -> None:
        """Make etcd forget all but the present state."""
        status = self._etcd("maintenance/status", {})
        self._etcd("kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def token(self, namespace: str, name: str, *, bound_to: str = "") -> str:
        """Return a token of a ServiceAccount, good for an hour or for as long as a Secret exists."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        spec: dict[str, Any] = {"expirationSeconds": 3600}
        if bound_to:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Secret", "name": bound_to}
        made = self.api.create(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
        return str(made["status"]["token"])

    def kubeconfig(
        self, file: Path, *, token: str = "", token_file: Path | None = None, server: str = "", ca: Path | None = None
    ) -> Path:
        """Write a kubeconfig: of the administrator, or of whoever has a token."""
        user: dict[str, str] = {
            "client-certificate": str(self.work / "admin.crt"),
            "client-key": str(self.work / "admin.key"),
        }
        if token or token_file:
            user = {"token": token} if token else {"tokenFile": str(token_file)}
        cluster = {"server": server or self.server, "certificate-authority": str(ca or self.ca)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        file.write_text(yaml.safe_dump(content))
        return file

    def service_account_files(self, name: str, namespace: str) -> Path:
        """Return a directory as the kubelet mounts it into pods of a namespace, still without a token."""
        directory = self.work / f"serviceaccount-{name}"
        directory.mkdir(exist_ok=True)
        (directory / "ca.crt").write_bytes(self.ca.read_bytes())
        (directory / "namespace").write_text(namespace)
        return directory

    def kubectl(
        self, *arguments: str, stdin: str = "", check: bool = True, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; AssertionError with its complaints where it fails and `check` is set."""
        config = self.kubeconfig(self.work / "kubectl.kubeconfig")
        done = subprocess.run(
            [str(binaries.find("kubectl")), "--kubeconfig", str(config), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=ENVIRONMENT | {"HOME": str(self.work)},
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done

    def certificate(self, name: str, subject: str, extension: str = "extendedKeyUsage=clientAuth") -> None:
        """Make NAME.key, and NAME.crt of a subject, signed by the cluster's authority."""
        self._authority.sign(name, subject, extension)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self.start(
            "etcd",
            f"--data-dir={self.work / 'etcd'}",
            "--unsafe-no-fsync",
            "--watch-progress-notify-interval=2s",
            "--log-level=warn",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def _start_api_server(self, *flags: str) -> None:
        self.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            f"--tls-cert-file={self.work / 'apiserver.crt'}",
            f"--tls-private-key-file={self.work / 'apiserver.key'}",
            f"--client-ca-file={self.ca}",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.work / 'sa.pub'}",
            f"--service-account-signing-key-file={self.work / 'sa.key'}",
            "--allow-privileged=true",
            *self._flags,
            *flags,
            ready=self._is_ready,
        )

    def start(self, name: str, *flags: str, ready: Callable[[], bool] = lambda: True) -> None:
        """Start one of the cluster's servers; it ends with the others. Raises HarnessError with the end of its log."""
        server = Server([str(binaries.find(name)), *flags], self.work / f"{name}.log")
        self._servers[name] = server
        server.start(ready, READY_SECONDS)

    def _is_ready(self) -> bool:
        try:
            return self.api.raw("GET", "/readyz").status == 200
        except (OSError, urllib3.exceptions.HTTPError):
            return False

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask etcd through its JSON gateway."""
        answer = urllib3.request("POST", f"http://127.0.0.1:{self._etcd_port}/v3/{path}", body=json.dumps(body))
        if answer.status != 200:
            raise HarnessError(f"etcd {path}: {answer.data.decode(errors='replace')}")
        found: dict[str, Any] = answer.json()
        return found
