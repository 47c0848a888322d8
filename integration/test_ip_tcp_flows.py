"""Flow series: together with `other` they make up the pod's, and both ends of a flow show the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import LOSS_FREE, SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.scenarios import Bench, PodResult

METRICS = [
    "ip_receive_packets_total",
    "ip_receive_bytes_total",
    "ip_send_packets_total",
    "ip_send_bytes_total",
    "tcp_receive_packets_total",
    "tcp_receive_bytes_total",
    "tcp_send_packets_total",
    "tcp_send_bytes_total",
    "tcp_retransmits_total",
    "udp_receive_packets_total",
    "udp_receive_bytes_total",
    "udp_send_packets_total",
    "udp_send_bytes_total",
]
PROTOCOLS = ("ip", "tcp", "udp")
FIVE = ("srcip", "dstip", "srcport", "dstport", "protocol")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_flows_and_other_make_up_the_pod(bench: Bench, scenario: str, mode: str) -> None:
    """For every metric, of one agent that shows both; and nothing had to go to `other`."""
    for end in bench.result(scenario, mode).ends:
        for family in FAMILIES:
            for metric in METRICS:
                pod = end.increase(f"dolphin_{metric}", "flow", ipfamily=family)
                assert end.increase(f"dolphin_flow_{metric}", "flow", ipfamily=family) == pod, metric
                assert end.increase(f"dolphin_flow_{metric}", "flow", ipfamily=family, protocol="other") == 0


@pytest.mark.parametrize("scenario", LOSS_FREE)
def test_both_ends_show_the_same_flows(bench: Bench, scenario: str, mode: str) -> None:
    """What one pod sends in a flow, the other one receives in the flow with the same five labels."""
    result = bench.result(scenario, mode)
    for end in result.ends:
        for what in (f"{protocol}_{{}}_{unit}_total" for protocol in PROTOCOLS for unit in ("packets", "bytes")):
            sent = flows(end, "dolphin_flow_" + what.format("send"))
            received = flows(result.other(end), "dolphin_flow_" + what.format("receive"))
            assert sent == received


def flows(end: PodResult, metric: str) -> Mapping[tuple[str, ...], int]:
    """The flows that moved: five labels -> increase."""
    found = {}
    for labels in end.after["flow"].series(metric, pod=end.pod):
        five = {name: labels[name] for name in FIVE}
        if moved := end.increase(metric, "flow", **five):
            found[tuple(five.values())] = moved
    return found


def test_connections_to_a_service_are_one_flow(bench: Bench) -> None:
    """However many there are: the client's port is folded."""
    result = bench.result("short_connections", "merged")
    to_service = [flow for flow in flows(result.a, "dolphin_flow_tcp_send_packets_total") if flow[3] == "8080"]
    assert sorted(flow[2] for flow in to_service) == ["ephemeral"] * len(FAMILIES)
