"""Which policies run, where several files define the same one or all together ask for too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.manifests.fault import Problem
from dolphin_agent.policy.vocabulary import MAX_TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.policy.model import MonitorPolicy


class Admission:
    """Decides so that a newcomer never stops or replaces what runs; among newcomers the names' order decides."""

    def __init__(self) -> None:
        self._running: dict[str, str] = {}  # task -> the file it comes from

    def admit(
        self, files: Mapping[str, Mapping[str, MonitorPolicy]]
    ) -> tuple[dict[str, MonitorPolicy], tuple[Problem, ...]]:
        """Choose from the policies of `files` (file name -> task -> policy): (policies to run, who may not)."""
        sources: dict[str, list[str]] = {}
        for file in sorted(files):
            for task in files[file]:
                sources.setdefault(task, []).append(file)
        ranked = sorted(sources, key=lambda task: (task not in self._running, task))
        self._running = {task: self._source(task, sources[task]) for task in ranked[:MAX_TASKS]}
        policies = {task: files[file][task] for task, file in self._running.items()}
        twice = (self._defined_twice(task, sources[task]) for task in self._running if len(sources[task]) > 1)
        excess = (_too_many(task, sources[task][0]) for task in ranked[MAX_TASKS:])
        return policies, (*twice, *excess)

    def _source(self, task: str, files: list[str]) -> str:
        known = self._running.get(task)
        return known if known in files else files[0]

    def _defined_twice(self, task: str, files: list[str]) -> Problem:
        running = self._running[task]
        message = f"{task} is defined in {' and in '.join(files)}; the one in {running} runs, remove the others"
        return Problem(task, message)


def _too_many(task: str, file: str) -> Problem:
    message = f"{file}: {task} is refused: {MAX_TASKS} policies run already, the most a node takes; remove one"
    return Problem(task, message)
