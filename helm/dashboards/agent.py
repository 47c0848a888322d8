"""The agents themselves."""

from __future__ import annotations

from helm.dashboards.grafana import Dashboard, Kind, Panel, Query, Variable

_CHOSEN = 'instance=~"$instance"'
_WHO = "{{instance}} {{node}}"


def _gauge(name: str) -> str:
    return f"dolphin_agent_{name}{{{_CHOSEN}}}"


def _rate(name: str, chosen: str = "") -> str:
    return f"rate(dolphin_agent_{name}_total{{{_CHOSEN}{chosen}}}[$__rate_interval])"


DASHBOARD = Dashboard(
    "agent",
    "Dolphin / Agents",
    "Whether the agents do their work, what it costs, and what their numbers may lack.",
    (Variable("instance", "Agent", "label_values(dolphin_agent_build_info, instance)"),),
    (
        Panel(
            "Which agents run, and which build?",
            "The version of each agent that answered the last scrape, and its node's kernel. One that does not answer "
            "is missing here: compare with the number of nodes.",
            "short",
            (Query(f"max by (instance, node, version, kernel) ({_gauge('build_info')})"),),
            Kind.TABLE,
        ),
        Panel(
            "Is anything wrong on a node?",
            "Problems that the agent lists at /readyz: policies refused, items counted inexactly or not at all, pods "
            "without room, an API server that does not answer. What they are: `kubectl describe nm NODE`. Pods that "
            "cannot be monitored at all, such as those with hostNetwork, are listed there and not counted here.",
            "short",
            (Query(_gauge("problems"), _WHO),),
        ),
        Panel(
            "What do the numbers lack?",
            "Events per second that an item may have missed, at most, and counts of flows that went to `other` because "
            "--max-flows were kept already, which lack detail and nothing else. Both are 0 normally.",
            "cps",
            (
                Query(
                    f"sum by (instance, node, item, reason) ({_rate('lost_events')})",
                    f"{_WHO} {{{{item}}}} {{{{reason}}}}",
                ),
                Query(f"sum by (instance, node) ({_rate('flows_refused')})", f"{_WHO} flows refused"),
            ),
        ),
        Panel(
            "How many series and flows are there?",
            "Series exported, the agent's own left out: Prometheus stores 14 for each that is a classic histogram. "
            "Flows kept in detail, of which there can be as many as --max-flows says.",
            "short",
            (
                Query(_gauge("series"), f"{_WHO} series"),
                Query(_gauge("flows"), f"{_WHO} flows"),
                Query(_gauge("max_flows"), f"{_WHO} flows at most"),
            ),
        ),
        Panel(
            "How long does reading the kernel take?",
            "Duration of the last drain of the kernel's counters, the wait for running programs included. Only the "
            "drain before each scrape is seen.",
            "s",
            (Query(_gauge("drain_seconds"), _WHO),),
        ),
        Panel(
            "How old is what the agent knows?",
            "Time since the API server showed that the pods and policies known are current; below 60 s normally. "
            "Agents that run standalone have none.",
            "s",
            (Query(_gauge("watch_age_seconds"), f"{_WHO} {{{{kind}}}}"),),
        ),
        Panel(
            "Do OTLP pushes arrive?",
            "Pushes per second that the collector took whole, above zero, and that failed, below. A failed one costs "
            "no totals: the next has them. Empty where no push was asked for.",
            "cps",
            (
                Query(_rate("otlp_pushes", ', result="exported"'), f"{_WHO} exported"),
                Query(_rate("otlp_pushes", ', result="failed"'), f"{_WHO} failed", downwards=True),
            ),
        ),
        Panel(
            "How much memory does it take?",
            "Resident memory of the agent's process, and below zero the kernel's maps, whose counters are mapped into "
            "it and so partly in both. What the programs themselves take is not seen.",
            "bytes",
            (
                Query(_gauge("resident_memory_bytes"), f"{_WHO} process"),
                Query(_gauge("map_bytes"), f"{_WHO} maps", downwards=True),
            ),
        ),
    ),
)
