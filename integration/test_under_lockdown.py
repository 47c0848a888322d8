"""A kernel that is locked down for confidentiality: what still counts there, and what is said.

There is no way back: this file comes last in a guest, by its name.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent.bpf import kernel as kernel_features
from integration.lib import traffic
from integration.lib.agent import COMMAND
from integration.lib.manifests import PodManifest

if TYPE_CHECKING:
    from integration.conftest import StartAgent
    from integration.lib.manifests import Manifests
    from integration.lib.topology import Pair

PRIME = 23
SECURITY = Path("/sys/kernel/security")
MODE = "confidentiality"
ITEMS = ["ipReceive", "ipSend", "tcpReceive", "tcpSend", "tcpRetrans", "tcpNewConnection"]
OPENED = "dolphin_tcp_new_connections_total"
RECEIVED = "dolphin_ip_receive_packets_total"


def lock_down() -> None:
    """Lock the kernel down, until it is booted again."""
    lockdown = SECURITY / "lockdown"
    if not lockdown.exists():
        subprocess.run(["mount", "-t", "securityfs", "none", str(SECURITY)], check=True)
    if f"[{MODE}]" not in lockdown.read_text():
        lockdown.write_text(MODE)
    assert f"[{MODE}]" in lockdown.read_text()


def test_lockdown_is_named(pods: Pair, manifests: Manifests, start_agent: StartAgent) -> None:
    """`check` and /readyz name the lockdown for every item that it takes away; any other item is exact.

    None is missing where headers are read without a probe read, from 6.2 on.
    """
    lock_down()
    done = subprocess.run([str(COMMAND), "check"], capture_output=True, text=True, timeout=240, check=False)
    print(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr

    manifests.write_pods(PodManifest("a", pods.a.netns.path))
    manifests.write_policy("pod", ITEMS)
    manifests.write_policy("flow", ITEMS[:-1], granularity="flow")
    agent = start_agent()
    status = json.loads(agent.get("/readyz")[1])
    print(json.dumps(status, indent=2))
    counted = {item["item"] for item in status["items"] if item["hooks"] and not item["inexact"]}
    missing = {item["item"] for item in status["items"] if not item["hooks"]}
    before, kernel = agent.settled(pods.a.counters)
    traffic.connections(pods.b, pods.a, "ipv4", count=PRIME)
    after, kernel_after = agent.settled(pods.a.counters)
    if "ipReceive" in counted:
        moved = (kernel_after - kernel).ip_receive_packets("ipv4")
        assert after.value(RECEIVED, ipfamily="ipv4") - before.value(RECEIVED, ipfamily="ipv4") == moved
    else:
        assert not after.series(RECEIVED), "a zero would claim that nothing happened"
    if "tcpNewConnection inbound" in counted:
        accepted = (kernel_after - kernel).passive_opens
        assert accepted == PRIME
        assert after.value(OPENED, direction="inbound") - before.value(OPENED, direction="inbound") == accepted
    assert counted or missing
    if kernel_features.has_rdonly_cast():
        assert not missing
        assert not status["problems"]
    if missing or done.returncode:
        assert "lockdown" in "\n".join(status["problems"])
        assert "lockdown" in done.stdout + done.stderr
