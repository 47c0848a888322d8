"""ipReceive against In{NoECT,ECT1,ECT0,CE}Pkts and InOctets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import LOSS_FREE, SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

PACKETS = "dolphin_ip_receive_packets_total"
BYTES = "dolphin_ip_receive_bytes_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_packets(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """Both pods, both families: the kernel's own count of packets on the wire, merged or not."""
    result = bench.result(scenario, mode)
    for end in result.ends:
        expected = {family: end.kernel.ip_receive_packets(family) for family in FAMILIES}
        assert {family: end.agent(PACKETS, granularity, ipfamily=family) for family in FAMILIES} == expected
    assert any(end.kernel.ip_receive_packets(family) for end in result.ends for family in FAMILIES)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_bytes_unmerged(bench: Bench, scenario: str, granularity: str) -> None:
    """Where nothing is merged, InOctets."""
    for end in bench.result(scenario, "unmerged").ends:
        expected = {family: end.kernel.ip_receive_bytes(family) for family in FAMILIES}
        assert {family: end.agent(BYTES, granularity, ipfamily=family) for family in FAMILIES} == expected


@pytest.mark.parametrize("scenario", LOSS_FREE)
def test_bytes_merged(bench: Bench, scenario: str, granularity: str) -> None:
    """Merged packets count every segment's headers: what the sender put on the wire, to the byte."""
    result = bench.result(scenario, "merged")
    for family in FAMILIES:
        sent = [end.agent("dolphin_ip_send_bytes_total", granularity, ipfamily=family) for end in result.ends]
        received = [end.agent(BYTES, granularity, ipfamily=family) for end in result.ends]
        assert received == sent[::-1]
        assert all(ours >= end.kernel.ip_receive_bytes(family) for ours, end in zip(received, result.ends, strict=True))
