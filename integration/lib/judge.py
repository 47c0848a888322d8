"""What the kernel's counters say that an agent's metrics must be, for two pods whose packets are not merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.lib.counters import FAMILIES, Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from integration.lib.agent import Samples
    from integration.lib.counters import Family

_PER_FAMILY: Mapping[str, Callable[[Counters, Family], int]] = {
    "ip_receive_packets_total": Counters.ip_receive_packets,
    "ip_receive_bytes_total": Counters.ip_receive_bytes,
    "ip_send_packets_total": Counters.ip_send_packets,
    "ip_send_bytes_total": Counters.ip_send_bytes,
    "udp_receive_packets_total": Counters.udp_receive_datagrams,
    "udp_send_packets_total": Counters.udp_send_datagrams,
}
_TCP = ("tcp_receive_packets_total", "tcp_send_packets_total", "tcp_retransmits_total")
"""The kernel has one number for both families."""

ITEMS: Mapping[str, tuple[str, ...]] = {
    "ipReceive": ("ip_receive_packets_total", "ip_receive_bytes_total"),
    "ipSend": ("ip_send_packets_total", "ip_send_bytes_total"),
    "tcpReceive": ("tcp_receive_packets_total",),
    "tcpSend": ("tcp_send_packets_total",),
    "tcpRetrans": ("tcp_retransmits_total",),
    "udpReceive": ("udp_receive_packets_total",),
    "udpSend": ("udp_send_packets_total",),
}
"""Item -> its metrics that the kernel has a counter for, without prefix. None of their events may be lost."""

Numbers = dict[tuple[str, str], int]
"""(metric without prefix, IP family or both) -> increase."""


def kernel_says(moved: Counters, *, accepts: bool = False, items: Iterable[str] = ITEMS) -> Numbers:
    """What must have been counted; `accepts`: this pod accepts connections and opens none."""
    # A SYN-ACK that is sent again is in both of the kernel's counters.
    again = moved["TcpExt.TCPSynRetrans"] if accepts else 0
    tcp = (moved.in_segs, moved.out_segs + moved.retrans_segs - again, moved.retrans_segs)
    numbers: Numbers = {
        (name, family): read(moved, family) for name, read in _PER_FAMILY.items() for family in FAMILIES
    }
    numbers |= {(name, "both"): value for name, value in zip(_TCP, tcp, strict=True)}
    wanted = {name for item in items for name in ITEMS[item]}
    return {key: value for key, value in numbers.items() if key[0] in wanted}


def agent_says(
    before: Samples, after: Samples, *, granularity: str = "pod", items: Iterable[str] = ITEMS, **labels: str
) -> Numbers:
    """What was counted in the series with these labels; of flows, all together with `other`."""
    prefix = "dolphin_" if granularity == "pod" else "dolphin_flow_"
    found: Numbers = {}
    for name in (name for item in items for name in ITEMS[item]):
        kinds: Iterable[tuple[str, dict[str, str]]] = (
            [("both", {})] if name in _TCP else [(family, {"ipfamily": family}) for family in FAMILIES]
        )
        for family, narrowed in kinds:
            values = (samples.value(prefix + name, **labels, **narrowed) for samples in (after, before))
            found[name, family] = int(next(values) - next(values))
    return found


def lost(samples: Samples, items: Iterable[str] = ITEMS) -> dict[tuple[str, str], int]:
    """(item, reason) -> events that the agent says an item's numbers may lack, where there are any.

    All of `items` have been asked for: of others the agent says nothing.
    """
    name = "dolphin_agent_lost_events_total"
    series = samples.series(name)
    wanted = set(items)
    assert {labels["item"] for labels in series} >= wanted, "the agent says nothing of lost events"
    counts = {(labels["item"], labels["reason"]): int(samples.value(name, **labels)) for labels in series}
    return {key: count for key, count in counts.items() if count and key[0] in {*wanted, "all"}}
