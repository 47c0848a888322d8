"""The policies that the API server has: what is right runs, and what was right once goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dolphin_agent.errors import PolicyError
from dolphin_agent.policy.admission import Admission
from dolphin_agent.policy.parse import policy_from_object
from dolphin_agent.policy.vocabulary import API_VERSION, KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.policy.model import MonitorPolicy

_METADATA = ("name", "namespace", "uid", "generation")
_ORIGIN = "the API server"


def pick_policy(item: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of an object what it asks for, and who it is."""
    metadata = item.get("metadata") or {}
    return {
        "apiVersion": item.get("apiVersion", API_VERSION),
        "kind": item.get("kind", KIND),
        "metadata": {key: metadata[key] for key in _METADATA if key in metadata},
        **({"spec": item["spec"]} if "spec" in item else {}),
    }


@dataclass(frozen=True)
class Refusal:
    """Why an object does not run as it is."""

    generation: int
    """Of the form that is refused; an earlier one may run."""
    reason: str
    """One line."""


@dataclass
class _Known:
    """One object and what was made of it."""

    item: dict[str, Any]
    good: MonitorPolicy | None = None
    """Its last good form."""
    fault: str = ""


class PolicyObjects:
    """Reads each object once. Used by one thread."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._admission = Admission()
        self.policies: dict[str, MonitorPolicy] = {}
        """Task -> policy to run; at most `vocabulary.MAX_TASKS`."""
        self.refusals: dict[str, Refusal] = {}
        """Task -> why its present form does not run."""

    def take(self, items: Mapping[str, dict[str, Any]]) -> None:
        """Take all objects there are: `namespace/name` -> what pick_policy kept."""
        for gone in self._known.keys() - items.keys():
            del self._known[gone]
        for task, item in items.items():
            known = self._known.get(task)
            if known and known.item == item:
                continue
            same = known and _uid(known.item) == _uid(item)
            self._known[task] = _read(item, known.good if known and same else None)
        good = {task: known.good for task, known in self._known.items() if known.good}
        self.policies, excess = self._admission.admit({_ORIGIN: good})
        self.refusals = {
            task: Refusal(_generation(known.item), known.fault) for task, known in self._known.items() if known.fault
        }
        for problem in excess:
            refusal = Refusal(_generation(self._known[problem.subject].item), problem.message)
            self.refusals.setdefault(problem.subject, refusal)


def _read(item: dict[str, Any], before: MonitorPolicy | None) -> _Known:
    try:
        return _Known(item, policy_from_object(item))
    except PolicyError as fault:
        kept = "its last good form keeps running" if before else "it does not run"
        return _Known(item, before, f"{fault}; {kept}")


def _uid(item: dict[str, Any]) -> object:
    return item["metadata"].get("uid")


def _generation(item: dict[str, Any]) -> int:
    generation = item["metadata"].get("generation")
    return generation if isinstance(generation, int) else 0
