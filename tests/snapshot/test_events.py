"""Rare events: per pod or per flow, by direction and reason, never less than before."""

import struct
from dataclasses import replace

import pytest

from dolphin_agent.bpf.events import Drained
from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.bpf.layouts import Direction, Family, Kind
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.engine import Drain
from dolphin_agent.probes.items import BY_NAME, EVENT_COUNTERS, EventCounter, Item, Ladder
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.snapshot import ledger as ledger_module
from dolphin_agent.snapshot.events import causes_of
from dolphin_agent.snapshot.ledger import Ledger
from tests.builders import backend, policy

WEB = backend("web", 1)
SLOT = 3
IDLE = 300.0
REASONS = {1: "no_route", 2: "full", 3: "full"}
NONE = 4
POD_FLOW = bytes(40)


def ports(local, remote):
    """flow[0]: IS_FLOW, and the ports in the upper half."""
    return struct.pack("<Q", (local << 16 | remote) << 32 | 1)


FLOW = ports(5000, 80) + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + bytes(24)
OTHER_FLOW = ports(5000, 81) + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + bytes(24)
FLOW6 = ports(0, 80) + bytes(15) + b"\1" + bytes(15) + b"\2"


@pytest.fixture(autouse=True)
def item(monkeypatch):
    """An item of events at both granularities."""
    kind = Kind.TCP_DROP

    def reason(number):
        return "" if number == NONE else REASONS.get(number, f"reason_{number}")

    pod, flow = (EventCounter(f"dolphin_{p}drops_total", "Drops.", kind, "{packet}", reason) for p in ("", "flow_"))
    made = Item("drop", (Ladder("", (kind,), ()),), {Granularity.POD: (pod,), Granularity.FLOW: (flow,)})
    monkeypatch.setitem(BY_NAME, "drop", made)
    monkeypatch.setitem(EVENT_COUNTERS, kind, pod)
    monkeypatch.setattr(ledger_module, "ITEMS", (made,))


def event(packets=1, reason=1, flow=POD_FLOW, direction=Direction.INCOMING, family=Family.IPV4, slot=SLOT):
    return Drained(slot, Kind.TCP_DROP, family, direction, 6 if any(flow) else 0, reason, flow, packets)


def followed(granularity, limits=None):
    made = Ledger(limits or Limits(), IDLE)
    made.follow(series(granularity), 1.0)
    return made


def series(granularity, *names):
    return make_plan([policy(name, ("drop",), granularity=granularity) for name in names or ("a",)], [WEB]).series


def credit(ledger, *events, now=5.0):
    ledger.credit(Drain(owners={SLOT: WEB.key}, events=events), now)


def shown(ledger, task="kube-system/a"):
    """(direction, reason, srcip, dstport) -> value; None where it is no flow's."""
    found = {}
    for family in ledger.snapshot(9.0).families:
        for point in family.points:
            labels = dict(point.labels)
            if labels["task"] == task:
                key = labels["direction"], labels["reason"], labels.get("srcip"), labels.get("dstport")
                assert key not in found, "two series with the same labels"
                found[key] = point.value
    return found


def test_nothing_is_shown_before_the_first_event():
    """Reasons are many: a zero for each would be noise."""
    assert followed(Granularity.POD).snapshot(9.0).families == ()


def test_events_of_a_pod_add_up_by_direction_and_reason():
    """Two numbers that mean the same are one series, beginning when the pod's did."""
    ledger = followed(Granularity.POD)
    credit(ledger, event(2), event(3, reason=2), event(4, reason=3), event(7, direction=Direction.OUTGOING))
    credit(ledger, event(1), event(1, reason=99))
    assert shown(ledger) == {
        ("inbound", "no_route", None, None): 3,
        ("inbound", "full", None, None): 7,
        ("inbound", "reason_99", None, None): 1,
        ("outbound", "no_route", None, None): 7,
    }
    assert {point.start for family in ledger.snapshot(9.0).families for point in family.points} == {1.0}


def test_families_are_apart():
    ledger = followed(Granularity.POD)
    credit(ledger, event(2), event(3, family=Family.IPV6))
    (family,) = ledger.snapshot(9.0).families
    assert {dict(point.labels)["ipfamily"]: point.value for point in family.points} == {"ipv4": 2, "ipv6": 3}


