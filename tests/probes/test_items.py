"""The declaration of items is whole: every name in it exists where it should, and nowhere twice."""

import re
from pathlib import Path

import pytest

from dolphin_agent.policy.vocabulary import ITEMS as VOCABULARY
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME, ITEMS, NETNS_EXIT, SERVICE_PORTS, MetricType

ROOT = Path(__file__).parents[2]
SUPPORT = (*(probe for rung in SERVICE_PORTS.rungs for probe in rung.probes), NETNS_EXIT)
PROBES = dict.fromkeys((*(probe for item in ITEMS for probe in item.probes), *SUPPORT))
METRICS = [metric for item in ITEMS for metrics in item.metrics.values() for metric in metrics]


def test_items_are_those_users_can_ask_for():
    """Everything that a policy can name is measured, and nothing else, at each granularity it allows."""
    assert {item.name: set(item.metrics) for item in ITEMS} == {
        name: set(asked.granularities) for name, asked in VOCABULARY.items()
    }


def test_item_names_are_unique():
    """A lookup by name finds every item."""
    assert len(BY_NAME) == len(ITEMS)


def test_each_kind_belongs_to_one_ladder():
    """Two ladders counting the same kind would count every event twice."""
    kinds = [kind for item in ITEMS for way in item.ladders for kind in way.kinds]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize("probe", list(PROBES), ids=lambda probe: probe.hooks)
def test_programs_exist_in_their_source_at_their_hook(probe):
    """ebpf/<source>.bpf.c has SEC("<hook>") just before the program, and the kernel keeps its whole name."""
    source = (ROOT / "ebpf" / f"{probe.source}.bpf.c").read_text()
    for program in probe.programs:
        assert re.search(rf'SEC\("{program.hook}"\)\nint BPF_PROG\({program.name},', source)


def test_every_program_in_a_source_is_declared():
    """No dead program is shipped."""
    declared = {program.name for probe in PROBES for program in probe.programs}
    sources = "".join(path.read_text() for path in (ROOT / "ebpf").glob("*.bpf.c"))
    assert set(re.findall(r"BPF_PROG\((\w+),", sources)) == declared


def test_metric_names_are_unique_and_conform():
    """Counters end in _total; help is a sentence."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"dolphin_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
        assert metric.help.endswith(".")


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_every_item_has_an_integration_test(item):
    """integration/test_<item>.py judges it on real kernels."""
    snake = re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), item.name)
    assert (ROOT / "integration" / f"test_{snake}.py").exists()


@pytest.mark.parametrize("name", ["ipError", "tcpError"])
def test_reasons_of_errors_are_those_of_the_programs(name):
    """enum error of malformed.bpf.h: the same words, numbered alike, and no other."""
    header = (ROOT / "ebpf" / "include" / "malformed.bpf.h").read_text()
    (body,) = re.findall(r"enum error {(.*?)};", header, re.DOTALL)
    words = [word.lower() for word in re.findall(r"ERROR_(\w+),", body)]
    (metric,) = BY_NAME[name].metrics[Granularity.POD]
    source = (ROOT / "ebpf" / f"{name.replace('E', '_e')}.bpf.c").read_text()
    used = {word.lower() for word in re.findall(r"\bERROR_(\w+)", source)} - {"none"}
    assert metric.reasons == {number: word for number, word in enumerate(words) if word in used}
