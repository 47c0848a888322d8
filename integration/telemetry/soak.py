"""Whether an agent that has run for long is as it was: after many pods, many flows, a collector that was away.

`make soak`; each part by itself with `--pods`, `--flows` or `--outage`. Ends with 1 where something grew.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib import bpf, packets
from integration.lib.agent import running
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.netns import many_netns
from integration.lib.topology import joined_pair
from integration.lib.wait import wait_until
from integration.telemetry.faulty import OK, Fault, Faulty
from integration.telemetry.otlp import Point

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from integration.lib.agent import Agent
    from integration.lib.netns import Netns
    from integration.lib.topology import Pair
    from integration.telemetry.faulty import Received

PORT = 10006
PODS, FLOWS, OUTAGE = 10_000, 1_000_000, 600
AT_ONCE = 100
"""Pods that are there at the same time."""
SPRAY = 15_000
"""Flows that are there at the same time: fewer than --max-flows, so that each is kept in detail."""
TOLERANCE = 0.05
EFFECT = 30
IDLE = 1.0
"""Seconds, of --flow-idle-timeout."""
INTERVAL = 5.0
SENT = "dolphin_ip_send_packets_total"
FLOW_SENT = "dolphin_flow_ip_send_packets_total"
LINES = 5
"""Of the log, whatever is away for however long, besides one a minute."""


@dataclass(frozen=True)
class Vitals:
    """What must not grow."""

    series: int
    pods: int
    flows: int
    map_bytes: int
    programs: int
    descriptors: int
    threads: int
    rss: int


def vitals(agent: Agent, programs: frozenset[int]) -> Vitals:
    """Read them at rest: after a scrape that nothing comes of any more; `programs` are those of others."""
    agent.metrics()
    time.sleep(1)
    samples = agent.metrics()
    series, pods, flows, map_bytes = (
        int(samples.value(f"dolphin_agent_{name}")) for name in ("series", "pods", "flows", "map_bytes")
    )
    process = Path("/proc") / str(agent.process.pid)
    descriptors, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    attached = len(bpf.program_ids() - programs)
    return Vitals(series, pods, flows, map_bytes, attached, descriptors, threads, agent.rss())


def compared(title: str, before: Vitals, after: Vitals) -> bool:
    """Print both; whether nothing is above what it was by more than the tolerance."""
    print(f"{title:40}{'before':>12}{'after':>12}")
    good = True
    for field, old, new in zip(fields(Vitals), astuple(before), astuple(after), strict=True):
        grew = new > old * (1 + TOLERANCE)
        good = good and not grew
        print(f"  {field.name:38}{old:12}{new:12}{'   grew' if grew else ''}", flush=True)
    return good


@contextmanager
def agent_of(manifests: Manifests, work: str, *options: str) -> Iterator[tuple[Agent, frozenset[int]]]:
    """An agent, and the programs that were there before."""
    programs = bpf.program_ids()
    with running(manifests, Path(work), port=PORT, options=options) as agent:
        agent.wait_ready()
        yield agent, programs


def say(netns: Sequence[Netns]) -> None:
    """One datagram in each namespace, to itself."""
    for one in netns:
        with one.entered():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with made:
            made.bind(("127.0.0.1", 0))
            made.sendto(b"", made.getsockname())


def pods_come_and_go(count: int) -> bool:
    """New pods in place of the old ones, again and again."""
    with tempfile.TemporaryDirectory() as work, many_netns(AT_ONCE, "soak") as netns:
        for one in netns:
            with one.routes() as routes:
                routes.link("set", index=1, state="up")
        manifests = Manifests(Path(work))
        manifests.write_policy("pod", ["ipSend", "tcpNewConnection"])
        manifests.write_policy("flow", ["ipSend", "tcpRtt"], granularity="flow")

        def turn(number: int) -> None:
            pods = [PodManifest(f"p{number}-{place}", one.path) for place, one in enumerate(netns)]
            manifests.write_pods(*pods)
            last = {"pod": pods[-1].label, "ipfamily": "ipv4"}
            wait_until(lambda: agent.metrics().series(SENT, **last), deadline=EFFECT, what="they are counted")
            say(netns)
            wait_until(lambda: agent.value(SENT, **last) == 1, deadline=EFFECT, what="one datagram each")

        with agent_of(manifests, work) as (agent, programs):
            for number in range(3):
                turn(number)
            before = vitals(agent, programs)
            turns = count // AT_ONCE
            for number in range(turns):
                turn(3 + number)
            return compared(f"{turns * AT_ONCE} pods", before, vitals(agent, programs))


def flows_come_and_go(count: int) -> bool:
    """New flows once the old ones are idle, again and again."""
    options = ["--flow-idle-timeout", f"{IDLE}s", "--collect-interval", "1s"]
    with tempfile.TemporaryDirectory() as work, joined_pair("soak") as pair:
        manifests = Manifests(Path(work))
        manifests.write_policy("flow", ["ipSend", "tcpSend"], granularity="flow")
        manifests.write_pods(PodManifest("a", pair.a.netns.path))

        def turn(number: int) -> None:
            # Neither port is folded, both being below 32768.
            packets.udp(pair.a, pair.b, "ipv4", ports=((1 + number, 1024 + port) for port in range(SPRAY)))
            wait_until(lambda: agent.value("dolphin_agent_flows") > SPRAY / 2, deadline=EFFECT, what="they are kept")
            wait_until(lambda: agent.value("dolphin_agent_flows") == 0, deadline=EFFECT, what="they are idle")

        with agent_of(manifests, work, *options) as (agent, programs):
            wait_until(lambda: agent.metrics().series(FLOW_SENT), deadline=EFFECT, what="they are counted")
            for number in range(5):
                turn(number)
            before, seen = vitals(agent, programs), agent.value(FLOW_SENT)
            turns = -(-count // SPRAY)
            for number in range(turns):
                turn(5 + number)
            after = vitals(agent, programs)
            counted = agent.value(FLOW_SENT) - seen
            assert counted == turns * SPRAY, f"{counted} packets, not {turns * SPRAY}"
            assert agent.value("dolphin_agent_flows_refused_total") == 0
            return compared(f"{turns * SPRAY} flows", before, after)


def total(received: Received) -> int:
    """Packets that pod a has sent, by one request."""
    points = (point for metric in received.metrics if metric.name == SENT for point in metric.points)
    return sum(int(point.value) for point in points if isinstance(point, Point))


def collector_goes_away(seconds: float) -> bool:
    """Traffic goes on meanwhile; what was counted is in the first push after it."""
    with tempfile.TemporaryDirectory() as work, joined_pair("soak") as pair, Faulty() as collector:
        manifests = Manifests(Path(work))
        manifests.write_policy("pod", ["ipSend"])
        manifests.write_policy("flow", ["ipSend"], granularity="flow")
        manifests.write_pods(PodManifest("a", pair.a.netns.path))
        options = ["--otlp-endpoint", collector.url, "--collect-interval", f"{INTERVAL}s"]
        with agent_of(manifests, work, *options) as (agent, programs):
            wait_until(lambda: agent.metrics().series(SENT), deadline=EFFECT, what="it is counted")
            began = pair.a.counters()
            exchange(pair)
            collector.wait_received(3, deadline=EFFECT)
            before, lines = vitals(agent, programs), agent.log.count("\n")
            collector.set(Fault.ABSENT)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                exchange(pair)
                agent.metrics()
                time.sleep(INTERVAL)
            moved = pair.a.counters() - began
            sent = moved.ip_send_packets("ipv4") + moved.ip_send_packets("ipv6")
            said = agent.log.count("\n") - lines
            after = vitals(agent, programs)
            requests = len(collector.received)
            collector.set(OK)
            back = time.monotonic()
            first = collector.wait_received(requests + 1, deadline=EFFECT)[requests]
            late = first.at - back
            print(f"away for {seconds:.0f} s: {said} lines of log")
            print(f"first push after {late:.1f} s, with {total(first)} of {sent} packets")
            good = compared("a collector that was away", before, after)
            return good and total(first) == sent and late <= 2 * INTERVAL and said <= LINES + seconds / 60


def exchange(pair: Pair) -> None:
    """A hundred flows, the same each time."""
    packets.udp(pair.a, pair.b, "ipv4", ports=((1, 1024 + port) for port in range(100)))


def main() -> int:
    """Run what is asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, metavar="N", help=f"this many pods ({PODS})")
    parser.add_argument("--flows", type=int, metavar="N", help=f"this many flows ({FLOWS})")
    parser.add_argument("--outage", type=float, metavar="S", help=f"a collector that is away for so long ({OUTAGE} s)")
    options = parser.parse_args()
    chosen = [options.pods, options.flows, options.outage]
    if not any(chosen):
        chosen = [PODS, FLOWS, OUTAGE]
    parts = zip((pods_come_and_go, flows_come_and_go, collector_goes_away), chosen, strict=True)
    good = [part(size) for part, size in parts if size]
    print("as before" if all(good) else "NOT as before")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
