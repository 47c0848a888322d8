"""Prometheus text: exposition format 0.0.4 and OpenMetrics 1.0."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from dolphin_agent.snapshot.buckets import PER_OCTAVE
from dolphin_agent.snapshot.model import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dolphin_agent.snapshot.model import Distribution, Labels, Snapshot

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

APART = 2 * PER_OCTAVE
"""Every so many buckets an upper bound is shown, two octaves apart: a dozen for each flow, not 90."""


_PART = 2000
"""Lines that are joined and encoded in one step, during which no other thread runs."""

_UNITS = ("bytes", "microseconds", "seconds")
"""Those that OpenMetrics is told of, by the end of a metric's name."""


def encode(snapshot: Snapshot, *, openmetrics: bool = False) -> bytes:
    """The snapshot's series, HELP and TYPE once per metric; what ends an OpenMetrics text is left to the caller.

    Without `_created` series, which older servers store as if they were counters: start times leave by protobuf and
    OTLP.
    """
    lines = _lines(snapshot, openmetrics=openmetrics)
    parts = []
    while part := list(islice(lines, _PART)):
        part.append("")
        parts.append("\n".join(part).encode())
    return b"".join(parts)


def _lines(snapshot: Snapshot, *, openmetrics: bool) -> Iterator[str]:
    for family in snapshot.families:
        name = family.metric.name
        title = name.removesuffix("_total") if openmetrics else name
        yield f"# HELP {title} {family.metric.help}"
        yield f"# TYPE {title} {family.metric.type}"
        unit = title.rpartition("_")[2]
        if openmetrics and unit in _UNITS:
            yield f"# UNIT {title} {unit}"
        for common, value, _, flow in family.points:
            yield f"{name}{{{_all(common, flow)}}} {value}"
        for common, samples, _, flow in family.distributions:
            yield from _histogram(name, _all(common, flow), samples, openmetrics=openmetrics)


def _histogram(name: str, labels: str, value: Distribution, *, openmetrics: bool) -> Iterator[str]:
    counts = sorted(value.counts.items())
    for shown in range(APART, value.scale.last, APART):
        below = sum(count for bucket, count in counts if bucket <= shown)
        bound = repr(value.scale.upper_bound(shown))
        yield f'{name}_bucket{{{labels},le="{bound if openmetrics else bound.removesuffix(".0")}"}} {below}'
    yield f'{name}_bucket{{{labels},le="+Inf"}} {value.count}'
    yield f"{name}_sum{{{labels}}} {value.sum}"
    yield f"{name}_count{{{labels}}} {value.count}"


def _all(common: Labels, flow: Labels) -> str:
    return _text(common) if flow is NONE else f"{_text(common)},{_text(flow)}"


def _text(labels: Labels) -> str:
    if labels.text is None:
        labels.text = ",".join([f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.pairs])
    return labels.text
