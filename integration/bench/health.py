"""What health checks take: memory and processor time of an agent that asks many pods. `make bench-userspace`.

Pods in namespaces of their own at a bridge on this machine, all asked every second. The processor time has the kernel's
share of each probe in it, the pod's side included, as packets between namespaces are handled by who sends them.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from integration.bench.agent import SECONDS, processor_seconds
from integration.lib.agent import running
from integration.lib.http_server import page
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import bridged_pods

if TYPE_CHECKING:
    from integration.lib.agent import Agent
    from integration.lib.topology import Node

PORT = 10006
HTTP = 8080
SETTLE_SECONDS = 4
"""Until every pod has been asked, and files are no longer so new that they are read again at each look."""
CHECKS: dict[str, dict[str, object]] = {
    "ping": {"command": "ping"},
    "arping": {"command": "arping"},
    "curl": {"command": "curl", "port": HTTP},
}


def measure(agent: Agent, title: str) -> None:
    """Print what the agent takes for a while, and what came of its probes."""
    before, started = processor_seconds(agent), time.monotonic()
    ended = agent.value("dolphin_health_check_successful_total")
    time.sleep(SECONDS)
    passed = time.monotonic() - started
    share = (processor_seconds(agent) - before) / passed
    rate = (agent.value("dolphin_health_check_successful_total") - ended) / passed
    failed = agent.value("dolphin_health_check_failed_total")
    print(
        f"{title:10} {agent.rss() / 2**20:6.1f} MiB {share * 100:6.2f} % of a processor {rate:6.0f} answers/s "
        f"{failed:6.0f} failed",
        flush=True,
    )


def serve(node: Node) -> None:
    """Answer every request at every pod; one thread, so that it takes little."""
    selector = selectors.DefaultSelector()
    for pod in node.pods:
        with pod.netns.entered():
            listener = socket.create_server(("", HTTP))
        selector.register(listener, selectors.EVENT_READ, listener)
    while True:
        for key, _ in selector.select():
            connection, _ = key.data.accept()
            connection.settimeout(1)
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(page(200).data)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=250, metavar="N", help="pods asked every second (250)")
    count = parser.parse_args().pods
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dolphin-bench-")))
        node = stack.enter_context(bridged_pods("dolphin-bench", count))
        threading.Thread(target=serve, args=(node,), daemon=True).start()
        stack.enter_context(node.bridge.netns.entered())
        manifests = Manifests(directory)
        manifests.write_pods(*(PodManifest(p.netns.name, p.netns.path, ips=(p.ipv4, p.ipv6)) for p in node.pods))
        agent = stack.enter_context(running(manifests, directory, port=PORT))
        agent.wait_ready()
        time.sleep(SETTLE_SECONDS)
        measure(agent, "no policy")
        for name, fields in CHECKS.items():
            manifests.write_policy("p", [], health={"periodSeconds": 1, **fields})
            time.sleep(SETTLE_SECONDS)
            measure(agent, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
