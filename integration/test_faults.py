"""Bad machines, bad input and violent ends: one clear message, and nothing left behind."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.bpf.layouts import SLOTS
from dolphin_agent.probes.items import ITEMS
from integration import scenarios
from integration.lib import bpf, judge, traffic
from integration.lib.agent import COMMAND, running
from integration.lib.counters import FAMILIES
from integration.lib.drops import has_reasons
from integration.lib.load import exchanging
from integration.lib.manifests import PodManifest
from integration.lib.netns import many_netns, new_netns
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from integration.conftest import StartAgent
    from integration.lib.agent import Agent, Samples
    from integration.lib.counters import Counters
    from integration.lib.manifests import Manifests
    from integration.lib.netns import Netns
    from integration.lib.topology import Pair

MIB = 2**20
ROOM = 10 * MIB
"""More than reading the kernel's types takes, less than the maps of a million flows."""
PRIME = 23
RECEIVED = "dolphin_ip_receive_packets_total"
JUDGED = list(judge.ITEMS)
EFFECT = 30
"""Seconds until a change shows, for emulation on a busy machine."""
SETTLED = 120
"""Seconds, likewise."""
KILLS = 3
NAMESPACES = 1000
"""Made and destroyed under traffic."""
NAMESPACE_SECONDS = 1800.0
"""Of which an emulated kernel needs most."""
DECLARED = 520
"""Pods, more than there are slots for."""
CHARGED_SINCE = (5, 11)
"""From this kernel on maps are charged to the cgroup that makes them; before, to RLIMIT_MEMLOCK."""
ALL = ("ipReceive", "ipSend", "tcpRetrans", "tcpNewConnection")


def output(command: Sequence[str], **options: object) -> tuple[int, str]:
    """Run a command that ends by itself: (status, all it printed)."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload]
    return done.returncode, done.stdout + done.stderr


def run(manifests: Manifests, *options: str, wrapper: Sequence[str] = ()) -> tuple[int, str]:
    """`dolphin-agent run` that is expected to end by itself."""
    files = ["--policies", str(manifests.policies), "--pods", str(manifests.pods)]
    return output([*wrapper, str(COMMAND), "run", "--standalone", *files, *options])


@pytest.mark.usefixtures("guest")
def test_taken_port_is_named(manifests: Manifests) -> None:
    """The address, the reason and the flag; exit 1 and no traceback."""
    with socket.create_server(("127.0.0.1", 10001)):
        status, text = run(manifests, "--listen", "127.0.0.1:10001")
    assert status == 1
    assert "cannot listen on 127.0.0.1:10001: Address already in use" in text
    assert "--listen" in text
    assert "Traceback" not in text


def test_kernel_without_btf(manifests: Manifests, web: PodManifest, start_agent: StartAgent, tmp_path: Path) -> None:
    """`check` refuses with the kernel option to look for; `run` stays up, ready, and says that nothing is counted."""
    empty = tmp_path / "empty"
    empty.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount --bind {empty} /sys/kernel/btf && exec "$@"', "sh"]
    status, text = output([*hide, str(COMMAND), "check"])
    assert status == 1
    assert "CONFIG_DEBUG_INFO_BTF" in text
    assert "Traceback" not in text

    manifests.write_pods(web)
    manifests.write_policy("all", ALL)
    subprocess.run(["mount", "--bind", str(empty), "/sys/kernel/btf"], check=True)
    try:
        agent = start_agent()
        wait_until(lambda: "CONFIG_DEBUG_INFO_BTF" in agent.get("/readyz")[1], deadline=10, what="the fault is named")
        assert agent.metrics().monitored() == {}, "a zero would claim that nothing happened"
        assert agent.terminate()[0] == 0
    finally:
        subprocess.run(["umount", "/sys/kernel/btf"], check=True)


def test_wrong_namespace_paths_are_named(
    manifests: Manifests, web: PodManifest, start_agent: StartAgent, pods: Pair, tmp_path: Path
) -> None:
    """Absent, an ordinary file, another kind of namespace, the node's own: each is named; the good pod counts."""
    plain = tmp_path / "plain"
    plain.touch()
    own = f"/proc/{os.getpid()}/ns"
    bad = {"absent": "/run/netns/none", "plain": str(plain), "mnt": f"{own}/mnt", "node": f"{own}/net"}
    manifests.write_pods(web, *(PodManifest(name, type(web.netns)(path)) for name, path in bad.items()))
    manifests.write_policy("all", ALL)
    agent = start_agent()
    problems = "\n".join(json.loads(agent.get("/readyz")[1])["problems"])
    for name, reason in {
        "absent": "no such network namespace",
        "plain": "an ordinary file",
        "mnt": "a mount namespace",
        "node": "the node's own network namespace",
    }.items():
        assert any(f"default/{name}" in line and reason in line for line in problems.splitlines()), problems
    traffic.ping(pods.a, pods.b, "ipv4", count=23)
    agent.settled(pods.a.counters)
    assert agent.value("dolphin_ip_send_packets_total", pod="default/web", ipfamily="ipv4") == 23


