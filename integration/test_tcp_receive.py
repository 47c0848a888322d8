"""tcpReceive against InSegs, and with merged packets against what the other end sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import LOSS_FREE, SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

PACKETS = "dolphin_tcp_receive_packets_total"
BYTES = "dolphin_tcp_receive_bytes_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_unmerged(bench: Bench, scenario: str, granularity: str) -> None:
    """Both families together: InSegs."""
    for end in bench.result(scenario, "unmerged").ends:
        assert end.agent(PACKETS, granularity) == end.kernel.in_segs


@pytest.mark.parametrize("scenario", LOSS_FREE)
def test_all_that_is_sent_arrives(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """Segments and payload, merged or not: what the other end sent."""
    result = bench.result(scenario, mode)
    for end in result.ends:
        sender = result.other(end)
        assert end.agent(PACKETS, granularity) >= end.kernel.in_segs
        for family in FAMILIES:
            received = (
                end.agent(PACKETS, granularity, ipfamily=family),
                end.agent(BYTES, granularity, ipfamily=family),
            )
            assert received == (
                sender.agent("dolphin_tcp_send_packets_total", granularity, ipfamily=family),
                sender.agent("dolphin_tcp_send_bytes_total", granularity, ipfamily=family),
            )
