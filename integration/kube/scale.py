"""What following a thousand nodes costs the one agent that writes the policies' status.

`python -m integration.kube.scale [--nodes N]` makes that many NodeMonitors of 32 policies at a real API server, starts
one agent, and prints sizes, times, memory and the requests that the API server counted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent.policy.vocabulary import ITEMS, MAX_TASKS
from dolphin_agent.status.describe import ItemStatus, Status, TaskStatus
from dolphin_agent.status.node_monitor import AgentIdentity, Numbers, status_of
from integration.kube.agent import cluster_agent
from integration.kube.control_plane import ControlPlane
from integration.kube.installed import NODE_MONITORS, POLICIES, agent_kubeconfig, install_crds, install_rights
from integration.lib.manifests import policy
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from integration.kube.api import Api, Object

NODE = "node-here"
PODS = 100
"""On each node."""
CHURN_SECONDS = 30
CHURN = 100
"""NodeMonitors that change each second."""
SETTLE_SECONDS = 300
REASON = "fexit/tcp_create_openreq_child: load: Operation not supported; tp_btf/inet_sock_set_state: attach: EINVAL"


def node_status(node: int, turn: int = 0) -> Object:
    """What an agent writes of a node with all policies; on each tenth, one item is not counted."""
    items = tuple((name, offer.granularities[-1].value) for name, offer in ITEMS.items())
    tasks = tuple(
        TaskStatus(f"kube-system/policy-{number}", 1, pods=PODS + turn % 2, items=items) for number in range(MAX_TASKS)
    )
    ladders = tuple(
        ItemStatus(name, "" if node % 10 == 0 and name == "tcpRtt" else "fentry/ip_rcv_core", "", (REASON,))
        for name in ITEMS
    )
    status = Status(ready=True, tasks=dict.fromkeys((t.task for t in tasks), PODS), policies=tasks, items=ladders)
    agent = AgentIdentity(f"uid-{node}", f"kube-system/dolphin-{node}", "0.1.0", "2026-01-01T00:00:00Z")
    counted = Numbers({task.task: 1000 for task in tasks})
    return status_of(agent, status, counted, "2026-01-01T00:00:00Z", {})


def write(api: Api, node: int, turn: int = 0) -> None:
    """Create or change a NodeMonitor."""
    path = f"{NODE_MONITORS}/node-{node}"
    if not turn:
        head = {"apiVersion": "crd.dolphin.io/v1", "kind": "NodeMonitor", "metadata": {"name": f"node-{node}"}}
        api.apply(path, head)
    api.patch(f"{path}/status", {"status": node_status(node, turn)})


def requests(api: Api) -> dict[tuple[str, str], int]:
    """(verb, resource) -> requests that the API server has answered so far, of the kinds that agents use."""
    text = api.raw("GET", "/metrics").data.decode()
    found: dict[tuple[str, str], int] = {}
    for labels, value in re.findall(r"^apiserver_request_total\{(.*?)\} (\S+)$", text, re.MULTILINE):
        parts = dict(re.findall(r'(\w+)="(.*?)"', labels))
        resource = f"{parts['resource']}/{parts['subresource']}".rstrip("/")
        if parts["resource"] in ("monitorpolicies", "nodemonitors", "leases", "events", "pods", "nodes"):
            key = (parts["verb"], resource)
            found[key] = found.get(key, 0) + int(float(value))
    return found


def show(title: str, before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> None:
    """Print what was asked meanwhile."""
    counts = {key: after[key] - before.get(key, 0) for key in sorted(after)}
    print(f"{title}: " + ", ".join(f"{n} {verb} {what}" for (verb, what), n in counts.items() if n))


def measure(control_plane: ControlPlane, work: Path, nodes: int) -> None:
    """Do it all."""
    api = control_plane.api
    api.create_node(NODE)
    for number in range(MAX_TASKS):
        api.apply(f"{POLICIES}/policy-{number}", policy(f"policy-{number}", ["ipReceive"], labels={"no": "pod"}))
    config = agent_kubeconfig(control_plane, work / "kubeconfig")
    with cluster_agent(config, work, node=NODE) as agent:
        agent.wait_ready(30)
        wait_until(lambda: totals(api) == {1}, deadline=60, what="the agent leads", interval=1)
        print(f"resident memory with 1 node: {agent.rss() / 2**20:.1f} MiB")
    api.delete("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/dolphin-agent")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda node: write(api, node), range(nodes)))
    largest = max(len(json.dumps(item)) for item in api.get(f"{NODE_MONITORS}?limit=20")["items"])
    print(f"{nodes} NodeMonitors of {MAX_TASKS} policies; the largest has {largest / 1000:.0f} kB")

    before = requests(api)
    began = time.monotonic()
    with cluster_agent(config, work, node=NODE) as agent:
        agent.wait_ready(30)
        everyone = nodes + 1
        wait_until(lambda: totals(api) == {everyone}, deadline=SETTLE_SECONDS, what="all is folded", interval=1)
        print(f"all folded {time.monotonic() - began:.0f} s after the agent's start")
        print(f"resident memory with {everyone} nodes: {agent.rss() / 2**20:.1f} MiB")
        show("requests of agent and bench until then", before, requests(api))
        largest = max(len(json.dumps(item)) for item in api.get(POLICIES)["items"])
        print(f"the largest MonitorPolicy has {largest / 1000:.0f} kB")
        churn(api, agent.process.pid, nodes)
        print(f"resident memory after it: {agent.rss() / 2**20:.1f} MiB")


def churn(api: Api, agent: int, nodes: int) -> None:
    """Nodes that change all the time."""
    before, spent = requests(api), processor(agent)
    end = time.monotonic() + CHURN_SECONDS
    turn = 0
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < end:
            turn += 1
            second = time.monotonic() + 1
            list(pool.map(lambda n: write(api, n % nodes, turn), range(turn * CHURN, (turn + 1) * CHURN)))  # noqa: B023
            time.sleep(max(0, second - time.monotonic()))
    print(f"{turn * CHURN} changes of nodes in {CHURN_SECONDS} s; agent: {processor(agent) - spent:.1f} s of processor")
    show("requests meanwhile", before, requests(api))


def processor(pid: int) -> float:
    """Processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def totals(api: Api) -> set[int]:
    """How many nodes each policy's status knows of."""
    items = api.get(POLICIES)["items"]
    return {item.get("status", {}).get("nodes", {}).get("total", 0) for item in items}


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ControlPlane(Path(directory)) as control_plane:
        install_crds(control_plane)
        install_rights(control_plane)
        measure(control_plane, Path(directory), arguments.nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
