"""spec.monitor: the items that are asked for, each with its granularity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.policy.vocabulary import ITEMS, Granularity

if TYPE_CHECKING:
    from dolphin_agent.policy.field import Field


def read_monitor(monitor: Field) -> dict[str, Granularity]:
    """Read the items, in the order of `ITEMS`; one written without anything below it is asked for too."""
    groups = {name: group.fields() for name, group in monitor.fields().items()}
    return {
        name: _granularity(name, groups[offer.group][name])
        for name, offer in ITEMS.items()
        if groups[offer.group][name].is_written
    }


def _granularity(name: str, item: Field) -> Granularity:
    offered = ITEMS[name].granularities
    wanted = item.fields()["aggregateType"]
    if wanted.is_default:
        return offered[0]
    why = "" if len(offered) == len(Granularity) else f" ({name} has no other granularity)"
    return wanted.choice(offered, why) or offered[0]
