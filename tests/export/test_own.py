"""The agent's own metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dolphin_agent.export.own import OwnMetrics, Vitals
from dolphin_agent.probes.items import BY_NAME, EVENT_COUNTERS, ITEMS, NETNS_EXIT, SERVICE_PORTS

TRAFFIC = ("ipReceive", "ipSend", "tcpReceive", "tcpSend", "tcpRetrans", "tcpRtt", "tcpNewConnection")
BY_KIND = {kind: item.name for item in ITEMS for kind in item.kinds}


def vitals(names):
    """Those of an agent in a cluster that counts these items by their first rungs, and pushes."""
    items = [BY_NAME[name] for name in names]
    ladders = (SERVICE_PORTS, *(ladder for item in items for ladder in item.ladders))
    probes = {NETNS_EXIT, *(probe for ladder in ladders for probe in ladder.rungs[0].probes)}
    with_tables = {"tcpRtt", *(BY_KIND[kind] for kind in EVENT_COUNTERS)}
    return Vitals(
        lost={
            ("all", "no_partition"): 1,
            **{(name, "recursion_misses"): 1 for name in names},
            **{(name, "table_full"): 1 for name in names if name in with_tables},
        },
        hooks=tuple(program.hook for probe in probes for program in probe.programs),
        watch_ages={"pods": 1.0, "monitorpolicies": 1.0},
        pushes={"exported": 1, "failed": 1},
    )


@pytest.mark.parametrize(("names", "most"), [(TRAFFIC, 40), (tuple(BY_NAME), 66)])
def test_few_whatever_is_monitored(names, most):
    own = OwnMetrics(lambda: vitals(names))
    samples = [sample for family in text_string_to_metric_families(own.encode().decode()) for sample in family.samples]
    own.close()
    assert all(sample.name.startswith("dolphin_agent_") for sample in samples)
    assert len({(sample.name, *sample.labels.items()) for sample in samples}) == len(samples) <= most


def test_values_are_the_vitals():
    own = OwnMetrics(lambda: Vitals(map_fill=0.25, snapshot_seconds=0.5, scrape_seconds=0.75, drain_seconds=1.5))
    text = own.encode().decode()
    own.close()
    assert "dolphin_agent_map_fill 0.25\n" in text
    assert "dolphin_agent_snapshot_seconds 0.5\n" in text
    assert "dolphin_agent_scrape_seconds 0.75\n" in text
    assert "dolphin_agent_drain_seconds 1.5\n" in text
