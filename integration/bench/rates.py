"""How much two pods get done with the agent counting, and without. `make bench-userspace`.

Two namespaces on this machine move bulk data (iperf3) and exchange messages, one connection each, in turns: without a
policy, with every item of traffic per pod, and per flow. A turn is compared with the one of its own round, since
machines are noisy; the median of all rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from integration.bench import load
from integration.bench.agent import in_force
from integration.lib import judge, traffic
from integration.lib.agent import running
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import joined_pair
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.lib.agent import Agent
    from integration.lib.topology import Pair

PORT = 10006
ROUNDS = 9
BULK_SECONDS = 3
EXCHANGES = 30_000
POLICY = "traffic"
IN_FORCE = 60
"""Seconds."""
WITHOUT = ""
TURNS = (WITHOUT, "pod", "flow")
"""Granularities."""


def rates(pair: Pair) -> tuple[float, float]:
    """Gbit/s of one connection, and messages answered a second over another one."""
    report = traffic.iperf3(pair.a, pair.b, "ipv4", "--time", str(BULK_SECONDS), size=0)
    with load.connection(pair) as connection:
        connection.exchange(EXCHANGES // 10)
        started = time.monotonic()
        connection.exchange(EXCHANGES)
        passed = time.monotonic() - started
    return report["end"]["sum_received"]["bits_per_second"] / 1e9, EXCHANGES / passed


def turn(agent: Agent, manifests: Manifests, pair: Pair, granularity: str) -> tuple[float, float]:
    """The rates under a policy, which is gone afterwards."""
    items = tuple(judge.ITEMS) if granularity else ()
    if granularity:
        manifests.write_policy(POLICY, items, granularity=granularity)
    wait_until(partial(in_force, agent, items, granularity), deadline=IN_FORCE, what="the policy is in force")
    measured = rates(pair)
    if granularity:
        manifests.remove_policy(POLICY)
        wait_until(partial(in_force, agent, (), WITHOUT), deadline=IN_FORCE, what="no policy is in force")
    return measured


def show(title: str, found: Sequence[tuple[float, float]], without: Sequence[tuple[float, float]]) -> None:
    """Print the medians, and those of what was left of each round's rates without a policy."""
    bulk, messages = (statistics.median(one) for one in zip(*found, strict=True))
    ratios = [(with_[0] / plain[0], with_[1] / plain[1]) for with_, plain in zip(found, without, strict=True)]
    of_bulk, of_messages = (statistics.median(one) * 100 for one in zip(*ratios, strict=True))
    print(f"{title:10} {bulk:6.2f} Gbit/s {of_bulk:6.1f} % {messages:8.0f} messages/s {of_messages:6.1f} %", flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"turns of each ({ROUNDS})")
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, float]]] = {granularity: [] for granularity in TURNS}
    with tempfile.TemporaryDirectory(prefix="dolphin-bench-") as directory, joined_pair("dolphin-rates") as pair:
        manifests = Manifests(Path(directory))
        manifests.write_pods(PodManifest("a", pair.a.netns.path), PodManifest("b", pair.b.netns.path))
        with running(manifests, Path(directory), port=PORT) as agent:
            agent.wait_ready()
            for number in range(rounds):
                # Each is the first one as often as the others.
                first = number % len(TURNS)
                for granularity in TURNS[first:] + TURNS[:first]:
                    found[granularity].append(turn(agent, manifests, pair, granularity))
    for granularity in TURNS:
        show(f"per {granularity}" if granularity else "no policy", found[granularity], found[WITHOUT])
    return 0


if __name__ == "__main__":
    sys.exit(main())
