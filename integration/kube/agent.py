"""The agent as it runs in a cluster, started on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dolphin_agent.kube.access import SERVICE_ACCOUNT
from integration.lib.agent import COMMAND, Agent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class ClusterAgent(Agent):
    """A running agent that follows an API server."""

    def status(self) -> dict[str, Any]:
        """What /readyz says, ready or not."""
        found: dict[str, Any] = json.loads(self.get("/readyz")[1])
        return found

    def problems(self) -> str:
        """All problems, a line each."""
        return "\n".join(self.status()["problems"])

    def tasks(self) -> dict[str, int]:
        """Task -> pods that it selects."""
        found: dict[str, int] = self.status()["tasks"]
        return found

    def watch_problems(self) -> list[str]:
        """What /readyz says of the API server."""
        return [line for line in self.status()["problems"] if line.startswith(("pods:", "monitorpolicies:", "status:"))]

    def is_up(self) -> bool:
        """Whether it answers."""
        with suppress(OSError):
            return self.get("/healthz")[0] == 200
        return False

    def process_seconds(self) -> float:
        """Its processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class InCluster:
    """What a pod finds in its place."""

    files: Path
    """Token, CA certificate and namespace of its ServiceAccount."""
    port: int
    """Of the API server, on loopback."""


def _command(access: Path | InCluster) -> tuple[list[str], dict[str, str]]:
    """The command so far, and variables."""
    if not isinstance(access, InCluster):
        return [str(COMMAND), "run", "--kubeconfig", str(access)], {}
    variables = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(access.port)}
    # In a mount namespace of its own: nothing of the machine's is covered.
    mounted = f'mkdir -p {SERVICE_ACCOUNT} && mount --bind {access.files} {SERVICE_ACCOUNT} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mounted, "sh", str(COMMAND), "run"], variables


@contextmanager
def cluster_agent(
    access: Path | InCluster,
    work: Path,
    *,
    node: str,
    port: int = 10001,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[ClusterAgent]:
    """Run an agent, by a kubeconfig or as in a pod, for the length of a block, then kill it where it still runs.

    `within` is a command that runs it, such as setpriv.
    """
    log = work / f"agent-{port}.log"
    program, variables = _command(access)
    command = [*within, *program, "--listen", f"127.0.0.1:{port}", *options]
    environment = {**os.environ, "NODE_NAME": node, **variables, **(env or {})}
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            yield ClusterAgent(process, port, log)
        finally:
            process.kill()
