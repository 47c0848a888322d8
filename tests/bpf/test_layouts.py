"""The ctypes mirrors agree with what the compiler made of the C structs, field by field."""

import ctypes
import json
import struct
import subprocess

import pytest

from dolphin_agent.bpf import layouts
from dolphin_agent.bpf.events import FORMAT
from dolphin_agent.bpf.object import objects_directory

OBJECTS = sorted(objects_directory().glob("*.bpf.o"))
MIRRORS = {
    "agent_state": layouts.AgentState,
    "counter": layouts.Counter,
    "partition": layouts.Partition,
    "more_partition": layouts.MorePartition,
    "table_size": layouts.TableSize,
    "flow_config": layouts.FlowConfig,
    "flow_table": layouts.FlowTable,
    "traffic": layouts.Traffic,
    "flow_sample": layouts.FlowSample,
    "flow4": layouts.Flow4,
    "flow6": layouts.Flow6,
    "sample4": layouts.Sample4,
    "sample6": layouts.Sample6,
    "event": layouts.Event,
    "events": layouts.Events,
    "event_table": layouts.EventTable,
    "address": layouts.Address,
}


class Btf:
    """The types of one object file, from `bpftool btf dump`."""

    def __init__(self, path):
        dump = subprocess.run(["bpftool", "-j", "btf", "dump", "file", path], capture_output=True, check=True)
        self.types = {entry["id"]: entry for entry in json.loads(dump.stdout)["types"]}

    def find(self, kind, name):
        """The one type of that kind and name, or None."""
        return next((t for t in self.types.values() if t["kind"] == kind and t["name"] == name), None)

    def size(self, type_id):
        """Bytes, through typedefs, qualifiers and arrays."""
        found = self.types[type_id]
        match found["kind"]:
            case "ARRAY":
                return found["nr_elems"] * self.size(found["type_id"])
            case "TYPEDEF" | "CONST" | "VOLATILE":
                return self.size(found["type_id"])
        return found["size"]


@pytest.fixture(scope="module")
def types():
    """Object name -> its types."""
    assert OBJECTS, "the BPF objects are not built: make build"
    return {path.name.removesuffix(".bpf.o"): Btf(path) for path in OBJECTS}


@pytest.mark.parametrize("name", MIRRORS)
def test_struct_has_the_same_size_offsets_and_field_sizes(types, name):
    """Every object that knows the struct lays it out as the mirror does."""
    mirror = MIRRORS[name]
    found = [(btf, struct) for btf in types.values() if (struct := btf.find("STRUCT", name))]
    assert found
    for btf, struct in found:
        expected = [
            (field, getattr(mirror, field).offset * 8, getattr(mirror, field).size) for field, *_ in mirror._fields_
        ]
        actual = [(m["name"], m["bits_offset"], btf.size(m["type_id"])) for m in struct["members"]]
        assert expected == actual
        assert struct["size"] == ctypes.sizeof(mirror)


@pytest.mark.parametrize(
    ("name", "prefix", "mirror"),
    [
        ("kind", "KIND_", layouts.Kind),
        ("family", "FAMILY_", layouts.Family),
        ("record", "RECORD_", layouts.Record),
        ("direction", "", layouts.Direction),
        ("failure", "FAILURE_", layouts.Failure),
    ],
)
def test_enum_has_the_same_values(types, name, prefix, mirror):
    """Kinds and families mean the same number on both sides."""
    found = [enum for btf in types.values() if (enum := btf.find("ENUM", name))]
    assert found
    for enum in found:
        assert {v["name"]: v["val"] for v in enum["values"]} == {prefix + one.name: one.value for one in mirror}


def test_kinds_fit_their_word():
    """Those with counters come first, the others are events; a word of wants has room for all, twice."""
    assert [kind for kind in layouts.Kind if kind >= layouts.KINDS] == list(layouts.EVENT_KINDS)
    assert list(layouts.Kind) == list(range(len(layouts.Kind)))
    assert len(layouts.Kind) <= layouts.ALL_KINDS == 16


def test_drained_events_are_unpacked_as_they_are_laid_out():
    """struct.unpack takes no byte more or less than an entry of a table of events has."""
    assert struct.calcsize(FORMAT) == ctypes.sizeof(layouts.Events)
    events = layouts.Events(layouts.Event(7, 10, 1, 1, 6, 1 << 40, (1, 2, 3, 4, 5)), 1 << 50, 8, 9)
    slot, kind, family, direction, protocol, reason, flow, packets = struct.unpack(FORMAT, bytes(events))
    assert (slot, kind, family, direction, protocol, reason, packets) == (7, 10, 1, 1, 6, 1 << 40, 1 << 50)
    assert struct.unpack("<5Q", flow) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_bss_holds_the_shared_state_and_nothing_else(types, path):
    """Objects share one .bss map, so that a second variable in one of them would overlay another's."""
    section = types[path.name.removesuffix(".bpf.o")].find("DATASEC", ".bss")
    shared = [] if path.name.startswith("symbol.") else [ctypes.sizeof(layouts.AgentState)]
    assert [variable["size"] for variable in (section["vars"] if section else [])] == shared
