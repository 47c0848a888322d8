"""Adds up drained counts and gives each series its own start.

The kernel counts a kind once per backend however many tasks want it; a task's series is the backend's total less what
it was when the series began. A pod's total is what was counted per pod plus what was counted per flow, so the flows
shown and `other`, which is the rest, always make up the pod's series. The series of a pod that is gone linger, so that
their last values are exported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import add
from typing import TYPE_CHECKING

from dolphin_agent.bpf.layouts import Family as IpFamily
from dolphin_agent.bpf.layouts import Kind
from dolphin_agent.bpf.tables import WORDS_PER_SLOT, word
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME, ITEMS, EventCounter, Histogram
from dolphin_agent.snapshot.events import Causes, causes_of, flow_key
from dolphin_agent.snapshot.flows import FIELDS, OTHER, Book, Books, labelled
from dolphin_agent.snapshot.model import Distribution, DistributionPoint, Family, Labels, Point, Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from dolphin_agent.bpf.flow_tables import Limits
    from dolphin_agent.pods.backend import BackendKey
    from dolphin_agent.probes.engine import Drain
    from dolphin_agent.probes.items import Counter
    from dolphin_agent.probes.plan import Series
    from dolphin_agent.snapshot.flows import Flow, Place, Rtt
    from dolphin_agent.snapshot.model import Pairs

FAMILY_LABEL = {IpFamily.IPV4: "ipv4", IpFamily.IPV6: "ipv6"}


@dataclass(frozen=True)
class _Baseline:
    """What there was when a series began."""

    start: float
    counts: Sequence[int]
    flows: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """id of a Flow -> its counts; of flows known before a series at flow granularity began."""
    rtts: Mapping[int, Distribution] = field(default_factory=dict)
    """id of an Rtt -> its samples, likewise."""
    events: Causes = field(default_factory=dict)
    kept: tuple[object, ...] = ()
    """The records themselves, so that no later one has the id of one of them."""


@dataclass(frozen=True)
class _End:
    """Of a series whose pod is gone."""

    at: float
    kinds: frozenset[Kind]
    """What was counted until then."""


_NOTHING = (0, 0, 0, 0)
_NO_SAMPLES = Distribution()


class Ledger:
    """Totals per backend and the series over them. Used by one thread; its snapshots by all."""

    def __init__(self, limits: Limits, idle_seconds: float) -> None:
        self._idle = idle_seconds
        self._books = Books(limits.max_flows)
        self._totals: dict[BackendKey, list[int]] = {}
        self._events: dict[BackendKey, Causes] = {}
        self._flows: dict[BackendKey, Book] = {}
        self._series: dict[Series, _Baseline] = {}
        self._labels: dict[Series, dict[Pairs, Labels]] = {}
        """Series -> what its metrics add to its labels -> all of them, kept from snapshot to snapshot."""
        self._kinds: frozenset[Kind] = frozenset()
        self._ends: dict[Series, _End] = {}
        """Of the series that linger."""

    @property
    def backends(self) -> set[BackendKey]:
        """Those that have series, or had them a moment ago."""
        return set(self._totals)

    @property
    def flows(self) -> int:
        """Flow records kept now."""
        return self._books.size

    @property
    def refused(self) -> int:
        """How often a flow's counts went to `other` as there was no room for its record."""
        return self._books.refused

    def credit(self, drain: Drain, now: float) -> None:
        """Adds one drain. Counts of backends that no series needs any more are dropped."""
        for key, counts in drain.pods.items():
            if (total := self._totals.get(key)) is not None:
                self._totals[key] = list(map(add, total, counts))
        books = {slot: book for slot, key in drain.owners.items() if (book := self._flows.get(key))}
        for table in drain.tables:
            for (slot, record, protocol), added in self._books.credit(table, books, now).items():
                total = self._totals[drain.owners[slot]]
                for kind, place in FIELDS.items():
                    if place.is_in(record, protocol):
                        index = word(kind, table.family)
                        total[index] += added[place.index]
                        total[index + 1] += added[place.index + 1]
        self._credit_events(drain, books, now)
        self._books.expire(books.values(), now - self._idle)

    def _credit_events(self, drain: Drain, books: Mapping[int, Book], now: float) -> None:
        """A pod's total has those of flows too."""
        for event in drain.events:
            book = books.get(event.slot)
            if book is None:
                continue
            total, key = self._events[drain.owners[event.slot]], flow_key(event)
            for cause in causes_of(event):
                total[cause] = total.get(cause, 0) + event.packets
                if key:
                    self._books.credit_event(book, cause, key, event.packets, now)

    def follow(
        self, series: Iterable[Series], now: float, kinds: Iterable[Kind] = Kind, gone: Collection[BackendKey] = ()
    ) -> None:
        """Makes the series those of a new plan. Call after a drain was credited and before the next one.

        A series that stays keeps its total and start; a new one begins at zero now. Kinds that the kernel lets
        nobody count are left out: a zero would claim that nothing happened. The series of backends that are gone
        linger until `release`, or until one with the same labels, or of the same backend, begins.
        """
        wanted = dict.fromkeys(series)
        named, living = {one.name for one in wanted}, {one.backend for one in wanted}
        ended = {one: _End(now, self._kinds) for one in self._series if one.backend in gone} | self._ends
        kept = {one: baseline for one, baseline in self._series.items() if one in wanted and one not in ended}
        self._ends = {one: end for one, end in ended.items() if one.name not in named and one.backend not in living}
        self._kinds = frozenset(kinds)
        self._keep(living | {one.backend for one in self._ends})
        began = {one: kept.get(one) or self._begin(one, now) for one in wanted}
        self._series = began | {one: self._series[one] for one in self._ends}
        self._labels = {one: self._labels.get(one) or {} for one in self._series}

    def release(self, before: float) -> None:
        """Forgets the series that linger since before that time."""
        over = [one for one, end in self._ends.items() if end.at <= before]
        for one in over:
            del self._ends[one], self._series[one], self._labels[one]
        if over:
            self._keep({one.backend for one in self._series})

    def _keep(self, backends: Collection[BackendKey]) -> None:
        """Has totals and flows for these, and no others."""
        for lost in self._flows.keys() - backends:
            self._books.forget(self._flows[lost])
        self._totals = {key: self._totals.get(key, [0] * WORDS_PER_SLOT) for key in backends}
        self._events = {key: self._events.get(key, {}) for key in backends}
        self._flows = {key: self._flows.get(key) or Book() for key in backends}

    def _begin(self, series: Series, now: float) -> _Baseline:
        counts = tuple(self._totals[series.backend])
        events = dict(self._events[series.backend])
        if series.granularity is Granularity.POD:
            return _Baseline(now, counts, events=events)
        book = self._flows[series.backend]
        places = (*book.flows.values(), *book.events.values())
        flows = [flow for records in places for flow in records.values()]
        rtts = [rtt for records in book.rtts.values() for rtt in records.values()]
        rtts.extend(book.other_rtts.values())
        return _Baseline(
            now,
            counts,
            {id(flow): tuple(flow.counts) for flow in flows},
            {id(rtt): rtt.freeze() for rtt in rtts},
            events,
            (*flows, *rtts),
        )

    def snapshot(self, now: float) -> Snapshot:
        """All series as they are now, grouped by metric in the order of declaration."""
        points: dict[str, list[Point]] = {}
        distributions: dict[str, list[DistributionPoint]] = {}
        for series, baseline in self._series.items():
            kinds = self._ends[series].kinds if series in self._ends else self._kinds
            for metric in BY_NAME[series.item].metrics[series.granularity]:
                if isinstance(metric, Histogram):
                    if metric.kind in kinds:
                        made = self._distributions(series, baseline)
                        distributions.setdefault(metric.name, []).extend(made)
                    continue
                found = points.setdefault(metric.name, [])
                if isinstance(metric, EventCounter):
                    if metric.kind in kinds:
                        found.extend(self._event_points(series, baseline, metric))
                    continue
                for kind, extra in metric.kinds:
                    if kind not in kinds:
                        continue
                    for family, label in FAMILY_LABEL.items():
                        labels = self._labelled(series, (("ipfamily", label), *extra))
                        found.extend(self._points(series, baseline, metric, kind, family, labels))
        declared = (metric for item in ITEMS for metrics in item.metrics.values() for metric in metrics)
        families = (
            Family(metric, tuple(points.get(metric.name, ())), tuple(distributions.get(metric.name, ())))
            for metric in declared
        )
        keys = {
            (series.task, name): key
            for series in self._series
            for (name, _), key in zip(series.labels, series.keys, strict=True)
        }
        return Snapshot(now, tuple(family for family in families if family.points or family.distributions), keys)

    def _labelled(self, series: Series, extra: Pairs) -> Labels:
        known = self._labels[series]
        if (labels := known.get(extra)) is None:
            pairs = (("pod", series.pod), ("task", series.task), *series.labels, *extra)
            labels = known[extra] = Labels(pairs)
        return labels

    def _points(
        self, series: Series, baseline: _Baseline, metric: Counter, kind: Kind, family: IpFamily, labels: Labels
    ) -> Iterator[Point]:
        index = word(kind, family) + metric.field
        value = self._totals[series.backend][index] - baseline.counts[index]
        if series.granularity is Granularity.POD:
            yield Point(labels, value, baseline.start)
            return
        place = FIELDS[kind]
        number = place.index + metric.field
        for flow, own in self._counted(series, family, place):
            part = flow.counts[number] - baseline.flows.get(id(flow), _NOTHING)[number]
            value -= part
            yield Point(labels, part, max(flow.start, baseline.start), own)
        yield Point(labels, value, baseline.start, OTHER)

    def _event_points(self, series: Series, baseline: _Baseline, metric: EventCounter) -> Iterator[Point]:
        for cause, total in self._events[series.backend].items():
            value = total - baseline.events.get(cause, 0)
            if cause.kind is not metric.kind or not value:
                continue
            direction = ("direction", metric.directions[cause.direction])
            extra = (("ipfamily", FAMILY_LABEL[cause.family]), direction, ("reason", cause.reason))
            labels = self._labelled(series, extra)
            if series.granularity is Granularity.POD:
                yield Point(labels, value, baseline.start)
                continue
            flows = self._flows[series.backend].events.get(cause, {})
            for flow, own in labelled(flows, cause.family):
                if part := flow.counts[0] - baseline.flows.get(id(flow), _NOTHING)[0]:
                    value -= part
                    yield Point(labels, part, max(flow.start, baseline.start), own)
            if value:
                yield Point(labels, value, baseline.start, OTHER)

    def _counted(self, series: Series, family: IpFamily, place: Place) -> Iterator[tuple[Flow, Labels]]:
        """The flows that have counted packets there."""
        flows = self._flows[series.backend].flows[family, place.record]
        for flow, own in labelled(flows, family, place.protocol):
            if flow.counts[place.index] or flow.counts[place.index + 1]:
                yield flow, own

    def _distributions(self, series: Series, baseline: _Baseline) -> Iterator[DistributionPoint]:
        book = self._flows[series.backend]
        for family, label in FAMILY_LABEL.items():
            labels = self._labelled(series, (("ipfamily", label),))
            for rtt, own in labelled(book.rtts[family], family):
                value = _less(rtt, baseline.rtts.get(id(rtt), _NO_SAMPLES))
                yield DistributionPoint(labels, value, max(rtt.start, baseline.start), own)
            other = book.other_rtts.get(family)
            value = _less(other, baseline.rtts.get(id(other), _NO_SAMPLES)) if other else _NO_SAMPLES
            yield DistributionPoint(labels, value, baseline.start, OTHER)


def _less(rtt: Rtt, before: Distribution) -> Distribution:
    """The samples since."""
    if not before.counts:
        return rtt.freeze()
    counts = {bucket: count - before.counts.get(bucket, 0) for bucket, count in rtt.counts.items()}
    return Distribution({bucket: count for bucket, count in counts.items() if count}, rtt.sum - before.sum)
