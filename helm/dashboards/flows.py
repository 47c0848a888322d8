"""Flows: who talks, how long a round trip takes, what the network loses."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Kind, Panel, Query
from helm.dashboards.promql import (
    FLOW,
    FLOW_LEGEND,
    NAMED,
    SELECTED,
    flow_rate,
    flow_volume,
    mean,
    most,
    quantile,
    variables,
)

_RTT = "dolphin_flow_tcp_rtt_microseconds"
_CHOSEN = f"{SELECTED}, {NAMED}"
_EVERYONE = ""


def _loss() -> str:
    """Of what the chosen pods send; the receiver may be any pod."""
    sent = flow_rate("ip_send_packets_total", window="5m")
    received = flow_rate("ip_receive_packets_total", chosen=_EVERYONE, window="5m")
    return most(f"1 - {received} / ({sent} > 0.1)")


def _again() -> str:
    return most(f"{flow_rate('tcp_retransmits_total')} / ({flow_rate('tcp_send_packets_total')} > 1)")


DASHBOARD = Dashboard(
    "flows",
    "Dolphin / Flows",
    "Who talks with whom, how long a round trip takes, what the network loses. Needs items with aggregateType: flow.",
    variables("dolphin_flow_.+"),
    (
        Panel(
            "Which flows are the busiest?",
            "Bytes of IP packets with their headers per second, as the sender counts them, or the receiver where the "
            "sender is not monitored. A flow shorter than two scrapes has no rate; what is in `other` is not shown.",
            "Bps",
            (
                Query(
                    most(f"({flow_rate('ip_send_bytes_total')} or {flow_rate('ip_receive_bytes_total')})"), FLOW_LEGEND
                ),
            ),
        ),
        Panel(
            "Which flows moved the most?",
            "Bytes of IP packets in the time shown, to the byte; all of a flow that began within it. Flows that have "
            "ended since, and left for `other`, are not listed.",
            "bytes",
            (Query(most(f"({flow_volume('ip_send_bytes_total')} or {flow_volume('ip_receive_bytes_total')})")),),
            Kind.TABLE,
        ),
        Panel(
            "How are round-trip times spread?",
            "Samples of the kernel's smoothed TCP round-trip time, at most one per round trip and connection, so a "
            "busy connection does not outvote the rest; a pod that several policies select is in it once for each. "
            "Classic buckets are two octaves wide, native ones a quarter of one.",
            "µs",
            (
                Query(f"sum by (le) (increase({_RTT}_bucket{{{_CHOSEN}}}[$__rate_interval]))", "{{le}}"),
                Query(f"sum (increase({_RTT}{{{_CHOSEN}}}[$__rate_interval]))"),
            ),
            Kind.HEATMAP,
        ),
        Panel(
            "How long does a round trip take?",
            "Mean and quantiles of those samples. The mean is exact; with classic buckets a quantile is a guess within "
            "a bucket whose end is four times its beginning. Connections that only receive have no samples.",
            "µs",
            (
                Query(mean(_RTT, _CHOSEN), "mean"),
                *(Query(quantile(q, _RTT, _CHOSEN), f"{q:.0%}") for q in (0.5, 0.95, 0.99)),
            ),
        ),
        Panel(
            "Which flows have the slowest round trips?",
            "Mean of the kernel's smoothed round-trip time, the pod as source. It includes the delay of the other "
            "end's acknowledgements, not the time that its application takes to answer.",
            "µs",
            (Query(most(mean(_RTT, _CHOSEN, FLOW)), FLOW_LEGEND),),
        ),
        Panel(
            "Which flows lose packets on the way?",
            "Share of the packets that a chosen pod sent and the pod at the other end did not receive, over 5 minutes; "
            "queues of the sender's own node count as the way, and offloads do not disturb it. Shown only where both "
            "ends are monitored at flow granularity and no NAT (such as a Service's address) changes addresses "
            "between, from 30 packets on; it lies for minutes when a flow begins or ends, and where packets are split.",
            "percentunit",
            (Query(_loss(), FLOW_LEGEND),),
        ),
        Panel(
            "Which flows send again?",
            "Segments retransmitted of the TCP segments sent in a flow with more than one segment per second. A "
            "retransmission may be needless: compare with the loss.",
            "percentunit",
            (Query(_again(), FLOW_LEGEND),),
            width=24,
        ),
    ),
)
