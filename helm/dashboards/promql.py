"""The expressions that panels share.

Two things keep them from counting twice or not at all:

- Each task has series of its own of the pods it selects. Those of one pod grow alike, so the largest rate is taken,
  not their sum.
- A flow that ends goes over to its pod's series `other` with all it has counted, which would be a step in the rate of
  that series. The flows of a pod with `other` are always the pod, so they are added up first and compared with
  themselves one interval earlier.
"""

from __future__ import annotations

from helm.dashboards.grafana import Variable

SELECTED = 'pod=~"$namespace/.+", pod=~"$pod", task=~"$task"'
"""The pods and tasks that are chosen; the label pod is `namespace/name`."""
NAMED = 'srcip!="other"'
"""Flows kept in detail."""
FLOW = "srcip, dstip, srcport, dstport, protocol"
FLOW_LEGEND = "{{srcip}}:{{srcport}} → {{dstip}}:{{dstport}} {{protocol}}"
MOST = 20
"""Lines in a panel of which there could be thousands."""

_W = "$__rate_interval"
_SECONDS = "($__rate_interval_ms / 1000)"


def variables(metrics: str) -> tuple[Variable, ...]:
    """Namespace, pod and task of the series whose names match a regular expression."""

    def values(label: str, *chosen: str) -> str:
        matchers = ", ".join((f'__name__=~"{metrics}"', 'task!=""', *chosen))
        return f"label_values({{{matchers}}}, {label})"

    return (
        Variable("namespace", "Namespace", values("pod"), r"/^([^\/]+)\//"),
        Variable("pod", "Pod", values("pod", 'pod=~"$namespace/.+"')),
        Variable("task", "Policy", values("task", 'pod=~"$pod"')),
    )


def most(expr: str) -> str:
    """The largest at each moment."""
    return f"topk({MOST}, {expr})"


def pod_rate(metric: str) -> str:
    """Per second and pod, both families together; from the flows where that is how the policy counts."""
    flows = f"sum by (pod, task, ipfamily) (dolphin_flow_{metric}{{{SELECTED}}}"
    moved = f"clamp_min({flows}) - {flows} offset {_W}), 0) / {_SECONDS}"
    own = f"rate(dolphin_{metric}{{{SELECTED}}}[{_W}])"
    return f"sum by (pod) (max by (pod, ipfamily) ({own}) or max by (pod, ipfamily) ({moved}))"


def flow_rate(metric: str, *, chosen: str = f"{SELECTED}, ", window: str = _W) -> str:
    """Per second and flow, as one end counts it."""
    return f"max by ({FLOW}) (rate(dolphin_flow_{metric}{{{chosen}{NAMED}}}[{window}]))"


def flow_volume(metric: str) -> str:
    """What a flow counted in the time shown: all of it where it began later."""
    series = f"dolphin_flow_{metric}{{{SELECTED}, {NAMED}}}"
    return f"max by ({FLOW}) ({series} - {series} offset $__range >= 0 or {series})"


def quantile(q: float, histogram: str, chosen: str, by: str = "") -> str:
    """Of a histogram, native or with classic buckets, whichever Prometheus has."""
    labels = f" by ({by})" if by else ""
    classic = f"sum by ({', '.join(filter(None, ('le', by)))}) (rate({histogram}_bucket{{{chosen}}}[{_W}]))"
    native = f"sum{labels} (rate({histogram}{{{chosen}}}[{_W}]))"
    return f"histogram_quantile({q}, {classic}) or histogram_quantile({q}, {native})"


def mean(histogram: str, chosen: str, by: str = "") -> str:
    """Of a histogram, exact whatever its buckets are."""
    labels = f" by ({by})" if by else ""
    total, count = (f"sum{labels} (rate({histogram}_{end}{{{chosen}}}[{_W}]))" for end in ("sum", "count"))
    native = f"sum{labels} (rate({histogram}{{{chosen}}}[{_W}]))"
    return f"({total} / ({count} > 0) or histogram_sum({native}) / (histogram_count({native}) > 0))"