def test_sigterm_under_traffic(manifests: Manifests, web: PodManifest, start_agent: StartAgent, pods: Pair) -> None:
    """Exit status 0 within 5 s, nothing attached any more, no traceback; and less than 80 MiB until then."""
    before = bpf.program_ids()
    manifests.write_pods(web)
    manifests.write_policy("all", ALL)
    agent = start_agent()
    load = threading.Thread(target=traffic.ping, args=(pods.a, pods.b, "ipv4"), kwargs={"count": 200})
    load.start()
    assert bpf.program_ids() > before
    assert agent.rss() < 80 * MIB
    status, seconds = agent.terminate()
    assert bpf.program_ids() == before
    load.join()
    assert (status, "Traceback" in agent.log) == (0, False)
    assert seconds < 5


def test_sigkill_leaves_nothing(manifests: Manifests, web: PodManifest, start_agent: StartAgent) -> None:
    """The kernel detaches what a killed agent had attached: nothing is pinned."""
    before = bpf.program_ids()
    manifests.write_pods(web)
    manifests.write_policy("all", ALL)
    agent = start_agent()
    assert bpf.program_ids() > before
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait(10)
    wait_until(lambda: bpf.program_ids() == before, deadline=10, what="nothing is attached")


@pytest.mark.usefixtures("guest")
def test_check_says_how_each_item_is_measured() -> None:
    """On a Debian kernel every item is exact, but for drops where the kernel gives no reasons."""
    status, text = output([str(COMMAND), "check"])
    rows = [line for line in text.splitlines() if " used " in line]
    assert status == 0
    assert len(rows) == sum(len(item.ladders) for item in ITEMS) + 1, text  # and the service ports
    inexact = {row.split()[0] for row in rows if not row.endswith("exact") or "not exact" in row}
    assert inexact == (set() if has_reasons() else {"ipDrop", "tcpDrop"}), text
    guard, functions, *fitting = text.splitlines()[-6:]
    assert guard.split()[-1] == "used", "the namespace guard is attached"
    assert functions.split()[-1] == "used", "functions have names"
    assert all(" fits" in line for line in fitting), text
    assert [line.split()[0] for line in fitting] == ["(flow", "(pods)", "healthCheck", "healthCheck"], text


REFUSING = """
import sys
from dolphin_agent import cli, errors
from dolphin_agent.probes import ladder

attach = ladder.attach

def refuse(probe, *rest):
    if "tcp_sk_exit" not in probe.hooks and probe.hooks.startswith(("fentry", "fexit")):
        raise errors.BpfError("load: Operation not permitted", errno=1)
    return attach(probe, *rest)

ladder.attach = refuse
sys.exit(cli.main())
"""
"""The agent on a kernel that lets no item use fentry and fexit; all else is really attached and counted."""


def test_refused_hooks_leave_the_next_rungs(manifests: Manifests, web: PodManifest, pods: Pair, tmp_path: Path) -> None:
    """Lower rungs carry the items, agree with the kernel here, and the status says which, why, what they miss."""
    manifests.write_pods(web)
    manifests.write_policy("all", ALL)
    with running(manifests, tmp_path, program=(sys.executable, "-c", REFUSING)) as agent:
        agent.wait_ready()
        items = {item["item"]: item for item in json.loads(agent.get("/readyz")[1])["items"]}
        assert items["ipReceive"]["hooks"] == "tp_btf/netif_receive_skb"
        assert "devices stacked" in items["ipReceive"]["inexact"]
        assert items["ipReceive"]["refused"] == [
            "fentry/ip_rcv_core, fentry/ip6_rcv_core: load: Operation not permitted"
        ]
        assert items["ipSend"]["hooks"] == "tp_btf/net_dev_queue"
        before, kernel = agent.settled(pods.a.counters)
        traffic.connections(pods.b, pods.a, "ipv4", count=23)
        after, kernel_after = agent.settled(pods.a.counters)
    moved = kernel_after - kernel
    received = "dolphin_ip_receive_packets_total"
    opens = "dolphin_tcp_new_connections_total"
    assert after.value(received) - before.value(received) == moved.ip_receive_packets("ipv4")
    assert after.value(opens, direction="inbound") - before.value(opens, direction="inbound") == moved.passive_opens


def problems(agent: Agent) -> str:
    """What /readyz complains of, a line each."""
    return "\n".join(json.loads(agent.get("/readyz")[1])["problems"])


