"""Every metric, as it is declared where it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docs.reference.fill import code, table
from dolphin_agent.export.otlp_data import attributes
from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.health import metrics as health
from dolphin_agent.policy.vocabulary import SYSTEM_LABELS, Granularity
from dolphin_agent.probes.items import ITEMS, Counter, EventCounter
from dolphin_agent.snapshot.flows import OTHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dolphin_agent.probes.items import Metric

EVERY_KIND = Vitals(
    lost={("ipSend", "recursion_misses"): 0},
    hooks=("fentry/ip_rcv_core",),
    watch_ages={"pods": 0},
    pushes={"failed": 0},
)
"""One of each thing that has a series of its own."""


def items() -> str:
    """What items count."""
    header = ("metric", "type", "unit", "item", "per", "labels", "")
    rows = (
        (
            f"`{metric.name}`",
            str(metric.type),
            f"`{metric.unit}`",
            item.name,
            str(granularity),
            ", ".join(_labels(metric, granularity)),
            metric.help,
        )
        for item in ITEMS
        for granularity, metrics in item.metrics.items()
        for metric in metrics
    )
    return table(header, rows)


def _labels(metric: Metric, granularity: Granularity) -> Iterator[str]:
    """Those that not every metric of an item has."""
    if granularity is Granularity.FLOW:
        yield "flow"
    if isinstance(metric, Counter):
        values: dict[str, list[str]] = {}
        for _, pairs in metric.kinds:
            for name, value in pairs:
                values.setdefault(name, []).append(value)
        yield from (f"`{name}`: {', '.join(dict.fromkeys(found))}" for name, found in values.items())
    if isinstance(metric, EventCounter):
        yield f"`direction`: {', '.join(metric.directions)}"
        known = () if callable(metric.reasons) else dict.fromkeys(metric.reasons.values())
        yield f"`reason`: {', '.join(known)}" if known else "`reason`"


def checks() -> str:
    """What health checks count."""
    found = sorted(one for one in vars(health).values() if isinstance(one, health.HealthMetric))
    rows = ((f"`{one.name}`", str(one.type), f"`{one.unit}`" if one.unit else "", one.help) for one in found)
    return table(("metric", "type", "unit", ""), rows)


def own() -> str:
    """What the agent says of itself."""
    metrics = OwnMetrics(lambda: EVERY_KIND)
    try:
        families = sorted(metrics.collect(), key=lambda family: family.name)
    finally:
        metrics.close()
    rows = (
        (f"`{family.samples[0].name}`", family.type, code(family.samples[0].labels), family.documentation)
        for family in families
    )
    return table(("metric", "type", "labels", ""), rows)


def labels() -> str:
    """The names that labels have in OTLP."""
    values = {"pod": "namespace/name", "srcport": "80", "dstport": "80"}
    rows = [(f"`{name}`", code(attributes(((name, values.get(name, "x")),), {}))) for name in SYSTEM_LABELS]
    rows.append((f"`{'`, `'.join(name for name, _ in OTHER.pairs)}` = `other`", code(attributes(OTHER.pairs, {}))))
    rows.append(("a podLabel key", code(attributes((("app_name", "x"),), {("", "app_name"): "<key>"}))))
    return table(("label", "OTLP attribute"), rows)


TABLES = {"items": items, "checks": checks, "own": own, "labels": labels}
