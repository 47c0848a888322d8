"""When turns come."""

import pytest

from dolphin_agent.health.schedule import turns


@pytest.mark.parametrize("period", [1.0, 5.0, 60.0])
@pytest.mark.parametrize("now", [0.0, 0.3, 1234.5678, 1e6 + 1 / 3])
def test_first_turn_is_within_one_period(now, period):
    for number in range(1, 500):
        made = turns(number, period)
        assert now <= made.at(made.first(now)) <= now + period


def test_spread():
    """However many begin, at whatever times, no hundredth of the period has many more than its share."""
    for count in (10, 100, 250, 1000):
        places = [turns(number, 1.0).at(0) % 1.0 for number in range(1, count + 1)]
        most = max(sum(place // 0.01 == slot for place in places) for slot in range(100))
        assert most <= count / 100 + 2


def test_one_turn_a_period():
    """For a day of them, whatever the floating point does: the next one is one period later, and never the same."""
    made = turns(7, 1.0)
    turn, now = made.first(1e5), 1e5
    for _ in range(86_400):
        now = made.at(turn)
        following = made.after(turn, now)
        assert following == turn + 1
        turn = following


def test_missed_turns_are_left_out():
    """A thread that was held up for long goes on at its place in the period."""
    made = turns(7, 2.0)
    late = made.at(10) + 7.1
    assert made.after(10, late) == 14
    assert made.after(10, made.at(10) + 1.9) == 11
