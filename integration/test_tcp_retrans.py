"""tcpRetrans against RetransSegs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.scenarios import SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

RETRANSMITS = "dolphin_tcp_retransmits_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_segments(bench: Bench, scenario: str, mode: str, granularity: str) -> None:
    """Both families together, at both ends: RetransSegs."""
    for end in bench.result(scenario, mode).ends:
        assert end.agent(RETRANSMITS, granularity) == end.kernel.retrans_segs


def test_loss_made_the_kernel_retransmit(bench: Bench, mode: str) -> None:
    """The lossy scenario retransmits; else the test above proves nothing."""
    assert bench.result("lossy", mode).a.kernel.retrans_segs > 0
