"""Chooses how each ladder is climbed on this kernel, by really loading and attaching; shares probes between ladders."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from dolphin_agent.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dolphin_agent.bpf.object import Object, Program
    from dolphin_agent.bpf.tables import Tables
    from dolphin_agent.probes.items import Ladder, Probe, Rung

RETRY_SECONDS = 60.0
"""A refused probe is tried again when wanted after this long: what the kernel lacks stays lacking, memory may not."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Refusal:
    """Why a rung is not in use."""

    hooks: str
    reason: str
    log: str = ""
    """Tail of the verifier's log, may be empty."""


@dataclass(frozen=True)
class Choice:
    """The outcome of climbing one ladder."""

    ladder: Ladder
    rung: Rung | None
    """None: no way to count on this kernel."""
    refusals: tuple[Refusal, ...]
    """One for each rung tried and refused, best first."""

    @property
    def passed_over(self) -> tuple[Probe, ...]:
        """The probes of the better rungs that are not on the one in use."""
        if self.rung is None:
            return ()
        better = self.ladder.rungs[: self.ladder.rungs.index(self.rung)]
        return tuple(probe for rung in better for probe in rung.probes if probe not in self.rung.probes)

    @property
    def hooks(self) -> str:
        """The hooks in use, for people; empty when there are none."""
        return ", ".join(probe.hooks for probe in self.rung.probes) if self.rung else ""


class Attached:
    """A probe that runs now."""

    def __init__(self, bpf_object: Object, programs: Iterable[Program]) -> None:
        self._object = bpf_object
        self._programs = tuple(programs)

    def recursion_misses(self) -> int:
        """Runs skipped since it was attached."""
        return sum(program.recursion_misses() for program in self._programs)

    def detach(self) -> None:
        """Takes it out of the kernel."""
        self._object.close()


def attach(probe: Probe, tables: Tables) -> Attached:
    """Loads and attaches all programs of a probe, or none. Raises BpfError with the kernel's reason."""
    bpf_object = tables.open(probe.source)
    try:
        bpf_object.reuse(tables.fds)
        names = [program.name for program in probe.programs]
        bpf_object.load(names)
        return Attached(bpf_object, [bpf_object.attach(name) for name in names])
    except BpfError:
        bpf_object.close()
        raise


class Climber:
    """Keeps the probes attached that the chosen rungs need, and no others."""

    def __init__(self, attach_probe: Callable[[Probe], Attached], clock: Callable[[], float] = time.monotonic) -> None:
        self._attach = attach_probe
        self._clock = clock
        self._attached: dict[Probe, Attached] = {}
        self._refused: dict[Probe, tuple[float, BpfError]] = {}
        self._held: set[Probe] = set()
        self._misses: dict[Probe, int] = {}
        self._logged: set[tuple[str, str]] = set()
        self.choices: dict[Ladder, Choice] = {}

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The probes attached now."""
        return tuple(self._attached)

    def climb(self, ladders: Iterable[Ladder], always: Iterable[Probe] = ()) -> None:
        """Attaches what is missing for these ladders, and `always` if the kernel lets it; detaches what is not needed.

        A ladder that runs already keeps its rung: changing it under way would lose events. For the same reason a probe
        above its rung stays refused to all others: both would count the same packets.
        """
        wanted = dict.fromkeys(ladders)
        self._held = {probe for choice in self.choices.values() for probe in choice.passed_over}
        self.choices = {ladder: self._settled(ladder) or self._climb(ladder) for ladder in wanted}
        needed = {probe for choice in self.choices.values() if choice.rung for probe in choice.rung.probes}
        needed.update(probe for probe in always if self._try(probe) is None)
        for probe in [probe for probe in self._attached if probe not in needed]:
            attached = self._attached.pop(probe)
            self._misses[probe] = self._misses.get(probe, 0) + attached.recursion_misses()
            attached.detach()
            log.info("detached", hooks=probe.hooks)

    def refusal(self, probe: Probe) -> Refusal | None:
        """Why a probe is not attached, if it was refused."""
        found = self._refused.get(probe)
        return Refusal(probe.hooks, str(found[1]), found[1].log) if found else None

    def misses(self) -> dict[Probe, int]:
        """Runs that the kernel skipped, per probe, over the life of the agent."""
        total = dict(self._misses)
        for probe, attached in self._attached.items():
            total[probe] = total.get(probe, 0) + attached.recursion_misses()
        return total

    def close(self) -> None:
        """Detaches everything."""
        self.climb(())

    def _settled(self, ladder: Ladder) -> Choice | None:
        choice = self.choices.get(ladder)
        return choice if choice and choice.rung else None

    def _climb(self, ladder: Ladder) -> Choice:
        refusals: list[Refusal] = []
        for rung in ladder.rungs:
            faults = [(probe, fault) for probe in rung.probes if (fault := self._try(probe))]
            if not faults:
                break
            refusals.extend(Refusal(probe.hooks, str(fault), fault.log) for probe, fault in faults)
        else:
            rung = None
        return Choice(ladder, rung, tuple(refusals))

    def _try(self, probe: Probe) -> BpfError | None:
        """Attaches a probe unless it is, or was refused lately."""
        if probe in self._attached:
            return None
        refused = self._refused.get(probe)
        if refused and (probe in self._held or self._clock() - refused[0] < RETRY_SECONDS):
            return refused[1]
        try:
            self._attached[probe] = self._attach(probe)
        except BpfError as fault:
            self._refused[probe] = (self._clock(), fault)
            if (key := (probe.hooks, str(fault))) not in self._logged:
                self._logged.add(key)
                log.warning("hook refused", hooks=probe.hooks, reason=str(fault), verifier=fault.log)
            return fault
        self._refused.pop(probe, None)
        log.info("attached", hooks=probe.hooks)
        return None
