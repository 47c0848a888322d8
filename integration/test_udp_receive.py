"""udpReceive against the kernel's UDP counters, and against what the other end sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import LOSS_FREE, PRIME, SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

PACKETS = "dolphin_udp_receive_packets_total"
BYTES = "dolphin_udp_receive_bytes_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_datagrams(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """Those that were read, that nobody listened for, and that were dropped."""
    for end in bench.result(scenario, mode).ends:
        for family in FAMILIES:
            assert end.agent(PACKETS, granularity, ipfamily=family) == end.kernel.udp_receive_datagrams(family)


@pytest.mark.parametrize("scenario", LOSS_FREE)
def test_all_that_is_sent_arrives(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """Datagrams and payload: what the other end sent."""
    result = bench.result(scenario, mode)
    for end in result.ends:
        sender = result.other(end)
        for family in FAMILIES:
            received = (
                end.agent(PACKETS, granularity, ipfamily=family),
                end.agent(BYTES, granularity, ipfamily=family),
            )
            assert received == (
                sender.agent("dolphin_udp_send_packets_total", granularity, ipfamily=family),
                sender.agent("dolphin_udp_send_bytes_total", granularity, ipfamily=family),
            )


def test_undelivered_took_place(bench: Bench, mode: str) -> None:
    """Some were refused, some dropped, some read; else the tests above prove little."""
    kernel = bench.result("udp_undelivered", mode).b.kernel
    assert (kernel["Udp.NoPorts"], kernel["Udp6NoPorts"]) == (PRIME, PRIME)
    assert min(kernel["Udp.RcvbufErrors"], kernel["Udp6RcvbufErrors"]) > 0
    assert min(kernel["Udp.InDatagrams"], kernel["Udp6InDatagrams"]) > 0
