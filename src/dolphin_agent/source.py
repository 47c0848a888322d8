"""What both sources of Desired have in common: a thread that looks time and again, and publishes what is new."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dolphin_agent.desired import Desired

POLL_SECONDS = 0.5
"""A pod must be counted within 1 s of its sandbox' coming into being, and a file's change be in force within 2 s; no
event tells of either on every node and file system."""

COALESCE_SECONDS = 0.05
"""Events that come closer together are taken as one change."""

log = structlog.get_logger()


class Source(ABC):
    """Calls `poll` from a thread of its own, every half second and when woken."""

    def __init__(self, publish: Callable[[Desired], None]) -> None:
        self._publish = publish
        self._published: Desired | None = None
        self._wake = threading.Event()
        self._forced = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Begins; the first state is published at once."""
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
        """What it is waiting for, one line each, until it first publishes."""
        return ()

    @property
    def ages(self) -> Mapping[str, float]:
        """Kind -> seconds since it was known to be current; of what is watched from afar."""
        return {}

    @abstractmethod
    def poll(self) -> Desired | None:
        """The state now; None if it is not known yet."""

    def _run(self) -> None:
        while not self._ended:
            forced, self._forced = self._forced, False
            try:
                desired = self.poll()
            except Exception:  # a fault in one reading must not end all later ones
                log.exception("reading policies and pods failed")
            else:
                if desired and (forced or desired != self._published):
                    self._publish(desired)
                    self._published = desired
            if self._wake.wait(POLL_SECONDS) and not self._ended:
                time.sleep(COALESCE_SECONDS)
            self._wake.clear()
