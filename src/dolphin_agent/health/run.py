"""One check while it is made: when its probes begin, when they have failed, and what became of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dolphin_agent.errors import ProbeError
from dolphin_agent.health.schedule import turns
from dolphin_agent.health.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from dolphin_agent.health.plan import Check
    from dolphin_agent.health.sockets import Probe


class Run:
    """One check while it is made: at each step a probe that has not ended fails, and at each turn one begins."""

    def __init__(
        self,
        check: Check,
        number: int,
        now: float,
        make: Callable[[Check, Callable[[float | None], None]], Probe],
    ) -> None:
        """Take its number among all checks, monotonic seconds, and what makes its probes."""
        self.tally = Tally(check, time.time())
        self.is_over = False
        self._timeout = check.timeout
        self._probe = make(check, self._finish)
        self._pending = False
        self._turns = turns(number, check.period)
        self._turn = self._turns.first(now)
        self.due = self._turns.at(self._turn)
        """When to take the first step."""
        self._deadline: float | None = None
        """When the probe of this turn has failed, if that is before the next turn."""

    def step(self, now: float) -> float:
        """Do what is due; returns when there is something to do again."""
        if self._pending:
            self._pending = False
            self._probe.abandon()
            self.tally.fail()
        if self._deadline is not None:
            self._deadline = None
            self._turn = self._turns.after(self._turn, now)
            return self._turns.at(self._turn)
        self._begin()
        # Where the turn comes late, as on a machine that was held up, the probe has half of its time all the same.
        least = now + self._timeout / 2
        deadline = max(self._turns.at(self._turn) + self._timeout, least)
        following = self._turns.after(self._turn, least)
        if deadline < self._turns.at(following):
            self._deadline = deadline
            return deadline
        self._turn = following
        return self._turns.at(following)

    def end(self) -> None:
        """Give up, whatever is on its way."""
        self.is_over = True
        if self._pending:
            self._pending = False
            self._probe.abandon()

    def _begin(self) -> None:
        self._pending = True
        try:
            self._probe.begin()
        except ProbeError as fault:
            self._pending = False
            self.tally.rule_out(str(fault))
        except OSError:  # no route, a device that is down, a rule that drops: the pod is not reached
            self._pending = False
            self.tally.fail()

    def _finish(self, seconds: float | None) -> None:
        """A probe has ended by itself."""
        self._pending = False
        if seconds is None or seconds > self._timeout:
            self.tally.fail()
        else:
            self.tally.succeed(seconds)
