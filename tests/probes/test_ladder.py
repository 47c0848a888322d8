"""Climbing: the best rung that really attaches is used, probes are shared, and one failure stops nothing else."""

import pytest

from dolphin_agent.bpf.layouts import Kind
from dolphin_agent.errors import BpfError
from dolphin_agent.probes.items import Ladder, Probe, Program, Rung
from dolphin_agent.probes.ladder import RETRY_SECONDS, Climber

A, B, C = (Probe(name, (Program(name, f"fentry/{name}"),)) for name in "abc")
BEST_A = Ladder("", (Kind.IP_RECEIVE,), (Rung((A,)), Rung((B,), inexact="counts less")))
ONLY_B = Ladder("", (Kind.IP_SEND,), (Rung((B,)),))
A_AND_C = Ladder("", (Kind.TCP_RETRANS,), (Rung((A, C)),))


class Kernel:
    """Attaches what it is told to, refuses the rest, and remembers everything."""

    def __init__(self, *refused):
        self.refused = set(refused)
        self.attached = []
        self.attempts = []
        self.now = 0.0

    def attach(self, probe):
        self.attempts.append(probe)
        if probe in self.refused:
            raise BpfError("loading: Operation not permitted", errno=1, log="verifier says no")
        self.attached.append(probe)
        return Running(self, probe)


class Running:
    """A probe in the pretended kernel."""

    def __init__(self, kernel, probe):
        self._kernel, self._probe = kernel, probe
        self.misses = 2

    def recursion_misses(self):
        return self.misses

    def detach(self):
        self._kernel.attached.remove(self._probe)


def climber(kernel):
    """A climber over that kernel and its clock."""
    return Climber(kernel.attach, clock=lambda: kernel.now)


def test_best_rung_is_used():
    """Where everything attaches, only the first rung's probe is."""
    kernel = Kernel()
    climber(kernel).climb([BEST_A])
    assert kernel.attached == [A]


def test_refused_rung_leads_to_the_next_and_the_reason_is_kept():
    """The choice carries the kernel's words for the rung above it."""
    kernel = Kernel(A)
    it = climber(kernel)
    it.climb([BEST_A])
    choice = it.choices[BEST_A]
    assert kernel.attached == [B]
    assert choice.rung.inexact == "counts less"
    assert [(r.hooks, r.reason, r.log) for r in choice.refusals] == [
        ("fentry/a", "loading: Operation not permitted", "verifier says no")
    ]


def test_one_ladder_without_a_way_leaves_the_others_running():
    """B is refused: its only user has no rung, the other ladder is not touched."""
    kernel = Kernel(B)
    it = climber(kernel)
    it.climb([ONLY_B, BEST_A])
    assert it.choices[ONLY_B].rung is None
    assert kernel.attached == [A]


def test_shared_probe_is_attached_once_and_stays_while_one_needs_it():
    """Two ladders share A; it goes with the last of them."""
    kernel = Kernel()
    it = climber(kernel)
    it.climb([BEST_A, A_AND_C])
    assert sorted(kernel.attempts, key=str) == [A, C]
    it.climb([A_AND_C])
    assert sorted(kernel.attached, key=str) == [A, C]
    it.climb([])
    assert kernel.attached == []


def test_half_of_a_rung_does_not_stay():
    """C refused: A, attached for the same rung, is taken out again."""
    kernel = Kernel(C)
    climber(kernel).climb([A_AND_C])
    assert kernel.attached == []


def test_running_ladder_keeps_its_rung():
    """A refusal that is over does not move a ladder that counts: changing rungs would lose events."""
    kernel = Kernel(A)
    it = climber(kernel)
    it.climb([BEST_A])
    kernel.refused.clear()
    kernel.now = RETRY_SECONDS * 2
    it.climb([BEST_A])
    assert kernel.attached == [B]


def test_probe_above_a_running_rung_stays_refused_to_others():
    """A would count what B counts already: it is not attached for another ladder while B runs for the first."""
    kernel = Kernel(A)
    it = climber(kernel)
    it.climb([BEST_A])
    kernel.refused.clear()
    kernel.now = RETRY_SECONDS * 2
    it.climb([BEST_A, A_AND_C])
    assert kernel.attached == [B]
    it.climb([A_AND_C])
    it.climb([A_AND_C])
    assert sorted(kernel.attached, key=str) == [A, C]


def test_refused_probe_is_tried_again_only_after_a_while():
    """Every change of policy asks again; the kernel is asked once in RETRY_SECONDS."""
    kernel = Kernel(B)
    it = climber(kernel)
    it.climb([ONLY_B])
    it.climb([ONLY_B])
    assert kernel.attempts == [B]
    kernel.now = RETRY_SECONDS
    kernel.refused.clear()
    it.climb([ONLY_B])
    assert kernel.attached == [B]


def test_missed_runs_outlive_the_probe():
    """What a detached probe missed stays in the sum, and a new one adds to it."""
    kernel = Kernel()
    it = climber(kernel)
    it.climb([ONLY_B])
    it.climb([])
    it.climb([ONLY_B])
    assert it.misses() == {B: 4}


@pytest.mark.parametrize("refused", [(), (C,)])
def test_guard_is_attached_where_possible_and_harms_nothing_where_not(refused):
    """`always` probes are wanted beside the ladders; their refusal is kept apart."""
    kernel = Kernel(*refused)
    it = climber(kernel)
    it.climb([ONLY_B], always=[C])
    assert it.choices[ONLY_B].rung is not None
    assert bool(it.refusal(C)) == bool(refused)
