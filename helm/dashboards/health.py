"""Health checks, beside what the network says by itself."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Kind, Panel, Query
from helm.dashboards.promql import NAMED, SELECTED, mean, most, quantile, variables

_CHECK = "pod, task, ipfamily, command"
_LEGEND = "{{pod}} {{command}} {{ipfamily}} ({{task}})"
_DURATION = "dolphin_health_check_duration_seconds"
_STATUS = f"dolphin_health_check_status{{{SELECTED}}}"


def _checks(result: str) -> str:
    return f"sum by ({_CHECK}) (rate(dolphin_health_check_{result}_total{{{SELECTED}}}[$__rate_interval]))"


DASHBOARD = Dashboard(
    "health",
    "Dolphin / Health",
    "Which pods answer, how often they do not, how long they take. Needs healthCheck in the policy.",
    variables("dolphin_health_check_status"),
    (
        Panel(
            "How many checks find a pod unhealthy?",
            "Checks whose last failureThreshold probes all failed, each pod, policy, family and command by itself. A "
            "pod that has not been asked yet, or cannot be, has no status and is not seen.",
            "short",
            (Query(f"count({_STATUS} == 0) or 0 * count({_STATUS})", "unhealthy"), Query(f"count({_STATUS})", "all")),
            Kind.STAT,
            width=8,
        ),
        Panel(
            "Which pods were healthy, and when?",
            "The status of each check as scraped: what changes and changes back between two scrapes is not seen.",
            "short",
            (Query(f"min by ({_CHECK}) ({_STATUS})", _LEGEND),),
            Kind.STATES,
            width=16,
            states=(("0", "unhealthy", "red"), ("1", "healthy", "green")),
        ),
        Panel(
            "What share of checks fails?",
            "Failed probes of all probes, each counted, whether or not the failureThreshold was reached. It does not "
            "say why: refused, no route and no answer in time are alike.",
            "percentunit",
            (Query(most(f"{_checks('failed')} / ({_checks('failed')} + {_checks('successful')} > 0)"), _LEGEND),),
        ),
        Panel(
            "How long do checks take?",
            "Median and 95 % quantile of how long successful probes took, estimated within the histogram's buckets. A "
            "probe that fails has no duration: read it beside the share that fails.",
            "s",
            tuple(Query(quantile(q, _DURATION, SELECTED, "command"), f"{{{{command}}}} {q:.0%}") for q in (0.5, 0.95)),
        ),
        Panel(
            "Is it the path or the pod that is slow?",
            "The mean duration of a pod's successful probes beside the mean round trip of its own TCP connections "
            "(item tcpRtt). Probes that slow down alone point to the pod or to the way from the node; both, to the "
            "network. They are not the same path: the connections' other ends are anywhere.",
            "s",
            (
                Query(most(mean(_DURATION, SELECTED, "pod, command")), "{{pod}} {{command}}"),
                Query(
                    most(f"{mean('dolphin_flow_tcp_rtt_microseconds', f'{SELECTED}, {NAMED}', 'pod')} / 1e6"),
                    "{{pod}} round trip",
                ),
            ),
            width=24,
        ),
    ),
)
