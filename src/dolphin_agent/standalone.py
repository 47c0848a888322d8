"""Policies and pods from files: polls them and hands on what is wanted, whenever that changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dolphin_agent.desired import Desired
from dolphin_agent.pods.file import PodFile
from dolphin_agent.pods.paths import PathResolver
from dolphin_agent.policy.directory import PolicyDirectory
from dolphin_agent.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Standalone(Source):
    """Watches a policy directory and a pod file from a thread of its own.

    Raises ConfigError when the directory does not exist at start.
    """

    def __init__(self, policies: Path, pods: Path, publish: Callable[[Desired], None]) -> None:
        self._policies = PolicyDirectory(policies)
        self._pods = PodFile(pods)
        self._resolver = PathResolver()
        super().__init__(publish)

    def poll(self) -> Desired:
        """Reads what changed and returns the state."""
        self._policies.poll()
        self._pods.poll()
        looked = time.monotonic()
        backends, unmonitored = self._resolver.resolve(self._pods.pods)
        problems = (*self._policies.problems, *self._pods.problems, *unmonitored)
        return Desired(
            tuple(self._policies.policies.values()),
            backends,
            tuple(str(problem) for problem in problems),
            unmonitored=unmonitored,
            pods=self._pods.pods,
            node=self._resolver.own,
            looked=looked,
        )
