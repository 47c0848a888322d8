"""Seven reasons why a service is slow, each made on purpose between two pods, and what the agent shows of it.

    python -m integration.vm run --kernel 6.12 -- .venv/bin/python -m integration.slow

prints the output that docs/slow.md explains. Everything it makes is gone when it ends.
"""

from __future__ import annotations

import errno
import socket
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib import crafted, links, manifests, traffic, udp
from integration.lib.agent import running
from integration.lib.topology import joined_pair
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from integration.lib.agent import Agent
    from integration.lib.topology import Pair

AGENT_PORT = 10001
PORT = 8080
HIDDEN = ("node", "ns", "task", "labels")
ITEMS = {
    "pod": [
        *("ipReceive", "ipSend", "ipDrop", "ipError"),
        *("tcpReceive", "tcpSend", "tcpRetrans", "tcpDrop", "tcpError", "tcpNewConnection", "tcpConnectFail"),
        *("udpReceive", "udpSend"),
    ],
    "flow": ["tcpRtt"],
}
SETTLE = 3.0
"""Seconds, in which SYNs are sent again."""

Moved = dict[str, int]


@dataclass(frozen=True)
class Cause:
    """One reason."""

    title: str
    made: Callable[[Pair], None]
    shown: tuple[str, ...]
    """Beginnings of metrics."""


def full_queue(pair: Pair) -> None:
    """The server's program does not accept: there is room for two connections."""
    with (
        traffic.open_socket(pair.b, "ipv4", socket.SOCK_STREAM) as server,
        ExitStack() as stack,
    ):
        server.bind((pair.b.ipv4, PORT))
        server.listen(1)
        for _ in range(6):
            client = stack.enter_context(traffic.open_socket(pair.a, "ipv4", socket.SOCK_STREAM))
            client.settimeout(0)
            assert client.connect_ex((pair.b.ipv4, PORT)) == errno.EINPROGRESS
        time.sleep(SETTLE)


def no_server(pair: Pair) -> None:
    """Nobody listens."""
    assert traffic.refused(pair.a, pair.b, "ipv4", count=10, port=PORT) == 10


def lossy(pair: Pair) -> None:
    """The client's queue loses 3 %."""
    with links.offloads(pair.a, pair.b, tso=False, gso=False, gro=False), links.netem(pair.a, loss=3):
        traffic.iperf3(pair.a, pair.b, "ipv4", size=2_000_000)


def slow_path(pair: Pair) -> None:
    """100 ms each way."""
    with links.netem(pair.a, delay=100), links.netem(pair.b, delay=100):
        traffic.connections(pair.a, pair.b, "ipv4", count=10)


def firewall(pair: Pair) -> None:
    """A rule in the server's namespace drops what is for its port."""
    rule = f"table inet f {{ chain c {{ type filter hook input priority 0; tcp dport {PORT} drop; }}; }}"
    pair.b.netns.run(["nft", rule])
    try:
        with traffic.open_socket(pair.a, "ipv4", socket.SOCK_STREAM) as client:
            client.settimeout(SETTLE)
            with suppress(TimeoutError):
                client.connect((pair.b.ipv4, PORT))
    finally:
        pair.b.netns.run(["nft", "delete", "table", "inet", "f"])


def full_socket(pair: Pair) -> None:
    """The server's program reads its datagrams too late."""
    udp.overflowing(pair.a, pair.b, "ipv4", count=200, size=1000)


def corrupt(pair: Pair) -> None:
    """Something on the way turns bits over."""
    with crafted.wire(pair.a, pair.b) as wire:
        for number in range(20):
            segment = crafted.tcp(
                "ipv4", (pair.a.ipv4, 4000), (pair.b.ipv4, PORT), crafted.ACK, wrong_sum=number % 2 == 0
            )
            wire.send(segment, "ipv4")


CAUSES = (
    Cause("the program does not accept fast enough", full_queue, ("tcp_connect_failures", "tcp_retransmits")),
    Cause("the program is not there", no_server, ("tcp_connect_failures", "tcp_new_connections")),
    Cause("packets are lost", lossy, ("ip_drop", "tcp_retransmits")),
    Cause("the path is slow", slow_path, ("flow_tcp_rtt_microseconds_sum", "flow_tcp_rtt_microseconds_count")),
    Cause("a rule drops packets", firewall, ("tcp_drop", "tcp_retransmits", "tcp_connect_failures")),
    Cause("the program does not read fast enough", full_socket, ("ip_drop", "udp_")),
    Cause("packets arrive corrupt", corrupt, ("tcp_errors", "tcp_drop")),
)


def series(agent: Agent, shown: tuple[str, ...]) -> Moved:
    """The series of some metrics, as Prometheus writes them."""
    found: Moved = {}
    prefixes = tuple(f"dolphin_{beginning}" for beginning in shown)
    for (name, labels), value in agent.metrics().monitored().items():
        if name.startswith(prefixes):
            told = (f'{key}="{text}"' for key, text in sorted(labels) if key not in HIDDEN)
            found[f"{name}{{{', '.join(told)}}}"] = int(value)
    return found


def increase(agent: Agent, cause: Cause, before: Mapping[str, int]) -> Moved:
    """What has grown, once it grows no more."""
    last: Moved = {}

    def rests() -> bool:
        nonlocal last
        previous, last = last, series(agent, cause.shown)
        return previous == last

    wait_until(rests, deadline=30, what="the numbers rest", interval=1)
    return {name: grown for name, value in sorted(last.items()) if (grown := value - before.get(name, 0))}


def main() -> int:
    """Print each cause; 1 where the agent shows nothing of one."""
    missing = []
    with tempfile.TemporaryDirectory(prefix="dolphin-slow-") as directory, joined_pair("dolphin-slow") as pair:
        root = Path(directory)
        written = manifests.Manifests(root)
        for granularity, items in ITEMS.items():
            written.write_policy(granularity, items, granularity=granularity)
        pods = {"client": pair.a, "server": pair.b}
        written.write_pods(
            *(manifests.PodManifest(name, pod.netns.path, ips=(pod.ipv4, pod.ipv6)) for name, pod in pods.items())
        )
        with running(written, root, port=AGENT_PORT) as agent:
            agent.wait_ready()
            for cause in CAUSES:
                before = series(agent, cause.shown)
                cause.made(pair)
                moved = increase(agent, cause, before)
                print(f"\n--- {cause.title}")
                for name, value in moved.items():
                    print(f"{name} +{value}", flush=True)
                if not moved:
                    missing.append(cause.title)
    print("\nnothing shown of: " + ", ".join(missing) if missing else "")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
