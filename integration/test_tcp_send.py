"""tcpSend against OutSegs and RetransSegs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import PRIME, SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

PACKETS = "dolphin_tcp_send_packets_total"
BYTES = "dolphin_tcp_send_bytes_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_segments(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """Segments sent, new and again; a SYN-ACK that is sent again is in both of the kernel's counters."""
    result = bench.result(scenario, mode)
    for end in result.ends:
        # Pod A opens all connections, so B's SYNs that were sent again are SYN-ACKs.
        again = end.kernel["TcpExt.TCPSynRetrans"] if end is result.b else 0
        assert end.agent(PACKETS, granularity) == end.kernel.out_segs + end.kernel.retrans_segs - again


def test_payload(bench: Bench, mode: str, granularity: str) -> None:
    """Connections that carry 100 bytes each way, to the byte: no header, no handshake counts."""
    for end in bench.result("short_connections", mode).ends:
        for family in FAMILIES:
            assert end.agent(BYTES, granularity, ipfamily=family) == 100 * PRIME
