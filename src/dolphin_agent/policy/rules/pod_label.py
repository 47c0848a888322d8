"""spec.podLabel: the pod label keys that every series carries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dolphin_agent.manifests.names import LABEL_KEY_RULE, is_label_key
from dolphin_agent.policy.model import PodLabel
from dolphin_agent.policy.vocabulary import HISTOGRAM_LABEL, MAX_LABEL_NAME, MAX_POD_LABELS, SYSTEM_LABELS

if TYPE_CHECKING:
    from dolphin_agent.policy.field import Field

_PROMETHEUS_LABEL = r"[a-zA-Z_][a-zA-Z0-9_]*"


def read_pod_labels(pod_label: Field) -> tuple[PodLabel, ...]:
    """Read the keys, in the order written."""
    if pod_label.value == [""]:
        return ()
    entries = pod_label.entries("pod label keys")
    if len(entries) > MAX_POD_LABELS:
        pod_label.fault(f"{len(entries)} keys; at most {MAX_POD_LABELS} are allowed")
    taken: dict[str, str] = {}
    for entry in entries:
        key = entry.text()
        if key is None:
            continue
        if complaint := _complaint(key, taken):
            entry.fault(complaint)
        else:
            taken[PodLabel(key).label_name] = key
    return tuple(PodLabel(key) for key in taken.values())


def _complaint(key: str, taken: dict[str, str]) -> str | None:
    """Say what is wrong with a key; `taken` holds the earlier keys by their exported names."""
    name = PodLabel(key).label_name
    other = taken.get(name)
    rules = (
        (other == key, "listed twice; remove one"),
        (other is not None, f'exported as {name}, like "{other}"; remove one of them'),
        (name in SYSTEM_LABELS, f"taken: the agent sets {', '.join(SYSTEM_LABELS)} itself; choose another"),
        (name == HISTOGRAM_LABEL, "taken: Prometheus sets it on histograms; choose another"),
        (key.startswith("__"), "must not start with __, which Prometheus keeps for itself"),
        (len(key) > MAX_LABEL_NAME, f"{len(key)} characters long; at most {MAX_LABEL_NAME} are allowed"),
        (not is_label_key(key) and not re.fullmatch(_PROMETHEUS_LABEL, key), f"not a pod label key: {LABEL_KEY_RULE}"),
    )
    return next((message for is_broken, message in rules if is_broken), None)
