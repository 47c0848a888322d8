"""The guest's part: put the same load on each configuration of the agent, and write down what each event costs.

`python -m integration.bench` runs it, once per kernel. The load comes in batches, of which the median counts: a timer's
interrupt in the middle of a program spoils only the batch it falls into.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from integration.bench import load, programs, reference
from integration.bench.report import RESULTS, Measured
from integration.lib import bpf, crafted, packets
from integration.lib.agent import Agent, running
from integration.lib.counters import FAMILIES
from integration.lib.drops import dropping
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.netns import Netns, new_netns
from integration.lib.topology import Pair, joined_pair
from integration.lib.wait import wait_until
from integration.vm.boot import OUT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from integration.bench.programs import Programs, Runs

BATCHES = 11
DATAGRAMS = 200
"""In a batch: four over each flow."""
EXCHANGES = 200
"""In a batch."""
CONNECTIONS = 50
"""In a batch."""

BULK = 256 << 10
"""Bytes of a batch: so few that most batches see no timer interrupt, and take the same to the instruction."""
BULK_BATCHES = 41
BULK_BEFORE = 16 << 20
"""Bytes after which windows and buffers have grown as far as they do."""
BULK_DRIFT = 0.0005
"""By what share the same work may differ before and after."""
MEGABYTE = 1_000_000

IP_PER_POD = {"ipReceive": "pod", "ipSend": "pod"}
IP_PER_FLOW = {"ipReceive": "flow", "ipSend": "flow"}
UDP_PER_POD = {"udpReceive": "pod", "udpSend": "pod"}
UDP_PER_FLOW = {"udpReceive": "flow", "udpSend": "flow"}
FAILURES = {"tcpConnectFail": "pod"}
DROPS_PER_POD = {"ipDrop": "pod", "tcpDrop": "pod"}
DROPS_PER_FLOW = {"ipDrop": "flow", "tcpDrop": "flow"}
ERRORS = {"ipError": "pod", "tcpError": "pod"}
RTT = {"tcpRtt": "flow"}
TCP_PER_FLOW = {"tcpReceive": "flow", "tcpSend": "flow", "tcpRetrans": "flow", **RTT}
ALL_ITEMS = {**IP_PER_FLOW, **TCP_PER_FLOW, "tcpNewConnection": "pod"}
"""Each at the finest granularity that it has."""

PROBE = "tcp_probe"
DROPPED = "kfree_skb"
RECEIVE = {"ipv4": "ip_rcv_core", "ipv6": "ip6_rcv_core"}
SEND = "net_dev_queue"
UDP_RECEIVE = {"ipv4": "udp4_rcv", "ipv6": "udp6_rcv"}
UDP_SEND = "udp_dev_queue"
TITLES = {"ipv4": "IPv4", "ipv6": "IPv6"}

TCP_ACK = 16

_DEADLINE = 15
"""Seconds for the agent to take in what was written, for the kernel to free programs: both take about one."""


@dataclass(slots=True)
class Bench:
    """Two joined pods, a third one beside them, and what was measured so far."""

    pair: Pair
    idle: Netns
    work: Path
    measured: Measured = field(default_factory=Measured)

    @property
    def pods(self) -> tuple[PodManifest, PodManifest]:
        """The two ends of the load as the agent is told of them."""
        return PodManifest("a", self.pair.a.netns.path), PodManifest("b", self.pair.b.netns.path)

    def note(self, row: str, value: float | None, unit: str = "instructions") -> None:
        """Keep one row; None where its program did not run."""
        self.measured.rows[row] = value
        print(f"{row}: {'not attached' if value is None else f'{value:.1f} {unit}'}", flush=True)


@dataclass(frozen=True, slots=True)
class Watching:
    """An agent and the files that it watches."""

    agent: Agent
    manifests: Manifests

    def watch(self, *pods: PodManifest) -> None:
        """Tell the agent that other pods are there now, and wait until it follows."""
        self.manifests.write_pods(*pods)
        wait_until(lambda: self._selected() == {len(pods)}, deadline=_DEADLINE, what=f"{len(pods)} pods are selected")

    def items(self) -> set[str]:
        """Return the names of the items for which the kernel is asked."""
        items: list[dict[str, str]] = self._status()["items"]
        return {item["item"].split()[0] for item in items if item["hooks"]}

    def counts(self, pods: Sequence[PodManifest]) -> bool:
        """Whether the agent exports, within a few seconds, anything that happened in each of the pods."""

        def exported() -> bool:
            samples = self.agent.metrics().monitored()
            found = {dict(labels).get("pod") for (_, labels), value in samples.items() if value > 0}
            return found >= {pod.label for pod in pods}

        try:
            return wait_until(exported, deadline=_DEADLINE, what="the agent counts", interval=0.5)
        except TimeoutError:
            return False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the agent for the length of a block."""
        process = self.agent.process
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _state(process.pid) == "T", deadline=_DEADLINE, what="the agent is stopped")
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _selected(self) -> set[int]:
        tasks: dict[str, int] = self._status()["tasks"]
        return set(tasks.values())

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.agent.get("/readyz")[1])
        return status


