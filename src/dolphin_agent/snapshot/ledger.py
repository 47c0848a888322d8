"""Adds up drained counts and gives each series its own start.

The kernel counts a kind once per backend however many tasks want it; a task's series is the backend's total less what
it was when the series began.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import Family as IpFamily
from dolphin_agent.bpf.layouts import Kind
from dolphin_agent.bpf.tables import WORDS_PER_SLOT, word
from dolphin_agent.probes.items import BY_NAME, ITEMS
from dolphin_agent.snapshot.model import Family, Point, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dolphin_agent.pods.backend import BackendKey
    from dolphin_agent.probes.items import Counter
    from dolphin_agent.probes.plan import Series
    from dolphin_agent.snapshot.model import Labels

FAMILY_LABEL = {IpFamily.IPV4: "ipv4", IpFamily.IPV6: "ipv6"}


@dataclass(frozen=True)
class _Baseline:
    start: float
    counts: Sequence[int]


class Ledger:
    """Totals per backend and the series over them. Used by one thread; its snapshots by all."""

    def __init__(self) -> None:
        self._totals: dict[BackendKey, list[int]] = {}
        self._series: dict[Series, _Baseline] = {}
        self._kinds: frozenset[Kind] = frozenset()

    def credit(self, drained: Mapping[BackendKey, Sequence[int]]) -> None:
        """Adds one drain. Counts of backends that no series needs any more are dropped."""
        for key, counts in drained.items():
            if (total := self._totals.get(key)) is not None:
                self._totals[key] = list(map(add, total, counts))

    def follow(self, series: Iterable[Series], now: float, kinds: Iterable[Kind] = Kind) -> None:
        """Makes the series those of a new plan. Call after a drain was credited and before the next one.

        A series that stays keeps its total and start; a new one begins at zero now. Kinds that the kernel lets
        nobody count are left out: a zero would claim that nothing happened.
        """
        self._kinds = frozenset(kinds)
        wanted = dict.fromkeys(series)
        backends = {one.backend for one in wanted}
        self._totals = {key: self._totals.get(key, [0] * WORDS_PER_SLOT) for key in backends}
        self._series = {
            one: self._series.get(one) or _Baseline(now, tuple(self._totals[one.backend])) for one in wanted
        }

    def snapshot(self, now: float) -> Snapshot:
        """All series as they are now, grouped by metric in the order of declaration."""
        points: dict[str, list[Point]] = {}
        metrics: dict[str, Counter] = {}
        for series, baseline in self._series.items():
            total = self._totals[series.backend]
            common: Labels = (("pod", series.pod), ("task", series.task), *series.labels)
            for metric in BY_NAME[series.item].metrics[series.granularity]:
                metrics[metric.name] = metric
                found = points.setdefault(metric.name, [])
                for kind, extra in metric.kinds:
                    if kind not in self._kinds:
                        continue
                    for family, label in FAMILY_LABEL.items():
                        index = word(kind, family) + metric.field
                        value = total[index] - baseline.counts[index]
                        found.append(Point((*common, ("ipfamily", label), *extra), value, baseline.start))
        declared = [m.name for item in ITEMS for counters in item.metrics.values() for m in counters]
        return Snapshot(now, tuple(Family(metrics[n], tuple(points[n])) for n in declared if points.get(n)))
