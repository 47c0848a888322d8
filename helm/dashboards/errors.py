"""Errors: packets that arrive at pods and are refused for what they are."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Panel, Query
from helm.dashboards.promql import SELECTED, most, variables


def _refused(protocol: str) -> tuple[Query, ...]:
    rate = f"rate(dolphin_{protocol}_errors_total{{{SELECTED}}}[$__rate_interval])"
    return (Query(most(f"sum by (pod, reason) (max by (pod, ipfamily, reason) ({rate}))"), "{{pod}} {{reason}}"),)


DASHBOARD = Dashboard(
    "errors",
    "Dolphin / Errors",
    "Packets that arrive at pods malformed, changed on their way, or where they do not belong.",
    variables("dolphin_(ip|tcp)_errors_total"),
    (
        Panel(
            "Which packets does a pod's IP refuse?",
            "IP packets received and refused for what they are, by the reason: a wrong header or checksum, cut short, "
            "for another address, of a protocol that nobody speaks, and of pods that forward, without a route or come "
            "too far. Needs ipError. A checksum of UDP that is wrong is UDP's, and not here.",
            "pps",
            _refused("ip"),
        ),
        Panel(
            "Which segments does its TCP refuse?",
            "TCP segments received and refused for what they are: with a checksum that says they were changed on their "
            "way, a header that is too short, a SYN inside a connection. Needs tcpError; what TCP drops for other "
            "reasons, such as an old sequence number, is not here.",
            "pps",
            _refused("tcp"),
        ),
    ),
)