@contextmanager
def watching(bench: Bench, items: Mapping[str, str], pods: Sequence[PodManifest]) -> Iterator[Watching]:
    """Run the agent, asked for items at a granularity each, for the length of a block; then its programs are gone."""
    before = bpf.program_ids()
    with tempfile.TemporaryDirectory(dir=bench.work) as directory:
        manifests = Manifests(Path(directory))
        for granularity in sorted(set(items.values())):
            asked = [item for item, wanted in items.items() if wanted == granularity]
            manifests.write_policy(granularity, asked, granularity=granularity)
        manifests.write_pods(*pods)
        with running(manifests, Path(directory)) as agent:
            agent.wait_ready()
            yield Watching(agent, manifests)
    wait_until(lambda: bpf.program_ids() <= before, deadline=_DEADLINE, what="the agent's programs are gone")


def per_run(held: Programs, put: Callable[[], None]) -> dict[str, float]:
    """Return the instructions of one run of each program that ran under a load."""
    put()
    batches = [_difference(held, put) for _ in range(BATCHES)]
    return {
        name: statistics.median(batch[name].nanoseconds / batch[name].count for batch in batches)
        for name in batches[0]
        if all(batch[name].count for batch in batches)
    }


def per_event(held: Programs, put: Callable[[], None], events: int) -> float:
    """Return the instructions of all programs together that a load of so many events takes for each."""
    put()
    batches = [_difference(held, put) for _ in range(BATCHES)]
    return statistics.median(sum(runs.nanoseconds for runs in batch.values()) / events for batch in batches)


def _difference(held: Programs, put: Callable[[], None]) -> dict[str, Runs]:
    before = held.read()
    put()
    return {name: after - before[name] for name, after in held.read().items()}


def measure_reference(bench: Bench) -> None:
    """Programs that do nothing, and the naive flow counter."""
    rows = {
        "empty_receive": "empty program: ip_rcv_core",
        "empty_send": "empty program: net_dev_queue",
        "empty_probe": "empty program: tcp_probe",
        "naive_flows": "naive flow counter: ip_rcv_core",
    }
    ends = (bench.pair.a, bench.pair.b)
    with (
        reference.attached(list(rows), ends),
        programs.loaded() as held,
        load.datagrams(bench.pair, "ipv4") as datagrams,
        load.connection(bench.pair) as connection,
    ):
        costs = per_run(held, partial(connection.exchange, EXCHANGES))
        costs |= per_run(held, partial(datagrams.send, DATAGRAMS))
    for program, row in rows.items():
        bench.note(row, costs.get(program))


