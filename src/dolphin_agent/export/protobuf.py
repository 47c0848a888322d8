"""Prometheus's protobuf exposition (io.prometheus.client.MetricFamily, delimited): native histograms and start times.

Field numbers are those of prometheus/client_model, metrics.proto. Written by hand, as there is no Python package of
it; a message is a few varints.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from dolphin_agent.snapshot.buckets import PER_OCTAVE
from dolphin_agent.snapshot.model import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric as OwnMetric

    from dolphin_agent.snapshot.model import Distribution, Labels, Snapshot

COUNTER, GAUGE, UNTYPED, HISTOGRAM = 0, 1, 3, 4
_TYPES = {"counter": COUNTER, "gauge": GAUGE, "histogram": HISTOGRAM}
_VALUES = {COUNTER: 3, GAUGE: 2, UNTYPED: 5}
"""Type -> the field that its value is in."""

SCHEMA = 2
"""Four buckets to an octave: index i ends at 2^(i/4)."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits to a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _nested(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _text(field: int, value: str) -> bytes:
    return _nested(field, value.encode())


def encode(snapshot: Snapshot, own: Iterable[OwnMetric]) -> bytes:
    """The snapshot's series and the agent's own."""
    return b"".join(_delimited(family) for family in (*_families(snapshot), *_own_families(own)))


def _delimited(body: bytes) -> bytes:
    return _varint(len(body)) + body


def _families(snapshot: Snapshot) -> Iterator[bytes]:
    for family in snapshot.families:
        declared = family.metric
        head = _text(1, declared.name) + _text(2, declared.help)
        kind = _TYPES[declared.type]
        numbers = (
            _nested(4, _kept(common) + _kept(flow) + _value(kind, value, start))
            for common, value, start, flow in family.points
        )
        histograms = (
            _nested(4, _kept(common) + _kept(flow) + _nested(7, _histogram(value, start)))
            for common, value, start, flow in family.distributions
        )
        yield head + _number(3, kind) + b"".join((*numbers, *histograms))


def _value(kind: int, value: int, start: float) -> bytes:
    """A gauge has no start."""
    return _nested(_VALUES[kind], _double(1, value) + (_start(3, start) if kind == COUNTER else b""))


def _labels(pairs: Iterable[tuple[str, str]]) -> bytes:
    return b"".join([_nested(1, _text(1, name) + _text(2, value)) for name, value in pairs])


def _kept(labels: Labels) -> bytes:
    if labels.protobuf is None:
        labels.protobuf = _labels(labels.pairs)
    return labels.protobuf


@lru_cache(maxsize=4096)
def _start(field: int, seconds: float) -> bytes:
    """Many series begin together."""
    whole, rest = divmod(nanoseconds(seconds), 10**9)
    return _nested(field, _number(1, whole) + _number(2, rest))


def _histogram(value: Distribution, start: float) -> bytes:
    """Bucket 0 is the zero bucket; the last one is shown as if it ended a quarter of an octave after the one before."""
    first_index = value.scale.first * PER_OCTAVE
    body = [_number(1, value.count), _double(2, value.sum)]
    body += [
        _number(5, _zigzag(SCHEMA)),
        _double(6, value.scale.upper_bound(0)),
        _number(7, value.counts.get(0, 0)),
    ]
    spans: list[list[int]] = []
    deltas = []
    end, before = 0, 0
    for bucket, count in sorted(value.counts.items()):
        if bucket == 0:
            continue
        index = first_index + bucket
        if spans and index == end:
            spans[-1][1] += 1
        else:
            spans.append([index - end, 1])
        deltas.append(count - before)
        end, before = index + 1, count
    body += [_nested(12, _number(1, _zigzag(offset)) + _number(2, length)) for offset, length in spans]
    body += [_number(13, _zigzag(delta)) for delta in deltas]
    if not spans:
        # A histogram without any span would be taken for a classic one.
        body.append(_nested(12, _number(1, 0) + _number(2, 0)))
    body.append(_start(15, start))
    return b"".join(body)


def _own_families(own: Iterable[OwnMetric]) -> Iterator[bytes]:
    for family in own:
        kind = _TYPES.get(family.type, UNTYPED)
        field, samples = _VALUES[kind], []
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = _labels(sample.labels.items())
                samples.append((sample.name, _nested(4, labels + _nested(field, _double(1, sample.value)))))
        for name in dict.fromkeys(name for name, _ in samples):
            metrics = b"".join(metric for one, metric in samples if one == name)
            yield _text(1, name) + _text(2, family.documentation) + _number(3, kind) + metrics
