"""End to end: the API server on this machine; node, pods and agent in a guest, where the kernel is the judge."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
import yaml

from integration.kube.control_plane import GUEST_ADDRESS
from integration.kube.guest import API_SERVER, PORT, Task
from integration.kube.installed import agent_kubeconfig
from integration.lib import judge

if TYPE_CHECKING:
    from pathlib import Path

    from integration.kube.api import Api
    from integration.kube.conftest import Policies
    from integration.kube.control_plane import ControlPlane

TIMEOUT = 600
KERNELS = os.environ.get("KUBE_KERNELS", "6.12").split()


def guest_kubeconfig(control_plane: ControlPlane, work: Path) -> str:
    """One without files: the guest sees none of this machine's."""
    text = agent_kubeconfig(control_plane, work / "guest", server=f"https://{API_SERVER}:{PORT}").read_text()
    config = yaml.safe_load(text)
    cluster = config["clusters"][0]["cluster"]
    del cluster["certificate-authority"]
    cluster["certificate-authority-data"] = b64encode(control_plane.ca.read_bytes()).decode()
    return str(yaml.safe_dump(config))


@pytest.mark.parametrize("kernel", KERNELS)
def test_end_to_end(
    kernel: str,
    control_plane: ControlPlane,
    api: Api,
    node: str,
    namespace: str,
    policies: Policies,
    tmp_path: Path,
) -> None:
    """With the chart's rights: pods found by their processes, all items equal to the kernel's counters."""
    assert GUEST_ADDRESS == API_SERVER, "the certificate is for it"
    policies.apply("exact", [*judge.ITEMS, "tcpNewConnection"])
    uids = {
        name: api.create_pod(namespace, name, node=node)["metadata"]["uid"] for name in ("client", "server", "late")
    }
    api.create_pod(namespace, "host", node=node, hostNetwork=True)
    task = Task(guest_kubeconfig(control_plane, tmp_path), node, namespace, uids)

    def answer(what: str) -> None:
        if what == "second policy":
            policies.apply("flows", ["ipSend"], granularity="flow")
            return
        assert what == "no policy"
        for name in ("exact", "flows"):
            policies.delete(name)

    harness = [sys.executable, "-m", "integration.vm", "run", "--kernel", kernel]
    options = ["--timeout", str(TIMEOUT), "--forward", f"{API_SERVER}:{PORT}:{control_plane.port}"]
    inside = [sys.executable, "-m", "integration.kube.guest", task.json()]
    output = []
    with subprocess.Popen([*harness, *options, "--", *inside], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            print(line, end="")
            if line.startswith("@"):
                answer(line[1:].strip())
    assert process.returncode == 0, "".join(output)
    assert "all equal\n" in output
