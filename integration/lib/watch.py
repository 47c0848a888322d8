"""The agent's own engine and ledger in the test's process: the test says when the kernel's counters are drained."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.pods.backend import Backend
from dolphin_agent.pods.model import Pod as PodModel
from dolphin_agent.policy.model import MonitorPolicy
from dolphin_agent.policy.vocabulary import ITEMS, NAMESPACE, Granularity
from dolphin_agent.probes.engine import Engine
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.snapshot.ledger import Ledger
from integration.lib import judge
from integration.lib.agent import Samples

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from dolphin_agent.probes.engine import Drain, EngineStatus
    from dolphin_agent.snapshot.model import Distribution

_FOREVER = 3600.0


class Watch:
    """Every item of some pods, or some, per pod and per flow."""

    def __init__(
        self, netns: Mapping[str, int], engine: Limits, ledger: Limits, items: Collection[str] = ITEMS.keys()
    ) -> None:
        """Begin to count namespaces, name -> number, as pods of the namespace `default`."""
        self._engine = Engine(engine)
        self._ledger = Ledger(ledger, _FOREVER)
        policies = [
            MonitorPolicy(
                NAMESPACE,
                granularity.value,
                monitor=FrozenMap({name: granularity for name in items if granularity in ITEMS[name].granularities}),
            )
            for granularity in Granularity
        ]
        backends = [
            Backend(PodModel("default", name, f"uid-{name}", FrozenMap({}), f"/run/netns/{name}"), number)
            for name, number in netns.items()
        ]
        plan = make_plan(policies, backends)
        self._engine.apply(plan)
        assert self._engine.status.kinds, self._engine.status
        without = self._engine.status.without_slot
        self._ledger.follow([one for one in plan.series if one.backend not in without], time.time())

    @property
    def status(self) -> EngineStatus:
        """What the kernel side does."""
        return self._engine.status

    def drain(self) -> Drain:
        """Credit what was counted, and return it."""
        drain = self._engine.drain()
        self._ledger.credit(drain, time.time())
        return drain

    def samples(self) -> Samples:
        """Drain, and return all counters as a scrape would show them."""
        self.drain()
        families = self._ledger.snapshot(time.time()).families
        points = ((family.metric.name, point) for family in families for point in family.points)
        return Samples({(name, frozenset(point.labels)): float(point.value) for name, point in points})

    def distributions(self) -> dict[tuple[str, str, str], Distribution]:
        """Drain, and return the flows' round-trip times: (ipfamily, srcport, dstport) -> all samples so far."""
        self.drain()
        return {
            (labels["ipfamily"], labels["srcport"], labels["dstport"]): point.value
            for family in self._ledger.snapshot(time.time()).families
            for point in family.distributions
            if (labels := dict(point.labels))["protocol"] != "other"
        }

    def lost_samples(self) -> int:
        """Round-trip samples that may be missing."""
        return sum(count for (item, _), count in self._engine.lost().items() if item in ("tcpRtt", "all"))

    def lost(self) -> dict[tuple[str, str], int]:
        """(item, reason) -> events that may be missing, where there are any."""
        return {key: count for key, count in self._engine.lost().items() if count and key[0] in {*judge.ITEMS, "all"}}

    def close(self) -> None:
        """Detach."""
        self._engine.close()


@contextmanager
def watching(
    netns: Mapping[str, int],
    engine: Limits | None = None,
    ledger: Limits | None = None,
    items: Collection[str] = ITEMS.keys(),
) -> Iterator[Watch]:
    """Watch for the length of a block; `ledger` has the limits of the engine unless it is given its own."""
    engine = engine or Limits()
    watch = Watch(netns, engine, ledger or engine, items)
    try:
        yield watch
    finally:
        watch.close()