def measure_unwatched(bench: Bench) -> float | None:
    """What everyone pays for the programs' being there; returns the cost of `tcp_probe`."""
    idle = PodManifest("idle", bench.idle.path)
    with watching(bench, {**IP_PER_POD, **RTT}, [idle]) as watched, watched.frozen(), programs.loaded() as held:
        _datagrams(bench, held, "not monitored")
        with load.connection(bench.pair) as connection:
            cost = per_run(held, partial(connection.exchange, EXCHANGES)).get(PROBE)
    bench.note("not monitored: tcp_probe", cost)
    return cost


def measure_datagrams(bench: Bench, items: Mapping[str, str], title: str) -> None:
    """Datagrams of both families, of pods that are monitored."""
    with watching(bench, items, bench.pods) as watched, programs.loaded() as held:
        with watched.frozen():
            ran = _datagrams(bench, held, title)
        _check(bench, watched, title, ran=ran)


def measure_udp(bench: Bench, items: Mapping[str, str], title: str) -> None:
    """Datagrams of pods that have UDP monitored and nothing else, and what is no datagram."""
    with watching(bench, items, bench.pods) as watched, programs.loaded() as held:
        with watched.frozen():
            ran = _datagrams(bench, held, title, UDP_RECEIVE, UDP_SEND)
            with load.connection(bench.pair) as connection:
                costs = per_run(held, partial(connection.exchange, EXCHANGES))
            for program in (UDP_RECEIVE["ipv4"], UDP_SEND):
                bench.note(f"{title}, a segment of TCP: {program}", costs.get(program))
        _check(bench, watched, title, ran=ran)


def measure_failures(bench: Bench) -> None:
    """What all programs together take for a connection that is refused, and for one that is not, at both its ends."""
    with watching(bench, FAILURES, bench.pods) as watched, programs.loaded() as held:
        with watched.frozen(), load.listening(bench.pair) as listener:
            for title, put in (
                ("refused", partial(load.refused, bench.pair, CONNECTIONS)),
                ("accepted", partial(load.accepted, bench.pair, listener, CONNECTIONS)),
            ):
                cost = per_event(held, put, CONNECTIONS)
                bench.note(f"tcpConnectFail, connection {title}: all programs", cost)
        _check(bench, watched, "tcpConnectFail", ran=True, pods=bench.pods[:1])


def measure_drops(bench: Bench, items: Mapping[str, str], title: str) -> None:
    """Datagrams of both families and segments that a rule drops in the pod that they are for."""
    ran = False
    receiver = bench.pods[1]
    segment = struct.pack("!HHIIBBHHH", 40000, 7000, 1, 1, 5 << 4, TCP_ACK, 1024, 0, 0)
    with (
        watching(bench, items, [receiver]) as watched,
        programs.loaded() as held,
        dropping(bench.pair.b.netns, "input", "meta l4proto { tcp, udp } th dport 7000"),
    ):
        with watched.frozen():
            for family in FAMILIES:
                with load.datagrams(bench.pair, family) as datagrams:
                    costs = per_run(held, partial(datagrams.lose, DATAGRAMS))
                bench.note(f"{title}, {TITLES[family]}: {DROPPED}", _only(costs, DROPPED))
                ran |= bool(costs)
            send = partial(packets.raw, bench.pair.a, bench.pair.b, "ipv4", protocol=socket.IPPROTO_TCP, packet=segment)
            costs = per_run(held, partial(send, count=DATAGRAMS))
            bench.note(f"{title}, TCP: {DROPPED}", _only(costs, DROPPED))
        if ran and not watched.counts([receiver]):
            bench.measured.errors.append(f"{title}: programs run, but the agent exports nothing of the pod")


def _only(costs: Mapping[str, float], prefix: str) -> float | None:
    """The cost of the one program whose name begins so; there are several for a hook, one of which runs."""
    return next((cost for name, cost in costs.items() if name.startswith(prefix)), None)