def settled(agent: Agent, pair: Pair) -> tuple[Samples, tuple[Counters, Counters]]:
    """A scrape and readings of both pods that belong together."""
    return agent.settled(lambda: (pair.a.counters(), pair.b.counters()), deadline=SETTLED)


def check(
    before: tuple[Samples, tuple[Counters, Counters]],
    after: tuple[Samples, tuple[Counters, Counters]],
    items: Sequence[str] = JUDGED,
) -> None:
    """Pods `a` and `b` have counted exactly what the kernel has."""
    for number, pod in enumerate(("a", "b")):
        moved = after[1][number] - before[1][number]
        said = judge.agent_says(before[0], after[0], items=items, pod=f"default/{pod}")
        assert said == judge.kernel_says(moved, accepts=pod == "b", items=items), pod


@contextmanager
def memory_cgroup(name: str) -> Iterator[Path]:
    """Make a cgroup whose memory is accounted; it must be empty at the end of the block."""
    root = Path("/sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text("+memory")
    made = root / name
    made.mkdir()
    try:
        yield made
    finally:
        wait_until(lambda: not (made / "cgroup.procs").read_text(), deadline=10, what="the cgroup is empty")
        made.rmdir()


@contextmanager
def small(manifests: Manifests, work: Path) -> Iterator[tuple[Agent, Callable[[], None]]]:
    """Run an agent with little room for more once it is ready, by cgroup; the function takes the limit away."""
    with ExitStack() as stack:
        group = stack.enter_context(memory_cgroup("dolphin-small"))
        limit = group / "memory.max"
        enter = ("sh", "-c", f'echo 0 > {group}/cgroup.procs && exec "$@"', "sh", str(COMMAND))
        agent = stack.enter_context(running(manifests, work, program=enter, options=["--max-flows", "1000000"]))
        agent.wait_ready()
        agent.metrics()
        # What the kernel could give back would make room for the maps.
        Path("/proc/sys/vm/drop_caches").write_text("3")
        limit.write_text(str(int((group / "memory.current").read_text()) + ROOM))
        try:
            yield agent, lambda: (limit.write_text("max"), None)[1]
        finally:
            events = (group / "memory.events").read_text()
            print(events)
            assert "oom_kill 0" in events, agent.log


@contextmanager
def small_memlock(manifests: Manifests, work: Path) -> Iterator[tuple[Agent, Callable[[], None]]]:
    """Run an agent that may lock little memory; the function lets it lock any number."""
    drop = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    program = ("prlimit", f"--memlock={ROOM}", *drop, str(COMMAND))
    with running(manifests, work, program=program, options=["--max-flows", "1000000"]) as agent:
        agent.wait_ready()
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        yield agent, lambda: (resource.prlimit(agent.process.pid, resource.RLIMIT_MEMLOCK, unlimited), None)[1]


def test_memory_limit_is_named(manifests: Manifests, pods: Pair, tmp_path: Path) -> None:
    """Too little memory for the maps: the agent stays up and names what they need, and the remedy.

    Once there is enough it counts, without being started again.
    """
    manifests.write_pods(PodManifest("a", pods.a.netns.path), PodManifest("b", pods.b.netns.path))
    charged = tuple(map(int, platform.release().split(".")[:2])) >= CHARGED_SINCE
    with (small if charged else small_memlock)(manifests, tmp_path) as (agent, enlarge):
        manifests.write_policy("flow", JUDGED, granularity="flow")
        wait_until(lambda: problems(agent), deadline=EFFECT, what="something is said")
        said = problems(agent)
        print(said)
        assert "MiB of kernel memory" in said
        assert "--max-flows" in said
        assert ("raise the memory limit" if charged else "RLIMIT_MEMLOCK") in said
        assert agent.metrics().monitored() == {}, "a zero would claim that nothing happened"
        assert "Traceback" not in said

        enlarge()
        manifests.write_policy("pod", JUDGED)
        wait_until(lambda: not problems(agent), deadline=EFFECT, what="the fault is over")
        with scenarios.mode("unmerged", pods):
            before = settled(agent, pods)
            for family in FAMILIES:
                traffic.connections(pods.a, pods.b, family, count=PRIME)
            check(before, settled(agent, pods))


FLIPPING = """
import sys
from dolphin_agent import agent, cli

agent.TICK_SECONDS = 0.005
sys.exit(cli.main())
"""
"""The agent with its buffers changing places as often as it can."""


def test_sigkill_between_flips_leaves_nothing(
    manifests: Manifests, pods: Pair, tmp_path: Path, start_agent: StartAgent
) -> None:
    """Killed anywhere in a flip under load: no program is left, and a new agent is exact."""
    manifests.write_pods(PodManifest("a", pods.a.netns.path), PodManifest("b", pods.b.netns.path))
    manifests.write_policy("flow", JUDGED, granularity="flow")
    manifests.write_policy("pod", JUDGED)
    none = bpf.program_ids()
    program = (sys.executable, "-c", FLIPPING)
    for number in range(KILLS):
        with running(manifests, tmp_path, program=program, options=["--collect-interval", "1ms"]) as agent:
            agent.wait_ready()
            assert bpf.program_ids() > none
            with exchanging(pods.a, pods.b, threads=8):
                time.sleep(0.5 + 0.37 * number)
                agent.process.send_signal(signal.SIGKILL)
                agent.process.wait(10)
        wait_until(lambda: bpf.program_ids() == none, deadline=EFFECT, what="nothing is attached")
    with scenarios.mode("unmerged", pods):
        agent = start_agent()
        before = settled(agent, pods)
        with exchanging(pods.a, pods.b, threads=8):
            time.sleep(3)
        after = settled(agent, pods)
    check(before, after)
    assert judge.lost(after[0]) == {}


def test_namespaces_that_come_and_go_disturb_nobody(manifests: Manifests, pods: Pair, start_agent: StartAgent) -> None:
    """Under the same path as a pod, with whatever number the kernel gives them: none inherits, the others are exact."""
    short = PodManifest("short", Path("/run/netns/short"))
    manifests.write_pods(PodManifest("a", pods.a.netns.path), PodManifest("b", pods.b.netns.path), short)
    manifests.write_policy("pod", JUDGED)
    agent = start_agent()
    labels = {"pod": "default/short", "ipfamily": "ipv4"}
    made, numbers, most = 0, set(), 0.0
    with ExitStack() as stack:
        stack.enter_context(scenarios.mode("unmerged", pods))
        before = settled(agent, pods)
        with exchanging(pods.a, pods.b, threads=8) as load:
            end = time.monotonic() + NAMESPACE_SECONDS
            while made < NAMESPACES and time.monotonic() < end:
                with new_netns("short") as netns:
                    numbers.add(netns.inum)
                    to_itself(netns, PRIME)
                    if made % 10 == 0:
                        most = max(most, agent.value(RECEIVED, **labels))
                made += 1
        after = settled(agent, pods)
        print(f"{made} namespaces with {len(numbers)} numbers, {load.exchanges} exchanges")
        check(before, after)
        assert most <= PRIME, "one namespace's packets"
        assert made == NAMESPACES
        assert judge.lost(after[0]) == {}

        last = stack.enter_context(new_netns("short"))
        wait_until(lambda: is_at_zero(agent, labels), deadline=EFFECT, what="the pod is counted from zero")
        to_itself(last, PRIME)
        wait_until(lambda: agent.value(RECEIVED, **labels) == PRIME, deadline=EFFECT, what="its packets are counted")


def is_at_zero(agent: Agent, labels: Mapping[str, str]) -> bool:
    """Whether a pod has its series; the last numbers of one that is gone are shown once more."""
    samples = agent.metrics()
    return bool(samples.series(RECEIVED, **labels)) and samples.value(RECEIVED, **labels) == 0


def to_itself(netns: Netns, count: int) -> None:
    """Send datagrams within a namespace."""
    with netns.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        made.bind(("127.0.0.1", 0))
        for _ in range(count):
            made.sendto(b"", made.getsockname())


def test_pods_beyond_the_slots_are_named(manifests: Manifests, pods: Pair, start_agent: StartAgent) -> None:
    """The first ones to be declared are counted, exactly; each of the others is named."""
    items = ["ipReceive"]
    slots = SLOTS - 1
    with many_netns(DECLARED - 2) as netns:
        others = [PodManifest(one.name, one.path) for one in netns]
        a, b = PodManifest("a", pods.a.netns.path), PodManifest("b", pods.b.netns.path)
        manifests.write_pods(a, *others[: slots - 2], b, *others[slots - 2 :])
        manifests.write_policy("pod", items)
        agent = start_agent()
        said = problems(agent)
        assert len(said.splitlines()) == DECLARED - slots
        with scenarios.mode("unmerged", pods):
            before = settled(agent, pods)
            for family in FAMILIES:
                traffic.connections(pods.a, pods.b, family, count=PRIME)
            after = settled(agent, pods)
        check(before, after, items)
        counted = {labels["pod"] for labels in after[0].series(RECEIVED)}
        assert counted == {a.label, b.label, *(one.label for one in others[: slots - 2])}
        assert agent.value("dolphin_agent_pods") == slots

        manifests.write_pods(a, b, *others[slots - 2 :])
        wait_until(lambda: not problems(agent), deadline=EFFECT, what="there is room for all")
        for one in others[slots - 2 :]:
            assert one.label in said, said
