"""What a flood of dropped packets takes with the agent counting it, and without. `make bench-userspace`.

Processes in one namespace of this machine send datagrams as fast as the kernel takes them to another one, where a rule
drops them all; the rule's counter is the judge of what the agent says. Every second packet is of another flow.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from integration.bench.agent import in_force, processor_seconds
from integration.lib.agent import running
from integration.lib.drops import dropping
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import joined_pair
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from integration.lib.topology import Pair

PORT = 10006
ROUNDS = 5
SENDERS = 2
"""At once: one alone is slower than the flood that is asked for."""
FLOWS = 2000
FIRST_PORT = 7000
ITEMS = ("ipDrop", "tcpDrop")
_DROPPED = "dolphin_ip_drop_packets_total"
_SENDER = """
import socket, sys
to, count, flows, first = sys.argv[1], *map(int, sys.argv[2:])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(count):
    sender.sendto(b"x", (to, first + number // 2 % flows))
"""


def flood(pair: Pair, packets: int, flows: int) -> tuple[float, float]:
    """Send them, and return how many a second were, and the processor's nanoseconds for each, senders and kernel."""
    before, started = _children(), time.monotonic()
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _SENDER,
        pair.b.ipv4,
        str(packets // SENDERS),
        str(flows),
        str(FIRST_PORT),
    ]
    with ThreadPoolExecutor(SENDERS) as pool:
        for sent in [pool.submit(pair.a.netns.run, command, timeout=120) for _ in range(SENDERS)]:
            sent.result()
    return packets / (time.monotonic() - started), (_children() - before) / packets * 1e9


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure and print; the status is 1 where the agent counted anything else than the rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000, metavar="N", help="in each round (1000000)")
    parser.add_argument("--flows", type=int, default=FLOWS, metavar="N", help=f"at once ({FLOWS})")
    arguments = parser.parse_args()
    packets, flows = arguments.packets, arguments.flows
    wrong = 0
    with (
        tempfile.TemporaryDirectory(prefix="dolphin-bench-") as directory,
        joined_pair("dolphin-flood") as pair,
        dropping(pair.b.netns, "input", f"udp dport {FIRST_PORT}-{FIRST_PORT + flows - 1}") as rule,
    ):
        manifests = Manifests(Path(directory))
        manifests.write_pods(PodManifest("b", pair.b.netns.path, ips=(pair.b.ipv4, pair.b.ipv6)))
        with running(manifests, Path(directory), port=PORT) as agent:
            agent.wait_ready()
            for title, granularity in (("no policy", ""), ("per pod", "pod"), ("per flow", "flow")):
                if granularity:
                    manifests.write_policy("drops", ITEMS, granularity=granularity)
                    counts = partial(in_force, agent, ITEMS, granularity)
                    wait_until(counts, deadline=60, what="the policy is in force")
                name = _DROPPED if granularity == "pod" else _DROPPED.replace("dolphin_", "dolphin_flow_")
                before, began, used = rule.packets(), time.monotonic(), processor_seconds(agent)
                rates = [flood(pair, packets, flows) for _ in range(ROUNDS)]
                share = (processor_seconds(agent) - used) / (time.monotonic() - began)
                time.sleep(1.1)
                asked = time.monotonic()
                counted = int(agent.value(name, direction="receive")) if granularity else 0
                took, dropped = time.monotonic() - asked, rule.packets() - before
                print(
                    f"{title:10} {max(rate for rate, _ in rates):9.0f} packets/s, "
                    f"{statistics.median(cost for _, cost in rates):5.0f} ns each, "
                    f"agent {share * 100:5.2f} % of a processor, "
                    f"{agent.rss() / 2**20:6.1f} MiB, scrape {took * 1000:4.0f} ms; "
                    f"{dropped} dropped, {counted} counted",
                    flush=True,
                )
                wrong += bool(granularity) and counted != dropped
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
