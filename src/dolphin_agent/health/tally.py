"""What became of a check's probes: counts, durations, and whether the pod is healthy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dolphin_agent.snapshot.buckets import SECONDS
from dolphin_agent.snapshot.model import Distribution, Labels

if TYPE_CHECKING:
    from dolphin_agent.health.plan import Check

_SHORTEST = 1e-9


@dataclass(frozen=True, slots=True)
class Result:
    """A check at one moment."""

    check: Check
    common: Labels
    start: float
    """When its counts began, in seconds since the epoch."""
    healthy: bool | None
    """None: not known, as no probe has ended yet, or none can be made."""
    successful: int
    failed: int
    durations: Distribution
    """Of the successful ones, in seconds."""


class Tally:
    """Adds up. Used by one thread at a time."""

    def __init__(self, check: Check, now: float) -> None:
        self._check = check
        self._start = now
        self._common = Labels(
            (
                ("pod", check.pod),
                ("task", check.task),
                *check.labels,
                ("ipfamily", check.family.value),
                ("command", check.command.value),
            )
        )
        self._healthy: bool | None = None
        self._successful = 0
        self._failed = 0
        self._in_a_row = 0
        """Failures since the last success."""
        self._counts: dict[int, int] = {}
        self._nanoseconds = 0
        self.reason = ""
        """Why no probe can be made, or empty."""

    def succeed(self, seconds: float) -> None:
        """A probe was answered; one success makes a pod healthy."""
        self._successful += 1
        self._in_a_row = 0
        self._healthy = True
        self.reason = ""
        bucket = SECONDS.bucket(max(seconds, _SHORTEST))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._nanoseconds += round(seconds * 1e9)

    def fail(self) -> None:
        """A probe was not answered; a pod is unhealthy once as many have failed in a row as the policy says."""
        self._failed += 1
        self._in_a_row += 1
        self.reason = ""
        if self._in_a_row >= self._check.threshold:
            self._healthy = False

    def rule_out(self, reason: str) -> None:
        """A probe cannot be made: nothing is counted, and nothing is known any more."""
        self.reason = reason
        self._healthy = None
        self._in_a_row = 0

    def result(self) -> Result:
        """An immutable copy."""
        return Result(
            self._check,
            self._common,
            self._start,
            self._healthy,
            self._successful,
            self._failed,
            Distribution(dict(self._counts), self._nanoseconds / 1e9, SECONDS),
        )
