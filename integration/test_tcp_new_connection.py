"""tcpNewConnection against ActiveOpens and PassiveOpens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.lib.counters import FAMILIES
from integration.scenarios import PRIME, SCENARIOS

if TYPE_CHECKING:
    from integration.scenarios import Bench

OPENS = "dolphin_tcp_new_connections_total"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_opens(bench: Bench, scenario: str, mode: str) -> None:
    """Outbound is ActiveOpens, refused ones included; inbound is PassiveOpens."""
    for end in bench.result(scenario, mode).ends:
        assert end.agent(OPENS, direction="outbound") == end.kernel.active_opens
        assert end.agent(OPENS, direction="inbound") == end.kernel.passive_opens


def test_families_are_apart(bench: Bench, mode: str) -> None:
    """As many connections were opened over IPv6 as over IPv4."""
    client = bench.result("short_connections", mode).a
    opened = [client.agent(OPENS, direction="outbound", ipfamily=family) for family in FAMILIES]
    assert opened == [PRIME + 7, PRIME + 7]
