"""What is wrong with a manifest, in one line that a user can act on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

FieldPath = tuple[str | int, ...]
"""Where a value sits in its document: mapping keys and list indexes, from the root."""

_MAX_SHOWN = 80  # characters of a wrong value; enough to recognise it, short enough for one line


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule. `str()` is the line to print: `FILE:LINE: field "value": what is allowed`."""

    file: str
    """The file as the user named it; empty for an object from the API server."""
    line: int
    """Counted from 1; 0 where there is none (no such file, an object from the API server)."""
    field: str
    """As Kubernetes writes it: `spec.selector.matchLabels[app/name]`; empty for the whole document."""
    value: str | None
    """The wrong value as it was written; None where it is missing, a mapping or a list."""
    message: str
    """What is allowed, and the field or value that was probably meant."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        what = self.field
        if self.value is not None:
            shown = self.value if len(self.value) <= _MAX_SHOWN else self.value[:_MAX_SHOWN] + "..."
            what = f'{what} "{shown}"'.lstrip()
        return printable(": ".join(part for part in (place, what, self.message) if part))


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a source could not take, while the rest of it goes on. `str()` is the line to print."""

    subject: str
    """What it is about: a task or pod (`namespace/name`) where known, else the file or directory."""
    message: str
    """One line; names the file and the remedy."""

    def __str__(self) -> str:
        return self.message


def field_name(path: FieldPath) -> str:
    """Write a path the way Kubernetes does: `spec.podLabel[2]`, `metadata.labels[app/name]`."""
    name = ""
    for step in path:
        if isinstance(step, str) and re.fullmatch(r"\w+", step):
            name += f".{step}" if name else step
        else:
            name += f"[{step}]"
    return name


def plain(value: object) -> str | None:
    """Show a JSON scalar as a user would write it; None for a mapping, a list and null."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def printable(text: str) -> str:
    """Escape everything that could break or forge a line of a terminal or a log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
