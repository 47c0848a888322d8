"""The agent as it runs in a cluster, started on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from integration.lib.agent import COMMAND, Agent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


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


@contextmanager
def cluster_agent(
    kubeconfig: Path,
    work: Path,
    *,
    node: str,
    port: int = 10001,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[ClusterAgent]:
    """Run an agent for the length of a block, then kill it where it still runs."""
    log = work / f"agent-{port}.log"
    where = ["--kubeconfig", str(kubeconfig), "--listen", f"127.0.0.1:{port}"]
    command = [str(COMMAND), "run", *where, *options]
    environment = {**os.environ, "NODE_NAME": node, **(env or {})}
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            yield ClusterAgent(process, port, log)
        finally:
            process.kill()
