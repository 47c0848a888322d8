"""Policies and pods from files: polls them and hands on what is wanted, whenever that changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from dolphin_agent.pods.backend import Resolver
from dolphin_agent.pods.file import PodFile
from dolphin_agent.policy.directory import PolicyDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dolphin_agent.pods.backend import Backend
    from dolphin_agent.policy.model import MonitorPolicy

POLL_SECONDS = 0.5
"""A change must take effect within 2 s; polling needs no inotify watches and works on every file system."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Desired:
    """What users want now; immutable."""

    policies: tuple[MonitorPolicy, ...] = ()
    backends: tuple[Backend, ...] = ()
    problems: tuple[str, ...] = ()
    """One line each: what is wrong, and what is done meanwhile."""


class Standalone:
    """Watches a policy directory and a pod file from a thread of its own.

    Raises ConfigError when the directory does not exist at start.
    """

    def __init__(self, policies: Path, pods: Path, publish: Callable[[Desired], None]) -> None:
        self._policies = PolicyDirectory(policies)
        self._pods = PodFile(pods)
        self._resolver = Resolver()
        self._publish = publish
        self._published: Desired | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standalone", daemon=True)

    def start(self) -> None:
        """Begins to watch; the first state is published at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def poll(self) -> Desired:
        """Reads what changed and returns the state."""
        self._policies.poll()
        self._pods.poll()
        backends, unresolved = self._resolver.resolve(self._pods.pods)
        problems = (*self._policies.problems, *self._pods.problems, *unresolved)
        return Desired(tuple(self._policies.policies.values()), backends, tuple(str(p) for p in problems))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                desired = self.poll()
            except Exception:  # a fault in one reading must not end all later ones
                log.exception("reading policies and pods failed")
            else:
                if desired != self._published:
                    self._publish(desired)
                    self._published = desired
            self._stop.wait(POLL_SECONDS)
