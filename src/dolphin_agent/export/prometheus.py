"""Prometheus text exposition format 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dolphin_agent.snapshot.model import Labels, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def encode(snapshot: Snapshot) -> bytes:
    """The snapshot's series, HELP and TYPE once per metric."""
    lines: list[str] = []
    for family in snapshot.families:
        name = family.metric.name
        lines.append(f"# HELP {name} {family.metric.help}")
        lines.append(f"# TYPE {name} counter")
        lines.extend(f"{name}{{{_labels(point.labels)}}} {point.value}" for point in family.points)
    lines.append("")
    return "\n".join(lines).encode()


def _labels(labels: Labels) -> str:
    return ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels)
