"""udpSend against OutDatagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import PRIME, SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

PACKETS = "dolphin_udp_send_packets_total"
BYTES = "dolphin_udp_send_bytes_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_datagrams(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """One for each that was sent, however many fragments that made."""
    for end in bench.result(scenario, mode).ends:
        for family in FAMILIES:
            assert end.agent(PACKETS, granularity, ipfamily=family) == end.kernel.udp_send_datagrams(family)


def test_payload(bench: Bench, mode: str, granularity: str) -> None:
    """To the byte: no header counts, and every fragment's part does."""
    result = bench.result("udp_fragments", mode)
    for family in FAMILIES:
        assert result.a.agent(PACKETS, granularity, ipfamily=family) == 2 * PRIME
        assert result.a.agent(BYTES, granularity, ipfamily=family) == PRIME * (300 + 4000)
