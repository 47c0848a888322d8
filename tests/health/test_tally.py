"""Counts, and the verdict."""

import pytest

from dolphin_agent.health.tally import Tally
from dolphin_agent.snapshot.buckets import SECONDS
from tests.builders import check


def verdicts(threshold, ends):
    """The verdict after each probe: + answered, - not, x impossible."""
    tally = Tally(check(threshold=threshold), 5.0)
    found = []
    for end in ends:
        {"+": lambda: tally.succeed(0.001), "-": tally.fail, "x": lambda: tally.rule_out("no way")}[end]()
        found.append(tally.result().healthy)
    return found, tally.result()


@pytest.mark.parametrize(
    ("threshold", "ends", "expected"),
    [
        (1, "-+-", [False, True, False]),
        (3, "+--+---+", [True, True, True, True, True, True, False, True]),
        (3, "---", [None, None, False]),
        (2, "+x-+", [True, None, None, True]),
        (2, "-x--", [None, None, None, False]),
    ],
)
def test_threshold(threshold, ends, expected):
    """Unhealthy after so many failures in a row, healthy after one success, unknown before either."""
    found, result = verdicts(threshold, ends)
    assert found == expected
    assert (result.successful, result.failed) == (ends.count("+"), ends.count("-"))


def test_durations():
    """Of the successful ones, in buckets of seconds; the sum is exact."""
    tally = Tally(check(), 5.0)
    for seconds in (0.001, 0.001, 0.1, 0.0):
        tally.succeed(seconds)
    tally.fail()
    result = tally.result()
    assert (result.start, result.durations.count, result.durations.sum) == (5.0, 4, 0.102)
    assert result.durations.counts == {SECONDS.bucket(0.001): 2, SECONDS.bucket(0.1): 1, 0: 1}


def test_reason():
    """There while no probe can be made."""
    tally = Tally(check(), 5.0)
    tally.rule_out("no way")
    assert tally.reason == "no way"
    tally.fail()
    assert tally.reason == ""


def test_result_does_not_move():
    tally = Tally(check(), 5.0)
    tally.succeed(0.001)
    before = tally.result()
    tally.succeed(0.001)
    assert (before.successful, before.durations.count) == (1, 1)
