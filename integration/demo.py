"""`make demo`: two namespaces talk; the agent's numbers stand beside the kernel's own.

Runs on this machine's kernel or, by `make demo KERNEL=6.12`, in a VM. Everything it makes is gone when it ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib import traffic
from integration.lib.agent import running
from integration.lib.counters import FAMILIES
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import joined_pair

if TYPE_CHECKING:
    from integration.lib.agent import Agent, Samples
    from integration.lib.counters import Counters, Family
    from integration.lib.topology import Pair

PORT = 10001
TALK_SECONDS = 6
TABLE_SECONDS = 2

POLICY = """\
apiVersion: crd.dolphin.io/v1
kind: MonitorPolicy
metadata: {name: demo, namespace: kube-system}
spec:
  podLabel: [app]
  monitor:
    ip:
      ipReceive: {aggregateType: pod}
      ipSend: {aggregateType: pod}
    tcp:
      tcpSend: {aggregateType: pod}
      tcpRetrans: {aggregateType: pod}
      tcpNewConnection: {aggregateType: pod}
"""
FLOWS = """\
apiVersion: crd.dolphin.io/v1
kind: MonitorPolicy
metadata: {name: demo-flows, namespace: kube-system}
spec:
  selector: {matchLabels: {app: client}}
  monitor:
    ip: {ipSend: {aggregateType: flow}}
    tcp: {tcpRtt: {aggregateType: flow}}
"""
FIVE = ("srcip", "srcport", "dstip", "dstport", "protocol")


def rows(name: str, samples: Samples, kernel: Counters, other: Counters) -> list[tuple[str, str, int, int]]:
    """(pod, what, the agent's number, the kernel's) for one pod; `other` is the kernel's at the other end.

    The kernel counts a merged packet sent as one, so packets sent are those that its other end receives.
    """

    def ours(metric: str, **labels: str) -> int:
        return int(samples.value(f"dolphin_{metric}_total", pod=f"default/{name}", **labels))

    table = []
    for family in FAMILIES:
        received, sent = kernel.ip_receive_packets(family), other.ip_receive_packets(family)
        table.append((name, f"{family} packets received", ours("ip_receive_packets", ipfamily=family), received))
        table.append((name, f"{family} packets sent", ours("ip_send_packets", ipfamily=family), sent))
    # A SYN-ACK sent again is in both; only the server, who opens no connection, sends any.
    again = 0 if kernel.active_opens else kernel["TcpExt.TCPSynRetrans"]
    segments = kernel.out_segs + kernel.retrans_segs - again
    table.append((name, "tcp segments sent", ours("tcp_send_packets"), segments))
    table.append((name, "tcp retransmits", ours("tcp_retransmits"), kernel.retrans_segs))
    table.append((name, "tcp opens, outbound", ours("tcp_new_connections", direction="outbound"), kernel.active_opens))
    table.append((name, "tcp opens, inbound", ours("tcp_new_connections", direction="inbound"), kernel.passive_opens))
    return table


def show(table: list[tuple[str, str, int, int]]) -> None:
    """Print one state of the table."""
    print(f"\n{'POD':8} {'COUNTER':24} {'AGENT':>12} {'KERNEL':>12} {'DIFFERENCE':>10}")
    for pod, what, ours, theirs in table:
        print(f"{pod:8} {what:24} {ours:12} {theirs:12} {ours - theirs:10}", flush=True)


def show_flows(samples: Samples) -> bool:
    """Print what the client sent per flow; whether all of it is what its pod sent."""
    print(f"\n{'CLIENT SENT TO':44} {'PACKETS':>10} {'RTT, MEAN':>12}")
    for labels in samples.series("dolphin_flow_ip_send_packets_total"):
        flow = {name: labels[name] for name in FIVE}
        packets = samples.value("dolphin_flow_ip_send_packets_total", **flow)
        rtts = samples.value("dolphin_flow_tcp_rtt_microseconds_count", **flow)
        rtt = f"{samples.value('dolphin_flow_tcp_rtt_microseconds_sum', **flow) / rtts / 1000:.2f} ms" if rtts else ""
        print(f"{flow['dstip']:>28} {flow['dstport']:>9} {flow['protocol']:5} {packets:10.0f} {rtt:>12}")
    pods = samples.value("dolphin_ip_send_packets_total", pod="default/client")
    # Both policies began together, so that each flow's zero is its pod's.
    return samples.value("dolphin_flow_ip_send_packets_total") == pods


def talk(pair: Pair) -> None:
    """Traffic of all kinds: rounds of it for TALK_SECONDS."""
    until = time.monotonic() + TALK_SECONDS
    while time.monotonic() < until:
        for family in FAMILIES:
            talk_once(pair, family)


def talk_once(pair: Pair, family: Family) -> None:
    """One round."""
    traffic.ping(pair.a, pair.b, family, count=50)
    traffic.connections(pair.a, pair.b, family, count=20)
    traffic.refused(pair.a, pair.b, family, count=3)
    traffic.iperf3(pair.a, pair.b, family, size=20_000_000)
    traffic.datagrams(pair.a, pair.b, family, count=20, size=4000)


def main() -> int:
    """Return 0 where all numbers are equal in the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=float, default=0, metavar="SECONDS", help="serve /metrics this long afterwards")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="dolphin-demo-") as directory, joined_pair("dolphin-demo") as pair:
        root = Path(directory)
        manifests = Manifests(root)
        manifests.write_policy_text("demo", POLICY)
        manifests.write_policy_text("demo-flows", FLOWS)
        manifests.write_pods(
            PodManifest("client", pair.a.netns.path, labels={"app": "client"}),
            PodManifest("server", pair.b.netns.path, labels={"app": "server"}),
        )
        print(f"--- policies\n{POLICY}---\n{FLOWS}--- agent")
        with running(manifests, root, port=PORT) as agent:
            agent.wait_ready()
            status = json.loads(agent.get("/readyz")[1])
            for item in status["items"]:
                print(f"{item['item']:25} {item['hooks']}{'  (not exact, see check)' if item['inexact'] else ''}")
            print(f"http://127.0.0.1:{PORT}/metrics", flush=True)
            equal = watch(agent, pair)
            if keep:
                print(f"serving http://127.0.0.1:{PORT}/metrics for {keep:.0f} s")
                time.sleep(keep)
    print("\nequal" if equal else "\nNOT EQUAL")
    return 0 if equal else 1


def watch(agent: Agent, pair: Pair) -> bool:
    """Print the table while the pods talk, and once they rest: whether agent and kernel agree then."""

    def judge() -> tuple[Counters, Counters]:
        return pair.a.counters(), pair.b.counters()

    def table(samples: Samples, now: tuple[Counters, Counters]) -> list[tuple[str, str, int, int]]:
        a, b = (after - before for after, before in zip(now, start, strict=True))
        return [*rows("client", zero(samples), a, b), *rows("server", zero(samples), b, a)]

    def zero(samples: Samples) -> Samples:
        return type(samples)({key: value - first.values.get(key, 0) for key, value in samples.values.items()})

    first, start = agent.settled(judge)
    talking = threading.Thread(target=talk, args=(pair,))
    talking.start()
    while talking.is_alive():
        talking.join(TABLE_SECONDS)
        show(table(agent.metrics(), judge()))
    samples, kernel = agent.settled(judge)
    last = table(samples, kernel)
    print("\n--- at rest")
    show(last)
    whole = show_flows(samples)
    return whole and all(ours == theirs for _, _, ours, theirs in last)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as fault:
        sys.exit(f"demo: {fault}; it needs root")
