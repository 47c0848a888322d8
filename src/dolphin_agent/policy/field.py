"""Reading a value that may be wrong: a reader returns the value, or reports a fault and returns nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from dolphin_agent.manifests.fault import Fault, FieldPath, field_name, plain
from dolphin_agent.manifests.stream import Place
from dolphin_agent.policy.schema import closest, known_fields, meant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

E = TypeVar("E", bound=StrEnum)

MAX_FAULTS = 100
"""Per document. Nobody reads more, and finding the line and the right name for each of 50,000 takes minutes."""


def nowhere(_path: FieldPath) -> Place:
    """Locate values of an object that was never text."""
    return Place(0)


@dataclass(slots=True)
class Report:
    """The faults of one document, collected in the order they are found."""

    file: str = ""
    locate: Callable[[FieldPath], Place] = nowhere
    faults: list[Fault] = field(default_factory=list)
    unknown_fields: int = 0
    """How many of the faults are unknown fields: what these hold is missed elsewhere."""

    def add(self, path: FieldPath, value: object, message: str) -> None:
        """Report that the value at `path` is wrong; None for one that is missing."""
        if self.is_full:
            return
        place = self.locate(path)
        shown = plain(value) if value is None or place.written is None else place.written
        self.faults.append(Fault(self.file, place.line, field_name(path), shown, message))

    def in_order(self) -> tuple[Fault, ...]:
        """Give the faults from the top of the document to its end."""
        faults = sorted(self.faults, key=lambda fault: fault.line)[:MAX_FAULTS]
        if self.is_full:
            faults.append(Fault(self.file, 0, "", None, f"further faults are not listed after {MAX_FAULTS}"))
        return tuple(faults)

    @property
    def is_full(self) -> bool:
        """Whether further faults are dropped."""
        return len(self.faults) >= MAX_FAULTS


@dataclass(frozen=True, slots=True)
class Field:
    """A value in a document, or the lack of one: a null is a field left out."""

    path: FieldPath
    value: object
    report: Report
    is_written: bool = True
    """False for a field that is not there at all; then `value` is None."""

    @property
    def is_absent(self) -> bool:
        """Whether there is nothing to read: every reader returns its nothing, without a fault."""
        return self.value is None

    @property
    def is_default(self) -> bool:
        """Whether the default of a string is asked for: by nothing or by the empty string."""
        return self.value is None or self.value == ""

    def fault(self, message: str) -> None:
        """Report that this value is wrong."""
        self.report.add(self.path, self.value, message)

    def fields(self) -> dict[str, Field]:
        """Read a mapping with the fields that the schema has here: each is in the result, written or not."""
        known = known_fields(self.path)
        found = self._mapping(f"a mapping with {', '.join(known)}")
        for name, value in found.items():
            if name not in known and not self.report.is_full:
                path = (*self.path, name)
                allowed = ", ".join(known)
                message = f"unknown field; allowed here: {allowed}{meant(path, found.keys())}"
                self.report.add(path, value, message)
                self.report.unknown_fields += 1
        return {name: self._below(name, found.get(name), is_written=name in found) for name in known}

    def members(self) -> dict[str, Field]:
        """Read a mapping with any keys; a null value is a fault."""
        return {
            name: self._below(name, value)
            for name, value in self._mapping("a mapping").items()
            if self._is_set(name, value)
        }

    def entries(self, what: str) -> list[Field]:
        """Read a list; `what` names its entries in the fault. A null entry is a fault."""
        if isinstance(self.value, list):
            return [self._below(index, value) for index, value in enumerate(self.value) if self._is_set(index, value)]
        self._wrong_type(f"a list of {what}")
        return []

    def text(self) -> str | None:
        """Read a string."""
        if isinstance(self.value, str):
            return self.value
        self._wrong_type("a string", "; quote it" if isinstance(self.value, bool | int | float) else "")
        return None

    def boolean(self) -> bool | None:
        """Read true or false."""
        if isinstance(self.value, bool):
            return self.value
        self._wrong_type("true or false")
        return None

    def integer(self, low: int, high: int) -> int | None:
        """Read a whole number from `low` to `high`, both included."""
        allowed = f"a whole number from {low} to {high}"
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self._wrong_type(allowed)
        elif low <= self.value <= high:
            return self.value
        else:
            self.fault(f"must be {allowed}")
        return None

    def choice(self, options: Iterable[E], why: str = "") -> E | None:
        """Read one of the words `options`; `why` tells the reason that there are no others."""
        text = self.text()
        words = {str(option): option for option in options}
        if text is not None and text not in words:
            near = closest(text, words)
            hint = f"; did you mean {near}?" if near else ""
            self.fault(f"must be {either(words)}{why}{hint}")
        return words.get(text or "")

    def _mapping(self, wanted: str) -> dict[str, object]:
        if isinstance(self.value, dict):
            return self.value
        self._wrong_type(wanted)
        return {}

    def _below(self, step: str | int, value: object, *, is_written: bool = True) -> Field:
        return Field((*self.path, step), value, self.report, is_written)

    def _is_set(self, step: str | int, value: object) -> bool:
        if value is None:
            self.report.add((*self.path, step), None, "must not be empty; give it a value or remove it")
        return value is not None

    def _wrong_type(self, wanted: str, remedy: str = "") -> None:
        if not self.is_absent:
            self.fault(f"must be {wanted}, not {_kind(self.value)}{remedy}")


def either(words: Iterable[str]) -> str:
    """Write a choice: `a`, `a or b`, `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "a mapping"