def test_flows_and_other_make_up_the_pod():
    """What the kernel counted per pod is other; source and destination follow the direction."""
    ledger = followed(Granularity.FLOW)
    credit(ledger, event(5, flow=FLOW), event(2, flow=FLOW, direction=Direction.OUTGOING), event(4))
    assert shown(ledger) == {
        ("inbound", "no_route", "10.0.0.2", "5000"): 5,
        ("inbound", "no_route", "other", "other"): 4,
        ("outbound", "no_route", "10.0.0.1", "80"): 2,
    }


def test_flow_of_ipv6_has_its_addresses():
    ledger = followed(Granularity.FLOW)
    credit(ledger, event(1, flow=FLOW6, family=Family.IPV6, direction=Direction.OUTGOING))
    ((point,),) = (family.points for family in ledger.snapshot(9.0).families)
    labels = dict(point.labels)
    assert [labels[name] for name in ("srcip", "srcport", "dstip", "dstport", "protocol")] == [
        *("::1", "ephemeral", "::2", "80", "tcp")
    ]


def test_pod_at_pod_granularity_has_those_of_flows_too():
    """Another task asks for flows of the same pod."""
    ledger = Ledger(Limits(), IDLE)
    ledger.follow((*series(Granularity.POD, "a"), *series(Granularity.FLOW, "b")), 1.0)
    credit(ledger, event(5, flow=FLOW), event(4))
    assert shown(ledger) == {("inbound", "no_route", None, None): 9}


def test_later_series_starts_at_zero():
    """Pod and flow: what was counted before belongs to the first one."""
    ledger = followed(Granularity.FLOW)
    credit(ledger, event(5, flow=FLOW), event(4))
    ledger.follow(series(Granularity.FLOW, "a", "b"), 6.0)
    assert shown(ledger, "kube-system/b") == {}
    credit(ledger, event(1, flow=FLOW))
    assert shown(ledger, "kube-system/b") == {("inbound", "no_route", "10.0.0.2", "5000"): 1}
    assert shown(ledger)["inbound", "no_route", "10.0.0.2", "5000"] == 6


def test_idle_flow_moves_to_other():
    """Its counts stay in the pod's total."""
    ledger = followed(Granularity.FLOW)
    credit(ledger, event(5, flow=FLOW))
    assert ledger.flows == 1
    credit(ledger, event(1), now=5.1 + IDLE)
    assert shown(ledger) == {("inbound", "no_route", "other", "other"): 6}
    assert ledger.flows == 0


def test_flows_beyond_the_limit_are_other():
    """The same limit as that of all flows."""
    ledger = followed(Granularity.FLOW, Limits(max_flows=1))
    credit(ledger, event(5, flow=FLOW), event(2, flow=OTHER_FLOW))
    credit(ledger, event(5, flow=FLOW))
    assert shown(ledger) == {
        ("inbound", "no_route", "10.0.0.2", "5000"): 10,
        ("inbound", "no_route", "other", "other"): 2,
    }
    assert ledger.refused == 1


def test_pod_that_is_gone_gives_its_places_back():
    ledger = followed(Granularity.FLOW)
    credit(ledger, event(5, flow=FLOW))
    ledger.follow((), 6.0)
    assert ledger.flows == 0
    credit(ledger, event(5, flow=FLOW))
    assert shown(ledger) == {}


def test_events_of_no_pod_are_dropped():
    """A slot that is nobody's by now."""
    ledger = followed(Granularity.POD)
    credit(ledger, event(slot=9))
    assert shown(ledger) == {}


def test_kind_that_is_not_counted_has_no_series():
    """Where the kernel refused every hook."""
    ledger = followed(Granularity.POD)
    credit(ledger, event())
    ledger.follow(series(Granularity.POD), 6.0, kinds=())
    assert ledger.snapshot(9.0).families == ()


def test_what_turns_out_to_be_no_event_is_left_out():
    """Its number has no reason: neither a pod nor a flow has it."""
    ledger = followed(Granularity.FLOW)
    credit(ledger, event(5, reason=NONE, flow=FLOW), event(4, reason=NONE))
    assert shown(ledger) == {}
    assert ledger.flows == 0


def test_part_of_a_kind_is_one_of_that_kind_too():
    """A TCP segment that is dropped is an IP packet dropped, by the same reason and direction."""
    part = EventCounter("x_total", "X.", Kind.TCP_DROP, "{packet}", REASONS, part_of=Kind.IP_DROP)
    first, second = causes_of(event(), {Kind.TCP_DROP: part})
    assert (first.kind, second) == (Kind.TCP_DROP, first._replace(kind=Kind.IP_DROP))
    assert causes_of(event(reason=NONE), {Kind.TCP_DROP: replace(part, reasons=lambda _: "")}) == ()