def measure_refused(bench: Bench) -> None:
    """Packets that the receiver refuses, and one that is dropped for what has nothing to do with it.

    Each is freed once, where one program for IP and one for TCP look at it: a row has both.
    """
    sender, receiver = bench.pair.a, bench.pair.b
    closed, own = (receiver.ipv4, 9), (sender.ipv4, 1000)
    rows = {
        "refused, IPv4 checksum": crafted.ipv4(sender.ipv4, receiver.ipv4, bytes(200), wrong_sum=True),
        "refused, IPv4 options": crafted.ipv4(sender.ipv4, receiver.ipv4, bytes(200), options=bytes((7, 1, 0, 0))),
        "refused, TCP checksum": crafted.tcp("ipv4", own, closed, crafted.ACK, payload=bytes(200), wrong_sum=True),
        "dropped, no error": crafted.udp("ipv4", own, closed, bytes(200)),
    }
    with (
        watching(bench, ERRORS, bench.pods[1:]) as watched,
        programs.loaded() as held,
        crafted.wire(sender, receiver) as line,
    ):
        with watched.frozen():
            for row, packet in rows.items():
                costs = per_run(held, partial(_send, line, packet))
                bench.note(f"{row}: all programs", sum(costs.values()) if costs else None)
        _check(bench, watched, "refused", ran=True, pods=bench.pods[1:])


def _send(line: crafted.Wire, packet: bytes) -> None:
    for _ in range(DATAGRAMS):
        line.send(packet, "ipv4")


def measure_rtt(bench: Bench, unwatched: float | None) -> None:
    """Round-trip times: segments that give a sample, and such that do not."""
    sampled = other = None
    with (
        watching(bench, RTT, bench.pods) as watched,
        programs.loaded() as held,
        load.connection(bench.pair) as connection,
    ):
        with watched.frozen():
            sampled = per_run(held, partial(connection.exchange, EXCHANGES)).get(PROBE)
        _check(bench, watched, "RTT", ran=sampled is not None)
        if sampled is not None and unwatched is not None:
            watched.watch(bench.pods[1])
            with watched.frozen():
                other = _receiver(bench, held, connection, unwatched)
    bench.note("RTT, sampled: tcp_probe", sampled)
    bench.note("RTT, not sampled: tcp_probe", other)


def _check(
    bench: Bench, watched: Watching, title: str, *, ran: bool, pods: Sequence[PodManifest] | None = None
) -> None:
    # Programs that run but take none of the packets for a pod's would look cheap.
    if ran and not watched.counts(pods or bench.pods):
        bench.measured.errors.append(f"{title}: programs run, but the agent exports nothing of the pods")


def _datagrams(
    bench: Bench, held: Programs, title: str, receive: Mapping[str, str] = RECEIVE, send: str = SEND
) -> bool:
    """Measure what runs for datagrams, of each family, and note it; returns whether anything ran."""
    ran = False
    for family in FAMILIES:
        with load.datagrams(bench.pair, family) as datagrams:
            costs = per_run(held, partial(datagrams.send, DATAGRAMS))
        for program in dict.fromkeys((receive[family], send, *costs)):
            bench.note(f"{title}, {TITLES[family]}: {program}", costs.get(program))
        ran |= bool(costs)
    return ran


def _receiver(bench: Bench, held: Programs, connection: load.Connection, unwatched: float) -> float:
    """Return the cost of `tcp_probe` at pod B, which only receives: nothing comes that a sample could be taken of.

    It also runs at pod A, which is not monitored, once per segment there: what that costs is known.
    """
    costs = []
    connection.bulk(BULK_BEFORE)
    for _ in range(BULK_BATCHES):
        before = bench.pair.a.counters()
        runs = _difference(held, partial(connection.bulk, BULK))[PROBE]
        elsewhere = (bench.pair.a.counters() - before).in_segs
        costs.append((runs.nanoseconds - elsewhere * unwatched) / (runs.count - elsewhere))
    return statistics.median(costs)


