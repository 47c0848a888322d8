"""Exactness while a node is busy: softirqs interrupt the programs' own paths, buffers flip, policies change.

The judge is the kernel's counters in the pods; the difference allowed is 0.
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.policy.vocabulary import ITEMS, MAX_TASKS, Granularity
from integration import scenarios
from integration.lib import bpf, judge
from integration.lib.load import exchanging
from integration.lib.manifests import POLICY_NAMESPACE, PodManifest
from integration.lib.wait import unchanged, wait_until
from integration.lib.watch import watching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.conftest import StartAgent
    from integration.lib.agent import Agent, Samples
    from integration.lib.counters import Counters
    from integration.lib.manifests import Manifests
    from integration.lib.topology import Pair

SECONDS = 10.0
"""How long a load lasts."""
FLIP_SECONDS = 0.015
CHANGE_SECONDS = 0.3
STOPPED_SECONDS = 60.0
EXCHANGES, FLIPS = 1000, 20
"""A test with fewer of them proves little. Under emulation a flip waits long for its grace period."""
SETTLED = 120
"""Seconds, for emulation on a busy machine."""
EFFECT = 30
"""Seconds until a change shows under load, likewise."""
FLOW = [name for name, offer in ITEMS.items() if Granularity.FLOW in offer.granularities]
POD = [name for name, offer in ITEMS.items() if Granularity.POD in offer.granularities]
JUDGED = list(judge.ITEMS)

Kernel = tuple["Counters", "Counters"]


@pytest.fixture
def watched(pods: Pair, manifests: Manifests) -> Pair:
    """Both pods, every item per pod (policy `pod`) and per flow (policy `flow`), and packets that stay apart."""
    manifests.write_policy("pod", POD, granularity="pod")
    manifests.write_policy("flow", FLOW, granularity="flow")
    manifests.write_pods(
        PodManifest("a", pods.a.netns.path, labels={"app": "web"}),
        PodManifest("b", pods.b.netns.path, labels={"app": "db", "tier": "back"}),
    )
    return pods


def settled(agent: Agent, pair: Pair) -> tuple[Samples, Kernel]:
    """A scrape and readings of both pods that belong together."""
    return agent.settled(lambda: (pair.a.counters(), pair.b.counters()), deadline=SETTLED)


def check(
    before: tuple[Samples, Kernel],
    after: tuple[Samples, Kernel],
    tasks: Mapping[str, tuple[str, tuple[str, ...]]],
) -> None:
    """Every task (name -> granularity, items) has counted at both pods exactly what the kernel has."""
    for number, pod in enumerate(("a", "b")):
        moved = after[1][number] - before[1][number]
        for name, (granularity, items) in tasks.items():
            said = judge.agent_says(
                before[0],
                after[0],
                granularity=granularity,
                items=items,
                pod=f"default/{pod}",
                task=f"{POLICY_NAMESPACE}/{name}",
            )
            assert said == judge.kernel_says(moved, accepts=pod == "b", items=items), (pod, name)


BOTH = {"pod": ("pod", tuple(JUDGED)), "flow": ("flow", tuple(JUDGED))}


def test_flips_lose_nothing(pods: Pair) -> None:
    """Buffers change places every 15 ms, in the middle of whatever counts."""
    netns = {"a": pods.a.netns.inum, "b": pods.b.netns.inum}

    def kernel() -> Kernel:
        return pods.a.counters(), pods.b.counters()

    # Small tables: they are quickly drained, and as many flows as there are here fit in.
    with scenarios.mode("unmerged", pods), watching(netns, Limits(max_flows=1), Limits()) as watch:
        before = watch.samples(), kernel()
        flips = 0
        with exchanging(pods.a, pods.b) as load:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                watch.drain()
                flips += 1
                time.sleep(FLIP_SECONDS)
        rest = unchanged(kernel, seconds=1, deadline=SETTLED, what="the kernel's counters rest")
        after = watch.samples(), rest
        lost = watch.lost()
    print(f"{load.exchanges} exchanges, {flips} flips")
    check(before, after, BOTH)
    assert load.exchanges >= EXCHANGES
    assert flips >= FLIPS
    assert lost == {}


def test_policies_that_come_and_go_disturb_nobody(watched: Pair, manifests: Manifests, start_agent: StartAgent) -> None:
    """As many policies as there may be over the same pods, one of them never at rest; each is exact.

    They share what is attached: no program more is loaded for all of them than for the first two.
    """
    agent = start_agent()
    wait_until(lambda: agent.metrics().series("dolphin_ip_send_packets_total"), deadline=EFFECT, what="they run")
    programs = bpf.program_ids()
    tasks = dict(BOTH)
    pod_labels: tuple[list[str], ...] = (["app"], ["app", "tier"], ["tier", "app.kubernetes.io/name"], [])
    changing = changes(manifests)
    with ExitStack() as stack:
        stack.enter_context(scenarios.mode("unmerged", watched))
        first = settled(agent, watched)
        with exchanging(watched.a, watched.b) as load:
            for number in range(MAX_TASKS - 1 - len(BOTH)):
                name, granularity = f"p{number}", ("pod", "flow")[number % 2]
                items = tuple(item for place, item in enumerate(JUDGED) if (number + 1) >> place & 1)
                manifests.write_policy(
                    name, items, granularity=granularity, pod_label=pod_labels[number % len(pod_labels)]
                )
                tasks[name] = (granularity, items)
                next(changing)
                time.sleep(CHANGE_SECONDS)
        loads = [load]
        second = settled(agent, watched)
        check(first, second, BOTH)
        running = {labels["task"] for labels in every_series(second[0])}
        assert running >= {f"{POLICY_NAMESPACE}/{name}" for name in tasks}

        with exchanging(watched.a, watched.b) as load:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                next(changing)
                assert bpf.program_ids() == programs
                time.sleep(CHANGE_SECONDS)
        loads.append(load)
        third = settled(agent, watched)
    print(f"{[load.exchanges for load in loads]} exchanges, {next(changing)} changes")
    check(second, third, tasks)
    check(first, third, BOTH)
    assert len(tasks) == MAX_TASKS - 1, "and the one that changes"
    assert bpf.program_ids() == programs
    assert judge.lost(third[0]) == {}
    assert min(load.exchanges for load in loads) >= EXCHANGES


def changes(manifests: Manifests) -> Iterator[int]:
    """Add a policy, change its items, its granularity and its podLabel, and remove it: a step at each `next`."""
    steps = (
        lambda: manifests.write_policy("changing", JUDGED, granularity="flow"),
        lambda: manifests.write_policy("changing", JUDGED[:2], granularity="flow"),
        lambda: manifests.write_policy("changing", JUDGED, granularity="pod"),
        lambda: manifests.write_policy("changing", JUDGED, granularity="pod", pod_label=["app"]),
        lambda: manifests.write_policy("changing", POD, granularity="pod", labels={"tier": "back"}),
        lambda: manifests.remove_policy("changing"),
    )
    for number in count():
        steps[number % len(steps)]()
        yield number + 1


def every_series(samples: Samples) -> list[dict[str, str]]:
    """The labels of everything that is about pods."""
    return [dict(labels) for _, labels in samples.monitored()]


def test_stopped_agent_loses_nothing(watched: Pair, start_agent: StartAgent) -> None:
    """The kernel counts on while the agent is stopped for a minute under load."""
    agent = start_agent()
    wait_until(lambda: agent.metrics().series("dolphin_ip_send_packets_total"), deadline=EFFECT, what="it runs")
    with scenarios.mode("unmerged", watched):
        before = settled(agent, watched)
        with exchanging(watched.a, watched.b) as load:
            time.sleep(1)
            agent.process.send_signal(signal.SIGSTOP)
            try:
                time.sleep(STOPPED_SECONDS)
            finally:
                agent.process.send_signal(signal.SIGCONT)
            time.sleep(1)
        after = settled(agent, watched)
    print(f"{load.exchanges} exchanges")
    check(before, after, BOTH)
    assert judge.lost(after[0]) == {}
    assert load.exchanges >= EXCHANGES
