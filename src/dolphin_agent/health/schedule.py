"""When each check has its turn: at the same place of every period, spread evenly."""

from __future__ import annotations

import math
from dataclasses import dataclass

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, fill the unit interval evenly however many there are (three-distance theorem)."""


@dataclass(frozen=True)
class Turns:
    """The turns of one check, numbered from the beginning of the clock."""

    period: float
    """Seconds from one to the next."""
    offset: float
    """Seconds of the clock at which turn 0 was."""

    def at(self, turn: int) -> float:
        """Seconds of the clock at which it is due."""
        return self.offset + turn * self.period

    def first(self, now: float) -> int:
        """The first one from now on; it is due within one period."""
        return math.ceil((now - self.offset) / self.period)

    def after(self, turn: int, now: float) -> int:
        """The next one; those that were missed are left out, and never made up for in a burst."""
        return max(turn + 1, self.first(now))


def turns(number: int, period: float) -> Turns:
    """The turns of the check that was begun as the `number`-th."""
    return Turns(period, number * GOLDEN % 1 * period)
