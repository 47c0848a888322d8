"""ipSend against OutTransmits and OutOctets, and with merged packets against what arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import LOSS_FREE, SCENARIOS

if TYPE_CHECKING:
    from integration.lib.counters import Family
    from integration.scenarios import Bench

PACKETS = "dolphin_ip_send_packets_total"
BYTES = "dolphin_ip_send_bytes_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_unmerged(bench: Bench, scenario: str, granularity: str) -> None:
    """Packets and bytes handed to the device, fragments counted each; what the qdisc loses is among them."""
    for end in bench.result(scenario, "unmerged").ends:
        for family in FAMILIES:
            expected = (end.kernel.ip_send_packets(family), end.kernel.ip_send_bytes(family))
            assert (
                end.agent(PACKETS, granularity, ipfamily=family),
                end.agent(BYTES, granularity, ipfamily=family),
            ) == expected


@pytest.mark.parametrize("scenario", LOSS_FREE)
def test_merged(bench: Bench, scenario: str, granularity: str) -> None:
    """Merged packets count as those that the kernel at the other end receives."""
    result = bench.result(scenario, "merged")
    for end in result.ends:
        expected = {family: result.received_at(end, family) for family in FAMILIES}
        assert {family: end.agent(PACKETS, granularity, ipfamily=family) for family in FAMILIES} == expected


@pytest.mark.parametrize("scenario", ["bulk_ipv4", "bulk_ipv6"])
def test_merging_took_place(bench: Bench, scenario: str) -> None:
    """The kernel handed fewer packets to the device than were on the wire; else the tests above prove nothing."""
    result = bench.result(scenario, "merged")
    family: Family = "ipv4" if scenario == "bulk_ipv4" else "ipv6"
    assert result.a.kernel.ip_send_packets(family) < result.a.agent(PACKETS, ipfamily=family) / 2
