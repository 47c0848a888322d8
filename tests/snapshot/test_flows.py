"""Flows: the pod is always the sum of what is shown and `other`, whatever is refused, goes idle or comes back."""

import ctypes
import socket

import pytest

from dolphin_agent.bpf.flow_tables import DrainedTable, Limits
from dolphin_agent.bpf.layouts import Family, Flow4, Flow6, Kind, Record, Sample4
from dolphin_agent.bpf.tables import WORDS_PER_SLOT, word
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.engine import Drain
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.snapshot.flows import labels_of
from dolphin_agent.snapshot.ledger import Ledger
from tests.builders import backend, policy

SLOT = 300
WEB = backend("web", 1, {"app": "web"})
IDLE = 100.0
LOCAL, REMOTE = "10.0.0.1", "10.0.0.2"


def first_word(record, ports=(80, 0), protocol=6, slot=SLOT, bucket=0):
    """A key's first word as the programs build it; the pod's own port is the upper half of the ports."""
    local, remote = ports
    return protocol | record << 8 | slot << 16 | bucket << 25 | remote << 32 | local << 48


def addresses(family=socket.AF_INET, local=LOCAL, remote=REMOTE):
    """The words after the first one."""
    packed = socket.inet_pton(family, local) + socket.inet_pton(family, remote)
    return [int.from_bytes(packed[i : i + 8], "little") for i in range(0, len(packed), 8)]


def flow(record=Record.RECEIVED, ports=(80, 0), counts=(0, 0, 0, 0), **key):
    """An IPv4 entry."""
    entry = Flow4()
    entry.key[:] = [first_word(record, ports, **key), *addresses()]
    for name, value in zip(("packets", "bytes", "segments", "payload"), counts, strict=True):
        setattr(entry.traffic, name, value & (1 << 64) - 1)
    return bytes(entry)


def sample(record, count, total, bucket=0):
    """An IPv4 sample."""
    entry = Sample4()
    entry.key[:] = [first_word(record, bucket=bucket), *addresses()]
    entry.sample.count, entry.sample.sum = count, total
    return bytes(entry)


def drain(*entries, table="flows4", owners=None, pods=None):
    """A drain with one table."""
    drained = DrainedTable(table)
    drained.chunks = [b"".join(entries) + bytes(ctypes.sizeof(Flow4) if table == "flows4" else ctypes.sizeof(Sample4))]
    return Drain(pods or {}, owners or {SLOT: WEB.key}, (drained,))


def make_ledger(*policies, max_flows=100):
    """A ledger that follows policies over WEB."""
    made = Ledger(Limits(max_flows), IDLE)
    made.follow(make_plan(policies, [WEB]).series, 1.0)
    return made


FLOWS = policy("flows", items=("ipReceive", "tcpReceive", "tcpRetrans", "tcpRtt"), granularity=Granularity.FLOW)
PODS = policy("pods", items=("ipReceive", "tcpReceive"))


def series(ledger, metric, **labels):
    """(srcport, dstport) -> value of the IPv4 series; () -> for series without ports."""
    found = {}
    for family in ledger.snapshot(9.0).families:
        for point in family.points:
            known = dict(point.labels)
            if family.metric.name == metric and known["ipfamily"] == "ipv4" and labels.items() <= known.items():
                found[tuple(known[name] for name in ("srcport", "dstport") if name in known)] = point.value
    return found


def test_flows_and_other_make_up_the_pod():
    """What the tables held is in the flows, what found no room in the kernel is in `other`; the pod has both."""
    ledger = make_ledger(FLOWS, PODS)
    pods = {WEB.key: [0] * WORDS_PER_SLOT}
    pods[WEB.key][word(Kind.IP_RECEIVE, Family.IPV4)] = 7
    ledger.credit(drain(flow(counts=(3, 300, 2, 200)), flow(ports=(81, 0), counts=(1, 40, 0, 0)), pods=pods), 2.0)
    assert series(ledger, "dolphin_flow_ip_receive_packets_total") == {
        ("ephemeral", "80"): 3,
        ("ephemeral", "81"): 1,
        ("other", "other"): 7,
    }
    assert series(ledger, "dolphin_ip_receive_packets_total") == {(): 11}
    assert series(ledger, "dolphin_flow_tcp_receive_bytes_total") == {("ephemeral", "80"): 200, ("other", "other"): 0}
    assert series(ledger, "dolphin_tcp_receive_bytes_total") == {(): 200}