class Bulk(NamedTuple):
    """What moving one megabyte takes."""

    instructions: float
    """The guest's, everything included."""
    segments: float
    """As the stack sees them, both directions."""


def bulk(bench: Bench) -> Bulk:
    """Move data over a new connection; returns the median of its batches."""
    ends = (bench.pair.a, bench.pair.b)
    with load.connection(bench.pair) as connection:
        connection.bulk(BULK_BEFORE)
        before = sum(end.counters().in_segs for end in ends)
        times = []
        for _ in range(BULK_BATCHES):
            started = time.monotonic_ns()
            connection.bulk(BULK)
            times.append(time.monotonic_ns() - started)
        segments = sum(end.counters().in_segs for end in ends) - before
    moved = BULK / MEGABYTE
    found = Bulk(statistics.median(times) / moved, segments / BULK_BATCHES / moved)
    print(f"1 MB of TCP: {found.instructions:.0f} instructions, {found.segments:.1f} segments", flush=True)
    return found


def bulk_monitored(bench: Bench, items: Mapping[str, str]) -> Bulk | None:
    """Do the same while the agent monitors both ends; None where it does not count all of the items."""
    with watching(bench, items, bench.pods) as watched:
        with load.connection(bench.pair) as connection:
            connection.bulk(BULK)
        attached = watched.items() >= set(items) and watched.counts(bench.pods)
        with watched.frozen():
            return bulk(bench) if attached else None


def measure_bulk(bench: Bench) -> None:
    """What monitoring both ends adds to a megabyte."""
    bulk(bench)  # the first connection of all takes about 1 % more
    plain = bulk(bench)
    for title, items in (
        ("pod, ipReceive and ipSend", IP_PER_POD),
        ("flow, ipReceive and ipSend", IP_PER_FLOW),
        ("flow, all of IP and TCP", ALL_ITEMS),
    ):
        monitored = bulk_monitored(bench, items)
        added = None if monitored is None else monitored.instructions - plain.instructions
        bench.note(f"{title}: added to 1 MB of TCP", added)
        if monitored and monitored.segments != plain.segments:
            bench.measured.errors.append(f"{title}: {monitored.segments:.1f} segments per MB, not {plain.segments:.1f}")
    again = bulk(bench)
    if abs(again.instructions - plain.instructions) > plain.instructions * BULK_DRIFT:
        bench.measured.errors.append(
            f"1 MB of TCP without the agent: {plain.instructions:.0f} instructions at first, "
            f"{again.instructions:.0f} in the end: too far apart"
        )


def run(bench: Bench) -> None:
    """Measure everything."""
    with programs.statistics():
        measure_reference(bench)
        unwatched = measure_unwatched(bench)
        measure_datagrams(bench, IP_PER_POD, "pod")
        measure_datagrams(bench, IP_PER_FLOW, "flow")
        measure_rtt(bench, unwatched)
        measure_udp(bench, UDP_PER_POD, "pod, UDP")
        measure_udp(bench, UDP_PER_FLOW, "flow, UDP")
        measure_failures(bench)
        measure_drops(bench, DROPS_PER_POD, "pod, dropped")
        measure_drops(bench, DROPS_PER_FLOW, "flow, dropped")
        measure_refused(bench)
    measure_bulk(bench)


def _state(process: int) -> str:
    """Return the letter of a process's state."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def main() -> int:
    """Write the results to where the machine fetches them; returns the exit status."""
    if OUT_VARIABLE not in os.environ:
        sys.stderr.write("this runs in a guest: python -m integration.bench --kernels 6.12\n")
        return 2
    gc.disable()
    with (
        tempfile.TemporaryDirectory(prefix="dolphin-bench-") as work,
        joined_pair("bench") as pair,
        new_netns("bench-idle") as idle,
    ):
        bench = Bench(pair, idle, Path(work))
        run(bench)
    (Path(os.environ[OUT_VARIABLE]) / RESULTS).write_text(bench.measured.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
