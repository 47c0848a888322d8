"""The thread that makes the checks: it owns their sockets and their schedule, and hands out immutable results."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import selectors
import threading
import time
from typing import TYPE_CHECKING

import structlog

from dolphin_agent.health.arping import Arping, Arpings
from dolphin_agent.health.curl import Curl
from dolphin_agent.health.ping import Ping, Pings
from dolphin_agent.health.plan import Impossible
from dolphin_agent.health.run import Run
from dolphin_agent.policy.vocabulary import Command, IPFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dolphin_agent.health.plan import Check
    from dolphin_agent.health.sockets import Probe
    from dolphin_agent.health.tally import Result

_TICK = 0.04
"""Turns are taken at multiples of these seconds: waking costs an idle processor more than a probe does."""
_RESPITE = 1.0
"""Seconds after an unforeseen fault, which may come again at once."""

log = structlog.get_logger()


class Prober:
    """Makes all checks that it was last told of. No check: no thread, no socket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Guards all that follows but the selector, which only the thread uses."""
        self._wanted: frozenset[Check] = frozenset()
        self._taken = self._wanted
        """What the runs are of."""
        self._runs: dict[Check, Run] = {}
        self._due: list[tuple[float, int, Run]] = []
        """A heap: when which run has something to do. Each run is in it once."""
        self._begun = itertools.count(1)
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._probes = _Probes(self._selector)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, lambda _: os.eventfd_read(self._wake))
        self._thread: threading.Thread | None = None

    def follow(self, checks: Iterable[Check]) -> None:
        """Make these and no others, within one period each; those that stay notice nothing."""
        with self._lock:
            self._wanted = frozenset(checks)
        if self._wanted and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="health", daemon=True)
            self._thread.start()
        os.eventfd_write(self._wake, 1)

    def results(self) -> tuple[Result, ...]:
        """Every check as it is now."""
        with self._lock:
            return tuple(run.tally.result() for check, run in self._runs.items() if check in self._wanted)

    def impossible(self) -> tuple[Impossible, ...]:
        """The checks that cannot be made."""
        with self._lock:
            runs = [(check, run.tally.reason) for check, run in self._runs.items() if run.tally.reason]
        return tuple(Impossible(check.task, check.pod, reason) for check, reason in runs if check in self._wanted)

    def close(self) -> None:
        """End; probes that are on their way are counted nowhere."""
        self._ended = True
        os.eventfd_write(self._wake, 1)
        if self._thread:
            self._thread.join()
        for run in self._runs.values():
            run.end()
        self._probes.close()
        self._selector.close()
        os.close(self._wake)

    def _work(self) -> None:
        while not self._ended:
            try:
                events = self._selector.select(self._pause())
                with self._lock:
                    # Answers first: those that are there have come before what is due now.
                    _hand_out(events)
                    self._take_over()
                    self._take_turns(time.monotonic())
            except Exception:  # a fault in one check must not end all others
                log.exception("a health check failed unexpectedly")
                time.sleep(_RESPITE)

    def _pause(self) -> float | None:
        if not self._due:
            return None
        tick = math.ceil(self._due[0][0] / _TICK) * _TICK
        return max(0.0, tick - time.monotonic())

    def _take_over(self) -> None:
        """Makes the runs those that are wanted."""
        if self._taken is self._wanted:
            return
        self._taken = self._wanted
        for check in self._runs.keys() - self._wanted:
            self._runs.pop(check).end()
        self._due = [one for one in self._due if not one[2].is_over]
        now = time.monotonic()
        for check in self._wanted - self._runs.keys():
            number = next(self._begun)
            run = self._runs[check] = Run(check, number, now, self._probes.make)
            self._due.append((run.due, number, run))
        heapq.heapify(self._due)
        if not self._runs:
            self._probes.close()

    def _take_turns(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, number, run = self._due[0]
            heapq.heapreplace(self._due, (run.step(now), number, run))
            # A pod on this node has answered by now; the answer must not seem to have taken as long as those after it.
            _hand_out(self._selector.select(0))


def _hand_out(events: Iterable[tuple[selectors.SelectorKey, int]]) -> None:
    """Calls whoever waits for what has come."""
    for key, mask in events:
        key.data(mask)


class _Probes:
    """What asks pods, and the sockets that it shares."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._pings = {family: Pings(selector, family) for family in IPFamily}
        self._arpings = {family: Arpings(selector, family) for family in IPFamily}

    def make(self, check: Check, end: Callable[[float | None], None]) -> Probe:
        """What makes the probes of one check; each that ends by itself calls `end`."""
        match check.command:
            case Command.PING:
                return Ping(self._pings[check.family], check, end)
            case Command.ARPING:
                return Arping(self._arpings[check.family], check, end)
            case Command.CURL:
                return Curl(self._selector, check, end)

    def close(self) -> None:
        """Close the shared sockets until they are needed again."""
        for pings in self._pings.values():
            pings.close()
        for arpings in self._arpings.values():
            arpings.close()
