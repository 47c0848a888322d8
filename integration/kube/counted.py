"""What a pod's kernel counts, and what the agent shows of it."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from integration.lib import counters
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from integration.kube.agent import ClusterAgent
    from integration.kube.sandbox import Sandbox

RECEIVED = "dolphin_ip_receive_packets_total"
DATAGRAMS = 31
EFFECT = 5
"""Seconds within which a change of a policy or pod is in force."""


def talk(one: Sandbox, count: int = DATAGRAMS) -> int:
    """Send datagrams inside of a pod, over its loopback; returns how many packets its kernel received."""
    with one.netns.routes() as routes:
        routes.link("set", index=1, state="up")
    before = counters.read(one.netns)
    with one.netns.entered():
        receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with receiver, sender:
        receiver.bind(("127.0.0.1", 0))
        for _ in range(count):
            sender.sendto(b"x", receiver.getsockname())
            receiver.recv(16)
    return (counters.read(one.netns) - before).ip_receive_packets("ipv4")


def counted(agent: ClusterAgent, namespace: str) -> dict[str, float]:
    """Pod name -> IPv4 packets received."""
    samples = agent.metrics()
    pods = {series["pod"] for series in samples.series(RECEIVED) if series["pod"].startswith(f"{namespace}/")}
    return {pod.partition("/")[2]: samples.value(RECEIVED, pod=pod, ipfamily="ipv4") for pod in pods}


def wait_counted(agent: ClusterAgent, namespace: str, *names: str) -> None:
    """Wait until exactly these pods have series."""
    wait_until(lambda: counted(agent, namespace).keys() == set(names), deadline=EFFECT, what=f"{names} are counted")


class Watched:
    """A pod whose every packet must be counted, whatever happens meanwhile."""

    def __init__(self, agent: ClusterAgent, sandbox: Sandbox, namespace: str) -> None:
        """Take an agent that counts the pod already, under policy `steady`."""
        self._agent, self._sandbox, self._pod = agent, sandbox, f"{namespace}/web"
        self._sent = 0
        self._started = self.value()

    def value(self) -> float:
        """What the agent shows."""
        return self._agent.value(RECEIVED, pod=self._pod, task="kube-system/steady", ipfamily="ipv4")

    def talk(self) -> None:
        """Make traffic, and judge."""
        self._sent += talk(self._sandbox)
        time.sleep(1)
        assert self.value() - self._started == self._sent, "a count was lost, doubled or reset"
