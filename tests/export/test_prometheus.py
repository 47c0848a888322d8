"""The text format, read back by the official parser."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from dolphin_agent.export.prometheus import encode
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import BY_NAME
from dolphin_agent.snapshot.buckets import MICROSECONDS
from dolphin_agent.snapshot.model import Distribution, DistributionPoint, Family, Labels, Point, Snapshot

RTT = BY_NAME["tcpRtt"].metrics[Granularity.FLOW][0]
PACKETS = BY_NAME["ipReceive"].metrics[Granularity.POD][0]


def test_values_labels_and_metadata_survive():
    """Name, type, help, labels and a value beyond 2^53 come out as they went in."""
    point = Point(Labels((("pod", "default/web"), ("ipfamily", "ipv4"))), 2**60 + 1, 1.0)
    text = encode(Snapshot(2.0, (Family(PACKETS, (point,)),))).decode()
    assert text.splitlines()[2] == (
        f'dolphin_ip_receive_packets_total{{pod="default/web",ipfamily="ipv4"}} {2**60 + 1}'
    )
    (family,) = text_string_to_metric_families(text)
    assert (family.type, family.documentation) == ("counter", PACKETS.help)


def test_any_label_value_is_escaped():
    """Quotes, backslashes and newlines in a pod's label do not break the line."""
    value = 'a"b\\n\nc\\'
    text = encode(Snapshot(2.0, (Family(PACKETS, (Point(Labels((("app", value),)), 1, 1.0),)),))).decode()
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"app": value}


def test_empty_snapshot_is_empty():
    """Nothing asked for, nothing said."""
    assert encode(Snapshot()) == b""


def test_histogram_is_cumulative_and_whole():
    """A dozen bounds; every sample is at or below +Inf; a sample on a bound is in the bucket it bounds."""
    value = Distribution({0: 1, 8: 2, 9: 4, MICROSECONDS.last: 8}, sum=12345)
    text = encode(Snapshot(2.0, (Family(RTT, (), (DistributionPoint(Labels((("pod", "a"),)), value, 1.0),)),))).decode()
    (family,) = text_string_to_metric_families(text)
    found = {sample.labels.get("le", sample.name.rsplit("_", 1)[1]): sample.value for sample in family.samples}
    assert family.type == "histogram"
    assert (found["64"], found["256"], found["67108864"], found["+Inf"]) == (3, 7, 7, 15)
    assert (found["sum"], found["count"]) == (12345, 15)
    assert len([bound for bound in found if bound not in ("sum", "count")]) == 12


def test_openmetrics():
    """Read back by the official parser of that format, with units; the agent's own metrics end it."""
    point = Point(Labels((("pod", "default/web"),)), 7, 1.0)
    octets = BY_NAME["ipReceive"].metrics[Granularity.POD][1]
    rtt = DistributionPoint(Labels((("pod", "a"),)), Distribution({0: 1, 8: 2}, sum=100), 1.0)
    snapshot = Snapshot(2.0, (Family(PACKETS, (point,)), Family(octets, (point,)), Family(RTT, (), (rtt,))))
    text = encode(snapshot, openmetrics=True).decode() + "# EOF\n"
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["dolphin_ip_receive_packets"].type == "counter"
    assert families["dolphin_ip_receive_bytes"].unit == "bytes"
    assert families["dolphin_ip_receive_bytes"].samples[0].value == 7
    assert families["dolphin_flow_tcp_rtt_microseconds"].unit == "microseconds"
