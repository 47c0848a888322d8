"""The latest reading of everything, shared by all who ask for one at about the same time."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from dolphin_agent.export.own import Vitals
from dolphin_agent.snapshot.model import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED_SECONDS = 0.5
"""Scrapes closer together than this share one reading; a scrape may be at most 1 s old."""

ANSWER_SECONDS = 5.0
"""How long a scrape waits for the kernel thread."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What exporters and status pages see."""

    snapshot: Snapshot = dataclasses.field(default_factory=Snapshot)
    vitals: Vitals = dataclasses.field(default_factory=Vitals)
    monotonic: float = float("-inf")
    """When the counters were drained."""


class Readings:
    """One thread publishes, any may ask."""

    def __init__(self, wanted: Callable[[], None]) -> None:
        """Take how to ask the publishing thread for one."""
        self._wanted = wanted
        self._lock = threading.Lock()
        self._pending: Future[Reading] | None = None
        self.latest = Reading()

    def publish(self, reading: Reading) -> None:
        """Hand it to all who wait."""
        with self._lock:
            self.latest = reading
            pending, self._pending = self._pending, None
        if pending:
            pending.set_result(reading)

    def fresh(self) -> Reading:
        """A reading at most SHARED_SECONDS old. Raises TimeoutError."""
        with self._lock:
            if time.monotonic() - self.latest.monotonic < SHARED_SECONDS:
                return self.latest
            if self._pending is None:
                self._pending = Future()
                self._wanted()
            pending = self._pending
        return pending.result(ANSWER_SECONDS)
