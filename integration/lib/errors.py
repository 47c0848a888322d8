"""Malformed packets and what counts them: the kernel by its counters, the agent by its reasons."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from integration.lib import wait
from integration.lib.crafted import Stranger, Wire, wire
from integration.lib.topology import Pair, joined_pair
from integration.lib.watch import Watch, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dolphin_agent.bpf.layouts import Kind
    from integration.lib.agent import Samples
    from integration.lib.counters import Counters, Family

IP_ERRORS = "dolphin_ip_errors_total"
TCP_ERRORS = "dolphin_tcp_errors_total"
_POD = "b"
_PERMANENT = 0x80
_REST = 0.2
_DEADLINE = 20

_IP: Mapping[str, tuple[str, ...]] = {
    "InHdrErrors": ("header", "checksum", "hop_limit"),
    "InTruncatedPkts": ("length",),
    "InAddrErrors": ("address",),
    "InUnknownProtos": ("protocol",),
    "InNoRoutes": ("no_route",),
}
"""The kernel's counters, and the reasons that make each up."""
# The tables that /proc/net has them in.
_EXTENDED = ("InTruncatedPkts", "InNoRoutes", "InCsumErrors")


@dataclass(frozen=True)
class Outcome:
    """What pod B counted meanwhile."""

    kernel: Counters
    before: Samples
    after: Samples

    def agent(self, metric: str, **labels: str) -> int:
        """The increase of an agent's number."""
        labels |= {"pod": f"default/{_POD}", "task": "kube-system/pod"}
        return int(self.after.value(metric, **labels) - self.before.value(metric, **labels))

    def reasons(self, metric: str, **labels: str) -> dict[str, int]:
        """The increase by reason, of what increased."""
        found = {series["reason"] for series in self.after.series(metric, **labels)}
        counts = {reason: self.agent(metric, reason=reason, **labels) for reason in found}
        return {reason: count for reason, count in counts.items() if count}

    def ip(self, family: Family, name: str) -> int:
        """A counter of the kernel's IP."""
        if family == "ipv6":
            return self.kernel[f"Ip6{name}"]
        return self.kernel[f"{'IpExt' if name in _EXTENDED else 'Ip'}.{name}"]

    def assert_ip(self, family: Family) -> None:
        """The reasons add up to the kernel's counters, each of them."""
        found = self.reasons(IP_ERRORS, ipfamily=family)
        ours = {name: sum(found.get(reason, 0) for reason in reasons) for name, reasons in _IP.items()}
        assert ours == {name: self.ip(family, name) for name in _IP}, found
        if family == "ipv4":
            assert found.get("checksum", 0) == self.ip(family, "InCsumErrors")

    def assert_tcp(self, *, missing: int = 0) -> None:
        """InErrs and InCsumErrors, which are of both families; `missing`: what this kernel lets nobody count."""
        found = self.reasons(TCP_ERRORS)
        assert sum(found.values()) == self.kernel["Tcp.InErrs"] - missing, found
        assert found.get("checksum", 0) == self.kernel["Tcp.InCsumErrors"], found


@dataclass(frozen=True)
class Bench:
    """Two pods; B is watched, and what A's end of the wire is given arrives at B."""

    pair: Pair
    wire: Wire
    watch: Watch

    def measured(self, made: Callable[[], object]) -> Outcome:
        """Make something happen, and return what B counted."""
        before, kernel = self.watch.samples(), self._rested()
        made()
        moved = self._rested() - kernel
        return Outcome(moved, before, self.watch.samples())

    def _rested(self) -> Counters:
        return wait.unchanged(self.pair.b.counters, seconds=_REST, deadline=_DEADLINE, what="pod B rests")

    def is_exact(self, kind: Kind) -> bool:
        """Whether this kernel counts a kind in a way that has no differences of its own."""
        (choice,) = (one for one in self.watch.status.choices if kind in one.ladder.kinds)
        assert choice.rung, choice.refusals
        return not choice.rung.inexact


@contextmanager
def bench(prefix: str) -> Iterator[Bench]:
    """Two pods and a watch over B, for the length of a block; B knows the way to strangers."""
    with joined_pair(prefix) as pair, wire(pair.a, pair.b) as line:
        with pair.a.netns.routes() as there:
            (link,) = there.link("get", ifname=pair.a.device)
        with pair.b.netns.routes() as routes:
            (index,) = routes.link_lookup(ifname=pair.b.device)
            for stranger in Stranger.ADDRESS.values():
                hardware = link.get_attr("IFLA_ADDRESS")
                routes.neigh("add", dst=stranger, lladdr=hardware, ifindex=index, state=_PERMANENT)
        with watching({_POD: pair.b.netns.inum}) as watch:
            yield Bench(pair, line, watch)
