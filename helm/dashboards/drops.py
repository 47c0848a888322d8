"""Drops: what the kernel of a pod's node throws away, and why."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Panel, Query
from helm.dashboards.promql import FLOW, FLOW_LEGEND, NAMED, SELECTED, most, variables

_BY = "pod, direction, reason"
_W = "$__rate_interval"
_SECONDS = "($__rate_interval_ms / 1000)"


def _dropped(item: str, direction: str) -> str:
    """Per second, by pod and reason; from the flows where that is how the policy counts."""
    chosen = f'{SELECTED}, direction="{direction}"'
    flows = f"sum by ({_BY}, task, ipfamily) (dolphin_flow_{item}_packets_total{{{chosen}}}"
    moved = f"clamp_min({flows}) - {flows} offset {_W}), 0) / {_SECONDS}"
    own = f"rate(dolphin_{item}_packets_total{{{chosen}}}[{_W}])"
    return f"sum by ({_BY}) (max by ({_BY}, ipfamily) ({own}) or max by ({_BY}, ipfamily) ({moved}))"


def _both_ways(item: str) -> tuple[Query, ...]:
    return (
        Query(most(_dropped(item, "receive")), "{{pod}} received: {{reason}}"),
        Query(most(_dropped(item, "send")), "{{pod}} sent: {{reason}}", downwards=True),
    )


def _flows() -> str:
    rate = f"rate(dolphin_flow_ip_drop_packets_total{{{SELECTED}, {NAMED}}}[{_W}])"
    return most(f"max by ({FLOW}, reason) ({rate})")


DASHBOARD = Dashboard(
    "drops",
    "Dolphin / Drops",
    "What the kernel of a pod's node throws away, and why. Needs ipDrop and tcpDrop.",
    variables("dolphin_(flow_)?(ip|tcp)_drop_packets_total"),
    (
        Panel(
            "Which packets does the node drop, and why?",
            "IP packets of the pod that the kernel of its node dropped, by the kernel's reason, or the function where "
            "it has none: on their way to the pod above zero, from it below. A reason appears with its first packet, "
            "whose rate is therefore not shown; what other nodes and the network drop is not seen here.",
            "pps",
            _both_ways("ip_drop"),
        ),
        Panel(
            "How many TCP segments are among them?",
            "Those of TCP, by reason, merged ones counting as what they stand for. A segment that is dropped is mostly "
            "sent again; SYNs that find a listener's queue full are not dropped but consumed, and not in it.",
            "pps",
            _both_ways("tcp_drop"),
        ),
        Panel(
            "Which flows are hit?",
            "Dropped packets by flow and reason, where the policy asks for ipDrop with aggregateType: flow. What is in "
            "`other` is not shown.",
            "pps",
            (Query(_flows(), f"{FLOW_LEGEND}: {{{{reason}}}}"),),
            width=24,
        ),
    ),
)
