"""Where the API server is, and how it is told who asks.

In a cluster all of that is two variables and three files. The kubernetes package, which knows kubeconfig files with
all their ways to log in, is loaded only for those and need not be installed for anything else: importing it takes
28 MiB (measured: 37.0.2, Python 3.11).
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin_agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token; it is replaced in place before it expires."""


@dataclass(frozen=True)
class Access:
    """Everything a connection needs. Files are read when connecting, so that renewed ones are taken."""

    server: str
    """`https://host:port`, without a slash at the end."""
    token: Callable[[], str | None]
    """Read for every request. Raises OSError."""
    ca_file: str | None = None
    """None: the system's."""
    client_certificate: tuple[str, str] | None = None
    """Files of certificate and key."""
    verify: bool = True
    server_name: str | None = None
    """The name that the certificate must have, where it is not the server's."""

    def tls(self) -> ssl.SSLContext:
        """A fresh context. Raises ConfigError naming the file that is no good."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as fault:
            raise ConfigError(f"CA certificate {self.ca_file}: {fault}") from fault
        if self.client_certificate:
            try:
                context.load_cert_chain(*self.client_certificate)
            except (OSError, ssl.SSLError) as fault:
                raise ConfigError(f"client certificate {' and '.join(self.client_certificate)}: {fault}") from fault
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def in_cluster(environment: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> Access:
    """The access that every pod has. Raises ConfigError where this is no pod, or has no token."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    token, ca_file = directory / "token", directory / "ca.crt"
    if not host or not port:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, so this is no pod: give a "
            "--kubeconfig FILE, or run without Kubernetes: --standalone --policies DIR --pods FILE"
        )
    for file in (token, ca_file):
        if not file.exists():
            raise ConfigError(f"{file} is missing: the pod needs a ServiceAccount and automountServiceAccountToken")
    address = f"[{host}]" if ":" in host else host
    return Access(f"https://{address}:{port}", lambda: token.read_text().strip(), str(ca_file))


def from_kubeconfig(path: Path) -> Access:
    """The access that a kubeconfig file's current context gives. Raises ConfigError."""
    try:
        # Imported here: see above.
        from kubernetes import config as kubernetes_config  # noqa: PLC0415
        from kubernetes.client import Configuration  # noqa: PLC0415
    except ModuleNotFoundError as fault:
        raise ConfigError(
            f"--kubeconfig {path}: the Python package {fault.name} is missing: pip install 'dolphin-agent[kubeconfig]'"
        ) from fault

    configuration: Any = Configuration()
    load: Any = kubernetes_config.load_kube_config
    try:
        load(config_file=str(path), client_configuration=configuration)
    except Exception as fault:  # the package lets through whatever a malformed file leads to
        raise ConfigError(f"--kubeconfig {path}: {' '.join(str(fault).split())}") from fault

    def token() -> str | None:
        # In any version of the package; renews a token that has expired.
        header = configuration.auth_settings().get("BearerToken", {}).get("value")
        return header.removeprefix("Bearer ").removeprefix("bearer ") if header else None

    certificate = (configuration.cert_file, configuration.key_file)
    return Access(
        server=configuration.host.rstrip("/"),
        token=token,
        ca_file=configuration.ssl_ca_cert,
        client_certificate=certificate if all(certificate) else None,
        verify=configuration.verify_ssl,
        server_name=configuration.tls_server_name,
    )


def namespace(directory: Path = SERVICE_ACCOUNT) -> str | None:
    """The namespace of the pod that this process runs in; None outside of pods."""
    try:
        return (directory / "namespace").read_text().strip() or None
    except OSError:
        return None
