"""Waiting for conditions, always with a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_INTERVAL = 0.05


def wait_until(condition: Callable[[], _T], *, deadline: float, what: str, interval: float = _INTERVAL) -> _T:
    """Call `condition` every `interval` seconds until it returns something true, and return that.

    Raises TimeoutError after `deadline` seconds, naming `what` was waited for and what came last.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() >= end:
            raise TimeoutError(f"{what}: not within {deadline:g} s; the last value was {value!r}")
        time.sleep(interval)
    return value


def unchanged(reading: Callable[[], _T], *, seconds: float, deadline: float, what: str) -> _T:
    """Take readings until they have been equal for `seconds`, and return that value.

    Raises TimeoutError after `deadline` seconds.
    """
    last = reading()
    since = time.monotonic()

    def still() -> bool:
        nonlocal last, since
        now = reading()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= seconds

    wait_until(still, deadline=deadline, what=what)
    return last
