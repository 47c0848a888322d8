"""Bad machines, bad input and violent ends: one clear message, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from integration.lib import bpf, traffic
from integration.lib.agent import COMMAND, running
from integration.lib.manifests import PodManifest
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from integration.conftest import StartAgent
    from integration.lib.manifests import Manifests
    from integration.lib.topology import Pair

MIB = 2**20
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


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize(
    ("dropped", "missing"),
    [
        ("-all", "missing CAP_BPF and CAP_PERFMON"),
        ("-bpf,-sys_admin", "missing CAP_BPF:"),
        ("-perfmon,-sys_admin", "missing CAP_PERFMON"),
    ],
)
def test_missing_capability_is_named(manifests: Manifests, dropped: str, missing: str) -> None:
    """Without root's capabilities the agent says which it needs, and where to add them."""
    wrapper = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    for command in (run(manifests, wrapper=wrapper), output([*wrapper, str(COMMAND), "check"])):
        status, text = command
        assert status == 1
        assert missing in text
        assert "Traceback" not in text


def test_bpf_and_perfmon_are_enough(manifests: Manifests, pods: Pair, web: PodManifest) -> None:
    """Every item attaches without any other capability."""
    wrapper = ["setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all"]
    manifests.write_pods(web)
    assert pods.a.netns.path.exists()
    status, text = output([*wrapper, str(COMMAND), "check"])
    refused = [line for line in text.splitlines() if " refused " in line and "(with err)" not in line]
    assert (status, refused) == (0, []), text


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
    """On a Debian kernel every item has its first, exact rung."""
    status, text = output([str(COMMAND), "check"])
    rows = [line for line in text.splitlines() if " used " in line]
    assert status == 0
    assert len(rows) == 5, text
    assert all(row.endswith("exact") and "not exact" not in row for row in rows), text
    assert text.splitlines()[-1].split()[-1] == "used", "the namespace guard is attached"


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
