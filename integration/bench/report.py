"""What was measured, beside what was measured before: no guest is needed here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESULTS = "bench.json"
"""The file that a guest leaves."""

TOLERANCE = 0.03
SLACK = 2
"""A row is worse when it is above its baseline by more than 3 % and by more than 2 instructions."""

NOT_ATTACHED = "not attached"

Baseline = dict[str, dict[str, float]]
"""Kernel -> row -> instructions."""


@dataclass(slots=True)
class Measured:
    """The results of one guest."""

    rows: dict[str, float | None] = field(default_factory=dict)
    """Row -> instructions; None where its program did not run."""
    errors: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return what `parse` understands."""
        return json.dumps({"rows": self.rows, "errors": self.errors})


def parse(text: str) -> Measured:
    """Read what a guest left; raises ValueError where that is something else."""
    match json.loads(text):
        case {"rows": dict(rows), "errors": list(errors)}:
            return Measured({str(row): None if value is None else float(value) for row, value in rows.items()}, errors)
        case _:
            raise ValueError(f"not the results of a guest: {text[:100]!r}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of all guests against the baseline."""

    failures: tuple[str, ...]
    """Why the run fails: what got worse, what did not run, what a guest said."""
    new: tuple[str, ...]
    """Rows that the baseline lacks."""
    better: tuple[str, ...]
    """Rows that are as far below their baseline as would make them worse above it."""

    def lines(self) -> Iterator[str]:
        """All of it, and a verdict, for a person."""
        yield from (f"new: {line}" for line in self.new)
        yield from (f"better: {line}" for line in self.better)
        yield from (f"FAILED: {line}" for line in self.failures)
        yield f"{len(self.failures)} failures" if self.failures else "nothing is above the baseline"


def compare(measured: Mapping[str, Measured], baseline: Mapping[str, Mapping[str, float]]) -> Comparison:
    """Judge each kernel's results."""
    failures: list[str] = []
    new: list[str] = []
    better: list[str] = []
    for kernel, found in measured.items():
        before = baseline.get(kernel, {})
        failures.extend(f"kernel {kernel}: {error}" for error in found.errors)
        failures.extend(f"kernel {kernel}: {row}: not measured" for row in before if row not in found.rows)
        for row, value in found.rows.items():
            place = f"kernel {kernel}: {row}"
            if value is None:
                failures.append(f"{place}: {NOT_ATTACHED}")
            elif row not in before:
                new.append(f"{place}: {_number(value)}")
            elif _is_above(value, before[row]):
                failures.append(f"{place}: {_number(value)}, baseline {_number(before[row])}")
            elif _is_above(before[row], value):
                better.append(f"{place}: {_number(value)}, baseline {_number(before[row])}")
    return Comparison(tuple(failures), tuple(new), tuple(better))


def _is_above(value: float, other: float) -> bool:
    # Of the difference of two times that is close to zero, a share says nothing.
    return value - other > max(SLACK, TOLERANCE * abs(other))


def updated(baseline: Mapping[str, Mapping[str, float]], measured: Mapping[str, Measured]) -> Baseline:
    """Return the baseline with these kernels' rows replaced; kernels that were not run keep theirs."""
    fresh = {
        kernel: {row: round(value, 1) for row, value in found.rows.items() if value is not None}
        for kernel, found in measured.items()
    }
    merged = {**{kernel: dict(rows) for kernel, rows in baseline.items()}, **fresh}
    return {kernel: merged[kernel] for kernel in sorted(merged, key=_version)}


def _version(kernel: str) -> tuple[int, ...]:
    return tuple(int(part) for part in kernel.split("."))


def table(measured: Mapping[str, Measured]) -> list[list[str]]:
    """Return a heading and one line of cells per row, with a column per kernel."""
    rows = dict.fromkeys(row for found in measured.values() for row in found.rows)
    body = [[row, *(_cell(found, row) for found in measured.values())] for row in rows]
    return [["instructions", *measured], *body]


def _cell(found: Measured, row: str) -> str:
    if row not in found.rows:
        return "-"
    value = found.rows[row]
    return NOT_ATTACHED if value is None else _number(value)


def _number(value: float) -> str:
    return f"{round(value):,}"


def text(cells: Sequence[Sequence[str]]) -> str:
    """Lay a table out for a terminal."""
    return "".join(f"{'  '.join(line)}\n" for line in _padded(cells))


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Lay a table out as Markdown, numbers to the right."""
    heading, *body = _padded(cells)
    rule = ["-" * len(heading[0]), *("-" * (len(cell) - 1) + ":" for cell in heading[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heading, rule, *body))


def _padded(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
