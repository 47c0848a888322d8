"""Probes that begin, end and fail in their turns."""

import pytest

from dolphin_agent.errors import ProbeError
from dolphin_agent.health.run import Run
from tests.builders import check


class Asked:
    """A probe that ends when the test says so."""

    def __init__(self, end):
        self.end = end
        self.begun = self.abandoned = 0
        self.fault = None

    def begin(self):
        self.begun += 1
        if self.fault:
            raise self.fault

    def abandon(self):
        self.abandoned += 1


def made(**fields):
    """(run, its probe, when its first step is due)."""
    probes = []

    def make(_check, end):
        probes.append(Asked(end))
        return probes[0]

    run = Run(check(**fields), 1, 1000.0, make)
    return run, probes[0], run.due


def counts(run):
    result = run.tally.result()
    return result.successful, result.failed


def test_every_turn_counts_once():
    """Answered or not: by the next turn the probe has ended."""
    run, probe, due = made(period=1)
    assert run.step(due) == pytest.approx(due + 1)
    probe.end(0.01)
    assert counts(run) == (1, 0)
    run.step(due + 1)
    assert counts(run) == (1, 0)
    run.step(due + 2)
    assert (counts(run), probe.begun, probe.abandoned) == ((1, 1), 3, 1)


def test_long_period():
    """A probe has failed after 5 s, and the next one begins at its turn."""
    run, probe, due = made(period=60)
    assert run.step(due) == pytest.approx(due + 5)
    assert run.step(due + 5) == pytest.approx(due + 60)
    assert (counts(run), probe.begun, probe.abandoned) == ((0, 1), 1, 1)
    run.step(due + 60)
    probe.end(4.9)
    assert run.step(due + 65) == pytest.approx(due + 120)
    assert counts(run) == (1, 1)


def test_late_answer_has_failed():
    """One that is seen after the timeout, before the turn that would have said so."""
    run, probe, due = made(period=1)
    run.step(due)
    probe.end(1.2)
    assert counts(run) == (0, 1)


@pytest.mark.parametrize("late", [0.001, 0.4, 0.6, 0.999, 1.2, 7.7])
def test_late_turn(late):
    """A probe has half of its time, however late this thread is; turns that were missed are not made up for."""
    run, probe, due = made(period=1)
    at = run.step(due + late)
    assert at >= due + late + 0.5 - 1e-6
    while probe.begun == 1:
        begun, at = at, run.step(at)
    assert counts(run) == (0, 1)
    assert begun - due == pytest.approx(round(begun - due)), "at its place in the period"
    assert begun - due - late <= 1.5


def test_probe_that_fails_at_once():
    """No route, or a device that is down."""
    run, probe, due = made(period=1)
    probe.fault = OSError("unreachable")
    run.step(due)
    assert counts(run) == (0, 1)
    run.step(due + 1)
    assert (counts(run), probe.abandoned) == ((0, 2), 0)


def test_probe_that_cannot_be_made():
    """Nothing is counted; it is tried again at each turn."""
    run, probe, due = made(period=1)
    probe.fault = ProbeError("no way")
    run.step(due)
    assert (counts(run), run.tally.reason) == ((0, 0), "no way")
    probe.fault = None
    run.step(due + 1)
    probe.end(0.1)
    assert (counts(run), run.tally.reason) == ((1, 0), "")


def test_end():
    """What is on its way is given up, and counted nowhere."""
    run, probe, due = made(period=1)
    run.step(due)
    run.end()
    assert (counts(run), probe.abandoned, run.is_over) == ((0, 0), 1, True)
