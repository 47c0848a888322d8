"""Connections: which attempts come to nothing, and why."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Kind, Panel, Query
from helm.dashboards.promql import SELECTED, most, variables

_FAILURES = f"dolphin_tcp_connect_failures_total{{{SELECTED}}}"
_WHY = "pod, direction, reason"


def _failed(expr: str) -> str:
    """Both families together, however many policies count them."""
    return f"sum by ({_WHY}) (max by ({_WHY}, ipfamily) ({expr}))"


DASHBOARD = Dashboard(
    "connections",
    "Dolphin / Connections",
    "TCP connections that were tried in vain, by who tried and why. Needs tcpConnectFail.",
    variables("dolphin_tcp_connect_failures_total"),
    (
        Panel(
            "Which attempts to connect fail, and why?",
            "TCP connections per second that the pod tried to open in vain (outbound), or others with it (inbound). A "
            "SYN that finds a full accept queue counts each time it is sent; one to a port where nobody listens is the "
            "client's alone. The first of a kind is not seen in a rate.",
            "cps",
            (Query(most(_failed(f"rate({_FAILURES}[$__rate_interval])")), "{{pod}} {{direction}}: {{reason}}"),),
            width=24,
        ),
        Panel(
            "How many were that since the agents began to count?",
            "The counters themselves, which begin when policy, pod and agent have met: of a pod that is not there any "
            "more, its last value.",
            "short",
            (Query(most(_failed(f"last_over_time({_FAILURES}[$__range])"))),),
            Kind.TABLE,
            width=24,
        ),
    ),
)
