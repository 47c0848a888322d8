"""The machine's part of the cluster: a network namespace with the control plane and the line to the guest."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from integration.cluster import image, node, runtime
from integration.cluster.control_plane import ClusterControlPlane
from integration.kube import binaries
from integration.lib.netns import new_netns
from integration.lib.wait import wait_until
from integration.vm import kernels
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NETNS = "dolphin-cluster"
TAP = "tap0"
MEMORY = 3072
"""MiB of the guest: what containers write is in memory, and so are their images, twice."""
READY_SECONDS = 240
"""Three times what it takes: a busy machine emulates slowly."""
COMMAND_SECONDS = 120
LIFETIME = 3600


@dataclass(frozen=True)
class Node:
    """The guest, by its commands."""

    name: str = node.NAME

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a shell command on the node and return what it prints; AssertionError with that where it fails."""
        with socket.create_connection((node.ADDRESS, node.PORT), timeout=COMMAND_SECONDS) as connection:
            connection.sendall(f"{command}\n".encode())
            with connection.makefile("rb") as answer:
                status, output = int(answer.readline()), answer.read().decode(errors="replace")
        if check and status:
            raise AssertionError(f"on the node: {command}: status {status}\n{output}")
        return output

    def end(self) -> None:
        """Power off."""
        with socket.create_connection((node.ADDRESS, node.PORT), timeout=COMMAND_SECONDS) as connection:
            connection.sendall(f"{node.END}\n".encode())


@dataclass(frozen=True)
class Cluster:
    """A control plane and its only node."""

    control_plane: ClusterControlPlane
    node: Node
    kernel: str
    """The node's, as integration.vm calls it."""
    guest: subprocess.Popen[bytes]
    """The harness, with the guest in it."""

    @property
    def log(self) -> str:
        """What the guest printed, and what the harness says of its end."""
        return (self.control_plane.work / "guest.log").read_text(errors="replace")


def fetch(kernel: str) -> None:
    """Have what a node needs, while the archive can be reached: not from inside of `namespace`. Raises HarnessError."""
    kernels.prepare(kernels.find(kernel))
    runtime.find()


@contextmanager
def namespace() -> Iterator[None]:
    """Move this thread, and all that it starts, into a network namespace that leads to the guest and nowhere else."""
    with new_netns(NETNS) as netns, netns.entered():
        commands = [f"tuntap add {TAP} mode tap", f"address add {node.GATEWAY}/24 dev {TAP}", f"link set {TAP} up"]
        commands += [f"route add {subnet} via {node.ADDRESS}" for subnet in node.POD_CIDRS if ":" not in subnet]
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield


@contextmanager
def cluster(work: Path, kernel: str, images: Sequence[Path]) -> Iterator[Cluster]:
    """Run a cluster whose node has `images` (archives), inside of `namespace`. Raises HarnessError."""
    pause = work / "pause.tar"
    image.write_pause(pause)
    with ClusterControlPlane(work, node.GATEWAY) as control_plane:
        task = node.Task(
            port=control_plane.port,
            files=control_plane.node_files(node.NAME, node.ADDRESS),
            runtime=str(runtime.find()),
            kubelet=str(binaries.find("kubelet")),
            images=[str(pause), *map(str, images)],
        )
        kept = [argument for path in (work, *(file.parent for file in images)) for argument in ("--keep", str(path))]
        harness = [sys.executable, "-m", "integration.vm", "run", "--kernel", kernel, "--memory", str(MEMORY)]
        options = ["--tap", TAP, "--timeout", str(LIFETIME), "--out", str(work / "node"), *kept]
        inside = [sys.executable, "-m", "integration.cluster.node", task.json()]
        with (work / "guest.log").open("wb") as log:
            guest = subprocess.Popen([*harness, *options, "--", *inside], stdout=log, stderr=subprocess.STDOUT)
        made = Cluster(control_plane, Node(), kernel, guest)
        try:
            _wait_ready(made)
            yield made
            if guest.poll() is None:
                made.node.end()
            assert guest.wait(COMMAND_SECONDS) == 0, made.log
        finally:
            guest.terminate()
            guest.wait()


def _wait_ready(made: Cluster) -> None:
    def ready() -> bool:
        if made.guest.poll() is not None:
            raise HarnessError(f"the node ended:\n{made.log}")
        answer = made.control_plane.api.raw("GET", f"/api/v1/nodes/{node.NAME}")
        conditions = answer.json()["status"].get("conditions", []) if answer.status == 200 else []
        return ("Ready", "True") in {(one["type"], one["status"]) for one in conditions} and answers()

    def answers() -> bool:
        try:
            made.node.run("true")
        except OSError:
            return False
        return True

    wait_until(ready, deadline=READY_SECONDS, what="the node is ready and takes commands", interval=0.5)
