"""Which fields a MonitorPolicy has, and which one a wrong field was meant to be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from dolphin_agent.manifests.fault import FieldPath, field_name
from dolphin_agent.policy.vocabulary import ITEMS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from collections.abc import Set as AbstractSet

Tree = dict[str, "Tree"]


def _leaves(names: str) -> Tree:
    return {name: {} for name in names.split()}


_MONITOR: Final[Tree] = {
    group: {name: _leaves("aggregateType") for name, offer in ITEMS.items() if offer.group == group}
    for group in dict.fromkeys(offer.group for offer in ITEMS.values())
}

SCHEMA: Final[Tree] = {
    "apiVersion": {},
    "kind": {},
    "metadata": _leaves(
        "name namespace labels annotations generation generateName uid resourceVersion creationTimestamp "
        "deletionTimestamp deletionGracePeriodSeconds finalizers managedFields ownerReferences selfLink"
    ),
    "spec": {
        "selector": {"matchLabels": {}, "matchExpressions": _leaves("key operator values")},
        "podLabel": {},
        "healthCheck": _leaves("enable failureThreshold periodSeconds command ipFamilies port path"),
        "monitor": _MONITOR,
    },
    "status": {},
}
"""Every field; below a list are the fields of its entries. What is under an empty entry is not looked at."""


def known_fields(path: FieldPath) -> Tree:
    """Give the fields that the mapping at `path` may have."""
    tree = SCHEMA
    for name in _names(path):
        tree = tree[name]
    return tree


def closest(word: str, words: Collection[str]) -> str | None:
    """Find the word that `word` is a misspelling of, capitals aside."""
    lowered = {candidate.lower(): candidate for candidate in words}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.7)
    return lowered[found[0]] if found else None


def meant(path: FieldPath, beside: AbstractSet[str]) -> str:
    """Say which field the unknown one at `path` was meant to be: `; did you mean X?`, or nothing.

    `beside` are the names written in the same mapping; of several places the one they point to is preferred.
    """
    *parent, name = _names(path)
    where = tuple(parent)
    places = [place for place in _PLACES if place[-1] == name]
    if not places and (near := closest(name, known_fields(path[:-1]))):
        places = [(*where, near)]
    if not places and (far := closest(name, {place[-1] for place in _PLACES})):
        places = [place for place in _PLACES if place[-1] == far]
    if not places:
        return ""
    place = max(places, key=lambda place: (_shared(place, where), not beside.isdisjoint(place[:-1])))
    return f"; did you mean {field_name(place)}{_move(where, place)}?"


def _move(where: FieldPath, place: FieldPath) -> str:
    """Say which way a field has to be moved from the mapping `where` to become `place`."""
    home = place[:-1]
    if where != home and where[: len(home)] == home:
        return " (it is indented too far)"
    if where != home and home[: len(where)] == where:
        return f" (indent it under {home[-1]})"
    return ""


def _shared(left: FieldPath, right: FieldPath) -> int:
    """Count the steps that two paths have in common."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _names(path: FieldPath) -> list[str]:
    return [step for step in path if isinstance(step, str)]


def _walk(tree: Mapping[str, Tree], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, below in tree.items():
        yield (*path, name)
        yield from _walk(below, (*path, name))


_PLACES: Final = tuple(_walk(SCHEMA))
