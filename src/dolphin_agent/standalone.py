"""Policies and pods from files: polls them and hands on what is wanted, whenever that changes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from dolphin_agent.desired import Desired
from dolphin_agent.pods.file import PodFile
from dolphin_agent.pods.paths import PathResolver
from dolphin_agent.policy.directory import PolicyDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

POLL_SECONDS = 0.5
"""A change must take effect within 2 s; polling needs no inotify watches and works on every file system."""

log = structlog.get_logger()


class Standalone:
    """Watches a policy directory and a pod file from a thread of its own.

    Raises ConfigError when the directory does not exist at start.
    """

    def __init__(self, policies: Path, pods: Path, publish: Callable[[Desired], None]) -> None:
        self._policies = PolicyDirectory(policies)
        self._pods = PodFile(pods)
        self._resolver = PathResolver()
        self._publish = publish
        self._published: Desired | None = None
        self._wake = threading.Event()
        self._forced = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="standalone", daemon=True)

    def start(self) -> None:
        """Begins to watch; the first state is published at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended = True
        self._wake.set()
        self._thread.join()

    def look(self) -> None:
        """Looks at once and publishes, even what is not new."""
        self._forced = True
        self._wake.set()

    @property
    def waiting(self) -> tuple[str, ...]:
        """Nothing: files are there or not."""
        return ()

    @property
    def ages(self) -> Mapping[str, float]:
        """None: files are looked at all the time."""
        return {}

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
            looked=looked,
        )

    def _run(self) -> None:
        while not self._ended:
            forced, self._forced = self._forced, False
            try:
                desired = self.poll()
            except Exception:  # a fault in one reading must not end all later ones
                log.exception("reading policies and pods failed")
            else:
                if forced or desired != self._published:
                    self._publish(desired)
                    self._published = desired
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
