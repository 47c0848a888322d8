"""How large the tables of flows are, and the constants that go with it."""

import pytest

from dolphin_agent.bpf.flow_tables import (
    MAX_ENTRIES,
    MIN_ENTRIES,
    DrainedTable,
    entries_per_cpu,
    make_config,
    value_size,
)

VALUE_LIMIT = 4 * 2**20
"""Of a map's value, on 5.10."""


@pytest.mark.parametrize(
    ("max_flows", "cpus", "expected"),
    [
        (20_000, 2, 32_768),
        (20_000, 1, MAX_ENTRIES),
        (20_000, 64, MIN_ENTRIES),
        (20_000, 16, 8_192),
        (1, 2, MIN_ENTRIES),
        (1_000_000, 4, MAX_ENTRIES),
    ],
)
def test_entries_follow_flows_and_cpus(max_flows, cpus, expected):
    """All flows fit at half load on one CPU where it is affordable; bounds hold whatever is asked for."""
    assert entries_per_cpu(max_flows, cpus)["flows4"] == expected


@pytest.mark.parametrize("max_flows", [1, 1000, 20_000, 1_000_000])
def test_every_table_is_a_power_of_two_that_every_kernel_takes(max_flows):
    """The mask needs the first, 5.10 the second."""
    for name, entries in entries_per_cpu(max_flows, 3).items():
        assert entries & entries - 1 == 0
        assert value_size(name, entries) <= VALUE_LIMIT


def test_constants_fit_the_sizes_and_the_hash_is_new_each_time():
    """The shift leaves exactly the bits of the mask; factors are odd, as even ones lose bits of the key."""
    entries = entries_per_cpu(20_000, 2)
    config, again = make_config(entries, fold_ports=True), make_config(entries, fold_ports=False)
    assert (2**64 - 1) >> config.flows4.shift == config.flows4.mask == entries["flows4"] - 1
    assert all(factor & 1 for factor in config.factors)
    assert list(config.factors) != list(again.factors)
    assert (config.fold_ports, again.fold_ports) == (1, 0)


def test_format_is_that_of_the_entries():
    """Key, then the counters: four of traffic, two of samples."""
    assert [DrainedTable(name).format for name in ("flows4", "flows6", "samples4", "samples6")] == [
        "<16s4q",
        "<40s4q",
        "<16s2q",
        "<40s2q",
    ]