def test_no_room_in_the_agent_goes_to_other():
    """--max-flows bounds the records; the pod's total lacks nothing."""
    ledger = make_ledger(FLOWS, PODS, max_flows=1)
    ledger.credit(drain(flow(counts=(3, 0, 0, 0)), flow(ports=(81, 0), counts=(4, 0, 0, 0))), 2.0)
    ledger.credit(drain(flow(ports=(81, 0), counts=(5, 0, 0, 0)), flow(counts=(1, 0, 0, 0))), 3.0)
    assert series(ledger, "dolphin_flow_ip_receive_packets_total") == {("ephemeral", "80"): 4, ("other", "other"): 9}
    assert series(ledger, "dolphin_ip_receive_packets_total") == {(): 13}
    assert (ledger.flows, ledger.refused) == (1, 2)


def test_idle_flow_moves_to_other_and_returns_at_zero():
    """Neither the pod nor `other` ever falls."""
    ledger = make_ledger(FLOWS, PODS)
    ledger.credit(drain(flow(counts=(3, 0, 0, 0))), 2.0)
    ledger.credit(drain(), 3.0 + IDLE)
    assert series(ledger, "dolphin_flow_ip_receive_packets_total") == {("other", "other"): 3}
    assert ledger.flows == 0
    ledger.credit(drain(flow(counts=(2, 0, 0, 0))), 4.0 + IDLE)
    assert series(ledger, "dolphin_flow_ip_receive_packets_total") == {("ephemeral", "80"): 2, ("other", "other"): 3}
    assert series(ledger, "dolphin_ip_receive_packets_total") == {(): 5}


def test_later_task_begins_at_zero_in_every_flow():
    """A flow known before counts for the new task from now on; its series still make up its pod's."""
    ledger = make_ledger(FLOWS)
    ledger.credit(drain(flow(counts=(3, 0, 0, 0))), 2.0)
    later = policy("later", items=("ipReceive",), granularity=Granularity.FLOW)
    ledger.follow(make_plan([FLOWS, later], [WEB]).series, 3.0)
    ledger.credit(drain(flow(counts=(2, 0, 0, 0)), flow(ports=(81, 0), counts=(1, 0, 0, 0))), 4.0)
    metric = "dolphin_flow_ip_receive_packets_total"
    assert series(ledger, metric, task="kube-system/flows")["ephemeral", "80"] == 5
    assert series(ledger, metric, task="kube-system/later") == {
        ("ephemeral", "80"): 2,
        ("ephemeral", "81"): 1,
        ("other", "other"): 0,
    }


def test_segments_taken_back_lower_the_flow():
    """A forwarded segment's counts are taken back, perhaps after the flip that drained the first part."""
    ledger = make_ledger(FLOWS, PODS)
    ledger.credit(drain(flow(counts=(5, 500, 5, 400))), 2.0)
    ledger.credit(drain(flow(counts=(0, 0, -5, -400))), 3.0)
    assert series(ledger, "dolphin_tcp_receive_packets_total") == {(): 0}
    assert series(ledger, "dolphin_flow_ip_receive_packets_total")["ephemeral", "80"] == 5


def test_retransmits_of_both_tables_are_one_flow():
    """SYN-ACKs are counted among the samples, all else on the packet's path."""
    ledger = make_ledger(FLOWS)
    ledger.credit(drain(flow(Record.RETRANSMITTED, counts=(2, 0, 0, 0))), 2.0)
    ledger.credit(drain(sample(Record.RETRANSMITTED, 1, 3), table="samples4"), 2.0)
    assert series(ledger, "dolphin_flow_tcp_retransmits_total") == {("80", "ephemeral"): 5, ("other", "other"): 0}


