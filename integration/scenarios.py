"""The traffic that every item is judged by, with packets merged on their way (GSO, GRO) and not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from integration.lib import links, traffic, udp
from integration.lib.agent import Samples
from integration.lib.counters import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.lib.agent import Agent
    from integration.lib.counters import Counters, Family
    from integration.lib.topology import Pair

PRIME = 23
BULK = 3_000_000
LOSS = 2.0
"""Per cent."""


def bulk_ipv4(pair: Pair) -> None:
    """TCP both ways, IPv4."""
    traffic.iperf3(pair.a, pair.b, "ipv4", size=BULK)
    traffic.iperf3(pair.a, pair.b, "ipv4", "--reverse", size=BULK)


def bulk_ipv6(pair: Pair) -> None:
    """TCP both ways, IPv6."""
    traffic.iperf3(pair.a, pair.b, "ipv6", size=BULK)
    traffic.iperf3(pair.a, pair.b, "ipv6", "--reverse", size=BULK)


def short_connections(pair: Pair) -> None:
    """Many short connections, and some refused."""
    for family in FAMILIES:
        traffic.connections(pair.a, pair.b, family, count=PRIME)
        assert traffic.refused(pair.a, pair.b, family, count=7) == 7


def udp_fragments(pair: Pair) -> None:
    """UDP datagrams that fit a packet, and some that take three."""
    for family in FAMILIES:
        traffic.datagrams(pair.a, pair.b, family, count=PRIME, size=300)
        traffic.datagrams(pair.a, pair.b, family, count=PRIME, size=4000)


def udp_undelivered(pair: Pair) -> None:
    """UDP datagrams that nobody listens for, and some that their receiver has no room for."""
    for family in FAMILIES:
        udp.refused(pair.a, pair.b, family, count=PRIME, size=300)
        assert udp.overflowing(pair.a, pair.b, family, count=10 * PRIME, size=1000) < 10 * PRIME


def pings(pair: Pair) -> None:
    """Echo requests and answers, some of them fragmented."""
    for family in FAMILIES:
        assert traffic.ping(pair.a, pair.b, family, count=PRIME) == PRIME
        assert traffic.ping(pair.a, pair.b, family, count=PRIME, size=4000) == PRIME


def lossy(pair: Pair) -> None:
    """TCP over a path that loses packets, so that segments and SYNs are sent again."""
    with links.netem(pair.a, loss=LOSS), links.netem(pair.b, loss=LOSS):
        for family in FAMILIES:
            traffic.iperf3(pair.a, pair.b, family, size=BULK)
            traffic.connections(pair.a, pair.b, family, count=PRIME)


SCENARIOS: Mapping[str, Callable[[Pair], None]] = {
    made.__name__: made
    for made in (bulk_ipv4, bulk_ipv6, short_connections, udp_fragments, udp_undelivered, pings, lossy)
}
LOSS_FREE = [name for name in SCENARIOS if name != lossy.__name__]
MODES = ("merged", "unmerged")


@contextmanager
def mode(name: str, pair: Pair) -> Iterator[None]:
    """Merge packets wherever the kernel can, or nowhere."""
    merges = name == "merged"
    with ExitStack() as stack:
        stack.enter_context(links.offloads(pair.a, pair.b, tso=merges, gso=merges, gro=merges))
        if not merges:
            stack.enter_context(links.unmerged(pair.a, pair.b))
        yield


GRANULARITIES = ("pod", "flow")
"""An agent each: one that is asked for pods only, and one that is asked for flows as well."""

Scrapes = Mapping[str, Samples]
"""Granularity -> a scrape of its agent."""


@dataclass(frozen=True)
class PodResult:
    """What one pod did during a scenario, by the kernel and by the agents."""

    pod: str
    """The label `pod`."""
    kernel: Counters
    before: Scrapes
    after: Scrapes

    def agent(self, metric: str, granularity: str = "pod", **labels: str) -> int:
        """The increase of an agent's number, named as at pod granularity; of flows, all together with `other`."""
        if granularity == "flow":
            metric = metric.replace("dolphin_", "dolphin_flow_")
        return self.increase(metric, granularity, **labels)

    def increase(self, metric: str, granularity: str, **labels: str) -> int:
        """The increase of a metric at one of the agents."""
        labels["pod"] = self.pod
        after, before = self.after[granularity], self.before[granularity]
        return int(after.value(metric, **labels) - before.value(metric, **labels))


@dataclass(frozen=True)
class Result:
    """One scenario in one mode."""

    scenario: str
    mode: str
    a: PodResult
    b: PodResult

    @property
    def ends(self) -> tuple[PodResult, PodResult]:
        """Both pods."""
        return self.a, self.b

    def other(self, end: PodResult) -> PodResult:
        """The pod at the other end."""
        return self.b if end is self.a else self.a

    def received_at(self, sender: PodResult, family: Family) -> int:
        """Packets that arrived at the other end, by the kernel there."""
        return self.other(sender).kernel.ip_receive_packets(family)


class Bench:
    """Two pods and the agents that count everything; each scenario runs once and is judged by many tests."""

    def __init__(self, pair: Pair, agents: Mapping[str, Agent]) -> None:
        self.pair = pair
        self.agents = agents
        self._results: dict[tuple[str, str], Result] = {}

    def result(self, scenario: str, mode_name: str) -> Result:
        """Run the scenario, or return what it gave before."""
        key = (scenario, mode_name)
        if key not in self._results:
            self._results[key] = self._run(*key)
        return self._results[key]

    def _run(self, scenario: str, mode_name: str) -> Result:
        with mode(mode_name, self.pair):
            before, kernel_before = self._settled()
            SCENARIOS[scenario](self.pair)
            after, kernel_after = self._settled()
        a, b = (
            PodResult(f"default/{name}", now - then, before, after)
            for name, now, then in zip(("a", "b"), kernel_after, kernel_before, strict=True)
        )
        return Result(scenario, mode_name, a, b)

    def _settled(self) -> tuple[Scrapes, tuple[Counters, Counters]]:
        """Scrapes of all agents and a reading of the kernel's counters that belong together."""
        flow = Samples({})

        def judge() -> tuple[object, Counters, Counters]:
            nonlocal flow
            flow = self.agents["flow"].metrics()
            return flow.monitored(), self.pair.a.counters(), self.pair.b.counters()

        pod, (_, a, b) = self.agents["pod"].settled(judge, deadline=60)
        return {"pod": pod, "flow": flow}, (a, b)
