"""Names of metrics."""

from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.probes.items import ITEMS, Histogram

_HISTOGRAM = ("", "_bucket", "_sum", "_count")
_HEALTH = {
    "dolphin_health_check_status",
    "dolphin_health_check_successful_total",
    "dolphin_health_check_failed_total",
    *(f"dolphin_health_check_duration_seconds{end}" for end in _HISTOGRAM),
}


def known():
    """Every name that an agent can export."""
    metrics = [metric for item in ITEMS for metrics in item.metrics.values() for metric in metrics]
    ends = {metric.name: _HISTOGRAM if isinstance(metric, Histogram) else ("",) for metric in metrics}
    own = OwnMetrics(lambda: Vitals({("ipSend", "x"): 1}, ("x",), watch_ages={"pods": 1}, pushes={"failed": 1}))
    found = {sample.name for family in own.collect() for sample in family.samples}
    own.close()
    return found | _HEALTH | {f"{name}{end}" for name in ends for end in ends[name]}
