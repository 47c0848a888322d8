"""What a running agent takes: memory and processor time, idle and with many flows. `make bench-userspace`.

Two namespaces on this machine; one sends a datagram to each of many addresses and ports of the other, again and again,
so that every flow is seen in each interval.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib.agent import running
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import joined_pair
from integration.lib.traffic import open_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.lib.agent import Agent
    from integration.lib.topology import Pair

PORT = 10005
SECONDS = 30
SETTLE_SECONDS = 3
"""Until a policy runs: attaching is done once."""
TICKS = os.sysconf("SC_CLK_TCK")
FIRST_PORT = 1024


def processor_seconds(agent: Agent) -> float:
    """User and system time of the agent so far (stat(5))."""
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def in_force(agent: Agent, items: Iterable[str], granularity: str) -> bool:
    """Whether a policy counts these items so, and nothing else is counted."""
    status = json.loads(agent.get("/readyz")[1])
    asked = [tuple(item) for policy in status["policies"] for item in policy["items"]]
    attached = {item["item"] for item in status["items"] if item["hooks"]}
    return set(asked) == {(name, granularity) for name in items} and attached >= set(items)


def spray(pair: Pair, flows: int) -> None:
    """One datagram in each flow."""
    with open_socket(pair.a, "ipv4", socket.SOCK_DGRAM) as sender:
        sender.bind((pair.a.ipv4, 1000))
        for number in range(flows):
            sender.sendto(b"x", (pair.b.ipv4, FIRST_PORT + number % 30_000))


def watch(agent: Agent, title: str, work: Callable[[], None]) -> None:
    """Print what the agent takes while `work` is done again and again."""
    before, started = processor_seconds(agent), time.monotonic()
    while time.monotonic() - started < SECONDS:
        work()
        time.sleep(1)
    share = (processor_seconds(agent) - before) / (time.monotonic() - started)
    kept = agent.value("dolphin_agent_flows")
    print(
        f"{title:24} {agent.rss() / 2**20:6.1f} MiB {share * 100:6.2f} % of a processor {kept:8.0f} flows", flush=True
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=20_000, metavar="N", help="flows at once (20000)")
    flows = parser.parse_args().flows
    with tempfile.TemporaryDirectory(prefix="dolphin-bench-") as directory, joined_pair("dolphin-bench") as pair:
        manifests = Manifests(Path(directory))
        manifests.write_pods(PodManifest("a", pair.a.netns.path))
        with running(manifests, Path(directory), port=PORT, options=("--max-flows", str(flows))) as agent:
            agent.wait_ready()
            watch(agent, "no policy", lambda: None)
            manifests.write_policy("pods", ["ipSend"])
            time.sleep(SETTLE_SECONDS)
            watch(agent, "pods, idle", lambda: None)
            manifests.write_policy("flows", ["ipSend"], granularity="flow")
            time.sleep(SETTLE_SECONDS)
            watch(agent, f"{flows} flows", lambda: spray(pair, flows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
