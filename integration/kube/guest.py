"""The guest's part of the end-to-end test: pods with processes, the agent, traffic, and the kernel as the judge.

test_guest.py is the machine's part. Lines that begin with `@` ask it to do something at the
API server; everything else is for people.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integration import scenarios
from integration.kube.agent import ClusterAgent, cluster_agent
from integration.kube.sandbox import CGROUPS, place
from integration.lib import judge
from integration.lib.netns import new_netns
from integration.lib.topology import joined_pair
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.agent import Samples
    from integration.lib.counters import Counters
    from integration.lib.topology import Pair, Pod

ADDRESS = "10.0.2.15/24"
API_SERVER = "10.0.2.100"
"""What QEMU forwards to the machine."""
PORT = 6443
READY_SECONDS = 120
EFFECT_SECONDS = 30
"""For emulation on a busy machine."""


@dataclass(frozen=True)
class Task:
    """What the machine tells the guest."""

    kubeconfig: str
    node: str
    namespace: str
    uids: dict[str, str]
    """Pod name -> UID: `client`, `server` and `late`."""

    def json(self) -> str:
        """As the guest's only argument."""
        return json.dumps(asdict(self))


def ask(what: str) -> None:
    """Ask the machine to do something."""
    print(f"@{what}", flush=True)


def join_network() -> None:
    """Bring up the device that leads to the API server."""
    subprocess.run(["modprobe", "virtio_net"], check=True)
    device = wait_until(_device, deadline=20, what="the network device is there")
    for arguments in (["address", "add", ADDRESS, "dev", device], ["link", "set", device, "up"]):
        subprocess.run(["ip", *arguments], check=True)


def _device() -> str:
    return next((path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo"), "")


def mount_cgroups() -> None:
    """Version 2, as on a node."""
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(CGROUPS)], check=True)


@contextmanager
def processes(pair: Pair, task: Task) -> Iterator[None]:
    """Run a process for each pod, in its namespace and cgroup."""
    with ExitStack() as stack:
        for name, pod in (("client", pair.a), ("server", pair.b)):
            stack.enter_context(place(task.uids[name], pod.netns))
        yield


def says(name: str, task: Task, before: Samples, after: Samples) -> judge.Numbers:
    """What was counted of a pod."""
    return judge.agent_says(before, after, pod=f"{task.namespace}/{name}", task="kube-system/exact")


def compare(agent: ClusterAgent, pair: Pair, task: Task) -> None:
    """Make every kind of traffic, unmerged, and compare all numbers with the kernel's."""
    pods: dict[str, Pod] = {"client": pair.a, "server": pair.b}

    def counters() -> tuple[Counters, ...]:
        return tuple(pod.counters() for pod in pods.values())

    for name in scenarios.SCENARIOS:
        with scenarios.mode("unmerged", pair):
            before, kernel_before = agent.settled(counters)
            scenarios.SCENARIOS[name](pair)
            after, kernel_after = agent.settled(counters, deadline=60)
        for pod, (old, new) in zip(pods, zip(kernel_before, kernel_after, strict=True), strict=True):
            kernel = judge.kernel_says(new - old, accepts=pod == "server")
            counted = says(pod, task, before, after)
            assert counted == kernel, f"{name}, {pod}: agent {counted}, kernel {kernel}"
        print(f"{name}: equal", flush=True)
    assert not judge.lost(agent.metrics())


def follow(agent: ClusterAgent, task: Task) -> None:
    """A pod that comes later, a policy that changes, one that goes: what was there before notices nothing."""
    metric = "dolphin_ip_receive_packets_total"
    exact = {"task": "kube-system/exact", "pod": f"{task.namespace}/client"}
    held = agent.value(metric, **exact)
    assert held
    with new_netns("late") as late, place(task.uids["late"], late):
        wait_until(
            lambda: agent.metrics().series(metric, pod=f"{task.namespace}/late"),
            deadline=EFFECT_SECONDS,
            what="a late pod is counted",
        )
        ask("second policy")
        wait_until(
            lambda: agent.metrics().series("dolphin_flow_ip_send_packets_total"),
            deadline=EFFECT_SECONDS,
            what="a second policy is in force",
        )
    wait_until(
        lambda: not agent.metrics().series(metric, pod=f"{task.namespace}/late"),
        deadline=EFFECT_SECONDS,
        what="the late pod is gone",
    )
    assert agent.value(metric, **exact) >= held
    ask("no policy")
    wait_until(lambda: not agent.tasks(), deadline=EFFECT_SECONDS, what="no policy is in force")
    hook = "dolphin_agent_hook_attached"
    wait_until(lambda: not agent.metrics().series(hook), deadline=EFFECT_SECONDS, what="no program is left")


def main() -> int:
    """Run it all; an exception ends it."""
    task = Task(**json.loads(sys.argv[1]))
    mount_cgroups()
    join_network()
    with tempfile.TemporaryDirectory() as directory, joined_pair() as pair, processes(pair, task):
        work = Path(directory)
        config = work / "kubeconfig"
        config.write_text(task.kubeconfig)
        with cluster_agent(config, work, node=task.node) as agent:
            try:
                agent.wait_ready(READY_SECONDS)
                both = {"client", "server"}
                wait_until(lambda: both <= pods_of(agent), deadline=EFFECT_SECONDS, what="both pods are counted")
                status: dict[str, Any] = agent.status()
                assert not [line for line in status["problems"] if "item" in line], status["problems"]
                assert status["unmonitored"].keys() == {f"{task.namespace}/host"}
                compare(agent, pair, task)
                follow(agent, task)
            except BaseException:
                print(agent.log, flush=True)
                raise
    print("all equal", flush=True)
    return 0


def pods_of(agent: ClusterAgent) -> set[str]:
    """Names of the pods that have series."""
    series = agent.metrics().series("dolphin_ip_receive_packets_total")
    return {one["pod"].partition("/")[2] for one in series}


if __name__ == "__main__":
    sys.exit(main())