def rtts(ledger):
    """protocol label -> (bucket counts, sum) of the IPv4 distributions."""
    families = [family for family in ledger.snapshot(9.0).families if family.distributions]
    points = [point for family in families for point in family.distributions]
    return {
        dict(point.labels)["protocol"]: (dict(point.value.counts), point.value.sum)
        for point in points
        if dict(point.labels)["ipfamily"] == "ipv4"
    }


def test_buckets_of_a_flow_are_one_distribution_and_survive_it():
    """The bucket is part of the kernel's key only; an idle flow's samples move to `other` with their buckets."""
    ledger = make_ledger(FLOWS)
    ledger.credit(drain(sample(Record.RTT, 2, 50, 3), sample(Record.RTT, 1, 99, 90), table="samples4"), 2.0)
    ledger.credit(drain(sample(Record.RTT, 1, 25, 3), table="samples4"), 2.5)
    assert rtts(ledger) == {"tcp": ({3: 3, 90: 1}, 174), "other": ({}, 0)}
    assert ledger.flows == 1
    ledger.credit(drain(table="samples4"), 4.0 + IDLE)
    assert rtts(ledger) == {"other": ({3: 3, 90: 1}, 174)}


def test_pod_that_left_frees_its_places():
    """Its flows are gone, and entries with its slot's number are nobody's."""
    ledger = make_ledger(FLOWS)
    ledger.credit(drain(flow(counts=(3, 0, 0, 0))), 2.0)
    ledger.follow((), 3.0)
    assert ledger.flows == 0
    ledger.follow(make_plan([FLOWS], [WEB]).series, 4.0)
    ledger.credit(drain(flow(counts=(3, 0, 0, 0)), owners={7: WEB.key}), 5.0)
    assert series(ledger, "dolphin_flow_ip_receive_packets_total") == {("other", "other"): 0}


def test_pod_that_is_gone_keeps_its_flows_until_they_are_exported():
    """However long ago they were seen; then their places are free."""
    ledger = make_ledger(FLOWS)
    ledger.credit(drain(flow(counts=(3, 300, 0, 0))), 2.0)
    ledger.follow((), 3.0, gone={WEB.key})
    ledger.credit(drain(owners={7: backend("db", 2).key}), 4.0 + IDLE)
    assert series(ledger, "dolphin_flow_ip_receive_packets_total") == {("ephemeral", "80"): 3, ("other", "other"): 0}
    assert ledger.flows == 1
    ledger.release(3.0)
    assert ledger.flows == 0


@pytest.mark.parametrize(
    ("record", "ports", "protocol", "expected"),
    [
        (Record.RECEIVED, (80, 0), 6, (REMOTE, LOCAL, "ephemeral", "80", "tcp")),
        (Record.SENT, (80, 0), 6, (LOCAL, REMOTE, "80", "ephemeral", "tcp")),
        (Record.RTT, (0, 443), 6, (LOCAL, REMOTE, "ephemeral", "443", "tcp")),
        (Record.SENT, (5353, 5353), 17, (LOCAL, REMOTE, "5353", "5353", "udp")),
        (Record.SENT, (0, 0), 1, (LOCAL, REMOTE, "0", "0", "icmp")),
        (Record.SENT, (0, 0), 17, (LOCAL, REMOTE, "0", "0", "udp")),
        (Record.SENT, (0, 0), 200, (LOCAL, REMOTE, "0", "0", "200")),
    ],
)
def test_labels(record, ports, protocol, expected):
    """Source and destination are the packet's; a folded port says so, a missing one is 0."""
    key = flow(record, ports, protocol=protocol)[:16]
    assert tuple(value for _, value in labels_of(key, Family.IPV4)) == expected


def test_ipv6_labels():
    """Addresses in their short form."""
    entry = Flow6()
    entry.key[:] = [first_word(Record.SENT), *addresses(socket.AF_INET6, "fd08::1", "::ffff:10.0.0.2")]
    labels = dict(labels_of(bytes(entry)[:40], Family.IPV6))
    assert (labels["srcip"], labels["dstip"]) == ("fd08::1", "::ffff:a00:2")
