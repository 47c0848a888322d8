"""The policies of one watched file, each in its last good form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.manifests.fault import Problem
from dolphin_agent.manifests.stream import read_stream
from dolphin_agent.manifests.watch import Look, Watch
from dolphin_agent.policy.parse import FaultyPolicy, ParsedFile, policies_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from dolphin_agent.policy.model import MonitorPolicy


class PolicyFile:
    """A file that is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch = Watch(path)
        self.policies: Mapping[str, MonitorPolicy] = {}
        """By task. Replaced, never changed."""
        self.problems: tuple[Problem, ...] = ()

    def refresh(self) -> bool:
        """Read the file if it changed; False once there is no such file."""
        look = self._watch.look()
        if look is Look.CHANGED:
            self._take(policies_of(read_stream(self._path)))
        return look is not Look.GONE

    def _take(self, parsed: ParsedFile) -> None:
        """Replace the policies, except those that were not removed but turned wrong."""
        good = {policy.task: policy for policy in parsed.policies}
        missed = self.policies.keys() - good.keys()
        kept: set[str] = set()
        problems: list[Problem] = []
        if parsed.malformed:
            kept |= missed
            problems.append(Problem(str(self._path), f"{parsed.malformed}{_note(kept)}"))
        for faulty in parsed.faulty:
            turned_wrong = missed & _candidates(faulty, missed)
            kept |= turned_wrong
            subject = faulty.task or str(self._path)
            problems += (Problem(subject, f"{fault}{_note(turned_wrong)}") for fault in faulty.faults)
        self.policies = good | {task: self.policies[task] for task in kept}
        self.problems = tuple(problems)


def _candidates(faulty: FaultyPolicy, missed: set[str]) -> set[str]:
    """Tell which policies a faulty document may have been; without a name it may have been any."""
    return missed if faulty.task is None else {faulty.task}


def _note(kept: Iterable[str]) -> str:
    return "".join(f"; {task} keeps running in its last good form" for task in sorted(kept))
