"""Test results: reading those that pytest wrote, writing those that a lost guest could not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the tests on one kernel."""

    kernel: str
    tests: int
    failed: int
    """Failures and errors."""
    skipped: int
    """Skips and expected failures: neither shows that something works."""
    trouble: str = ""
    """What went wrong besides, such as a kernel's panic; one line."""

    @property
    def passed(self) -> bool:
        """Whether there were tests, and all passed."""
        return self.tests > 0 and self.failed == 0 and self.skipped == 0 and not self.trouble

    def __str__(self) -> str:
        """One line for a person."""
        counts = f"{self.tests} tests, {self.failed} failed, {self.skipped} skipped"
        return f"{counts}, {self.trouble}" if self.trouble else counts


def read(kernel: str, path: Path, status: int) -> Outcome:
    """Read the JUnit XML that pytest, which ended with `status`, wrote."""
    cases = list(ET.parse(path).getroot().iter("testcase"))  # noqa: S314 - our own pytest wrote it
    failed = _count(cases, ("failure", "error"))
    skipped = _count(cases, ("skipped",))
    trouble = f"pytest ended with status {status}" if status != 0 and not failed else ""
    return Outcome(kernel, len(cases), failed, skipped, trouble)


def _count(cases: Iterable[ET.Element], tags: Sequence[str]) -> int:
    return sum(any(case.find(tag) is not None for tag in tags) for case in cases)


def fault(kernel: str, path: Path, error: Exception) -> Outcome:
    """Write JUnit XML for a guest that brought none back: one test, in error, so that readers of it see red."""
    suite = ET.Element("testsuite", name="integration.vm", tests="1", errors="1", failures="0", skipped="0")
    case = ET.SubElement(suite, "testcase", classname="integration.vm", name=f"kernel {kernel}")
    summary = str(error).partition("\n")[0]
    ET.SubElement(case, "error", type=type(error).__name__, message=summary).text = _xml_text(str(error))
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    return Outcome(kernel, 1, 1, 0, summary)


def _xml_text(text: str) -> str:
    """Drop the control characters of a console, which XML does not allow."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def total(outcomes: Sequence[Outcome]) -> str:
    """Return one line about all kernels."""
    tests, failed, skipped = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in ("tests", "failed", "skipped")
    )
    verdict = "passed" if outcomes and all(outcome.passed for outcome in outcomes) else "FAILED"
    names = ", ".join(outcome.kernel for outcome in outcomes)
    return f"kernels {names}: {tests} tests, {failed} failed, {skipped} skipped: {verdict}"
