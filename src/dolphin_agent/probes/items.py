"""THE declaration of every item: what it counts, where the kernel is asked, and under which metric names it leaves.

To add one: a program in ebpf/, an entry here, an integration/test_<item>.py. Everything else is derived.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dolphin_agent.bpf import drops
from dolphin_agent.bpf.layouts import Failure, Kind
from dolphin_agent.policy.vocabulary import Granularity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Program:
    """One BPF program and the hook it attaches to."""

    name: str
    """Its function in ebpf/<source>.bpf.c, at most 15 characters (the kernel's limit)."""
    hook: str
    """The section it is in: `fentry/…`, `fexit/…` or `tp_btf/…`."""
    variant: str = ""
    """For people, where two programs of a ladder share a hook."""


@dataclass(frozen=True)
class Probe:
    """Programs that are loaded and attached together, or not at all. Shared by all rungs that name it."""

    source: str
    """ebpf/<source>.bpf.c."""
    programs: tuple[Program, ...]

    @property
    def hooks(self) -> str:
        """For people: `fentry/ip_rcv_core, fentry/ip6_rcv_core`."""
        return ", ".join(f"{one.hook} {one.variant}".rstrip() for one in self.programs)


@dataclass(frozen=True)
class Rung:
    """One way to count; all its probes must attach."""

    probes: tuple[Probe, ...]
    inexact: str = ""
    """What this way may count wrongly, for people; empty where it is exact (docs/exactness.md)."""


@dataclass(frozen=True)
class Ladder:
    """The ways to count some kinds, best first; which one runs is decided by really loading and attaching."""

    name: str
    """Distinguishes the ladders of an item; empty where it has one."""
    kinds: tuple[Kind, ...]
    rungs: tuple[Rung, ...]
    by_address: bool = False
    """Its programs know some packets' pod by its address only."""


class MetricType(enum.StrEnum):
    """What a metric's numbers are, by Prometheus's names."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Field(enum.IntEnum):
    """Which number of a counter a metric shows: its index in (packets, bytes)."""

    PACKETS = 0
    BYTES = 1


@dataclass(frozen=True)
class Counter:
    """One exported metric of an item, per IP family and, at flow granularity, per flow."""

    type: ClassVar = MetricType.COUNTER
    name: str
    """The Prometheus name, with `_total`."""
    help: str
    field: Field
    kinds: tuple[tuple[Kind, tuple[tuple[str, str], ...]], ...]
    """The kinds shown, each with the labels that tell it apart."""
    unit: str
    """By UCUM, as OpenTelemetry writes them."""


@dataclass(frozen=True)
class Histogram:
    """An exported distribution per flow, in the buckets of ebpf/rtt.bpf.c."""

    type: ClassVar = MetricType.HISTOGRAM
    name: str
    help: str
    kind: Kind
    unit: str
    """By UCUM."""


@dataclass(frozen=True)
class EventCounter:
    """Rare events by direction and reason, each a series that appears with the first one counted."""

    type: ClassVar = MetricType.COUNTER
    name: str
    """The Prometheus name, with `_total`."""
    help: str
    kind: Kind
    unit: str
    """By UCUM."""
    reasons: Mapping[int, str] | Callable[[int], str]
    """What the numbers that programs count by mean, as the label `reason` says it; empty: it was no such event."""
    directions: tuple[str, str] = ("inbound", "outbound")
    """Values of the label `direction`, as enum direction numbers them."""
    part_of: Kind | None = None
    """A kind that each of these events is one of too, without being counted twice."""

    def reason(self, number: int) -> str:
        """The text of a number; several may have the same."""
        if callable(self.reasons):
            return self.reasons(number)
        return self.reasons.get(number) or f"reason_{number}"


Metric = Counter | EventCounter | Histogram


@dataclass(frozen=True)
class Item:
    """One thing that can be monitored."""

    name: str
    """The field of MonitorPolicy."""
    ladders: tuple[Ladder, ...]
    metrics: dict[Granularity, tuple[Metric, ...]] = field(hash=False)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Every kind it needs counted."""
        return tuple(kind for ladder in self.ladders for kind in ladder.kinds)

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Every probe on any of its rungs, each once."""
        return tuple(dict.fromkeys(p for ladder in self.ladders for rung in ladder.rungs for p in rung.probes))


IP_RCV = Probe(
    "receive",
    (Program("ip_rcv_core", "fentry/ip_rcv_core"), Program("ip6_rcv_core", "fentry/ip6_rcv_core")),
)
FORWARD = Probe("receive", (Program("ip_forward", "fentry/ip_forward"), Program("ip6_forward", "fentry/ip6_forward")))
NETIF_RECEIVE = Probe("receive", (Program("netif_receive", "tp_btf/netif_receive_skb"),))
NET_DEV_QUEUE = Probe("transmit", (Program("net_dev_queue", "tp_btf/net_dev_queue"),))
SYNACK = Probe("retransmit", (Program("tcp_retransmit_synack", "tp_btf/tcp_retransmit_synack"),))
RETRANSMIT_ERR = Probe("retransmit", (Program("tcp_retransmit_err", "tp_btf/tcp_retransmit_skb", "(with err)"),))
RETRANSMIT = Probe("retransmit", (Program("tcp_retransmit_skb", "tp_btf/tcp_retransmit_skb"),))
CREATE_CHILD = Probe("open", (Program("tcp_create_child", "fexit/tcp_create_openreq_child"),))
SET_STATE_IN = Probe("open", (Program("set_state_in", "tp_btf/inet_sock_set_state"),))
TCP_CONNECT = Probe("open", (Program("tcp_connect", "fexit/tcp_connect"),))
SET_STATE_OUT = Probe("open", (Program("set_state_out", "tp_btf/inet_sock_set_state"),))

TCP_PROBE = Probe("rtt", (Program("tcp_probe", "tp_btf/tcp_probe"),))
MAKE_SYNACK = Probe("service", (Program("tcp_make_synack", "fentry/tcp_make_synack"),))
SERVICE_LOCAL = Probe("service", (Program("service_local", "tp_btf/inet_sock_set_state", "(server)"),))
SERVICE_REMOTE = Probe("service", (Program("service_remote", "tp_btf/inet_sock_set_state", "(client)"),))

UDP_RCV = Probe(
    "udp_receive",
    (Program("udp4_rcv", "fentry/ip_rcv_core", "(UDP)"), Program("udp6_rcv", "fentry/ip6_rcv_core", "(UDP)")),
)
UDP_FORWARD = Probe(
    "udp_receive",
    (Program("udp4_forward", "fentry/ip_forward", "(UDP)"), Program("udp6_forward", "fentry/ip6_forward", "(UDP)")),
)
UDP_NETIF = Probe("udp_receive", (Program("udp_netif", "tp_btf/netif_receive_skb", "(UDP)"),))
UDP_DEV_QUEUE = Probe("udp_send", (Program("udp_dev_queue", "tp_btf/net_dev_queue", "(UDP)"),))

CONNECT = Probe(
    "connect_fail",
    (
        Program("connect_closed", "tp_btf/inet_sock_set_state", "(failed)"),
        Program("error_report", "fentry/sock_def_error_report"),
        Program("tcp_v4_connect", "fexit/tcp_v4_connect"),
        Program("tcp_v6_connect", "fexit/tcp_v6_connect"),
    ),
)
CONNECT_STATE = Probe("connect_fail", (Program("connect_alone", "tp_btf/inet_sock_set_state", "(failed, alone)"),))
HALF_OPEN = Probe(
    "accept_fail",
    (
        Program("tcp_check_req", "fexit/tcp_check_req"),
        Program("tcp_conn_request", "fentry/tcp_conn_request"),
        Program("request_timer", "fexit/reqsk_timer_handler"),
    ),
)
SYN_RECV = Probe(
    "accept_fail",
    (Program("syn_recv4", "fentry/tcp_v4_syn_recv_sock"), Program("syn_recv6", "fentry/tcp_v6_syn_recv_sock")),
)
ACK_OVERFLOW = Probe(
    "accept_fail",
    (
        Program("ack_overflow", "fexit/tcp_check_req", "(overflow)"),
        Program("cookie_overflow", "fentry/tcp_get_cookie_sock"),
    ),
)
_LISTENER_CHECK = (
    Program("cookie_v4_check", "fexit/cookie_v4_check"),
    Program("cookie_v6_check", "fexit/cookie_v6_check"),
)
COOKIE_ARGUMENT = Probe(
    "accept_fail",
    (
        *_LISTENER_CHECK,
        Program("check4_cookie", "fexit/__cookie_v4_check", "(with cookie)"),
        Program("check6_cookie", "fexit/__cookie_v6_check", "(with cookie)"),
    ),
)
COOKIE = Probe(
    "accept_fail",
    (
        *_LISTENER_CHECK,
        Program("check4", "fexit/__cookie_v4_check"),
        Program("check6", "fexit/__cookie_v6_check"),
    ),
)

KFREE_SKB_SOCKET = Probe("drop", (Program("kfree_skb_sk", "tp_btf/kfree_skb", "(with socket)"),))
KFREE_SKB_REASON = Probe("drop", (Program("kfree_skb_why", "tp_btf/kfree_skb", "(with reason)"),))
KFREE_SKB = Probe("drop", (Program("kfree_skb", "tp_btf/kfree_skb"),))
IP_REFUSED_WHY = Probe("ip_error", (Program("ip_refused_why", "tp_btf/kfree_skb", "(IP, with reason)"),))
IP_REFUSED = Probe("ip_error", (Program("ip_refused", "tp_btf/kfree_skb", "(IP)"),))
ICMP_SEND = Probe("ip_error", (Program("icmp_send", "fentry/__icmp_send"), Program("icmp6_send", "fentry/icmp6_send")))
TCP_REFUSED_SK = Probe("tcp_error", (Program("tcp_refused_sk", "tp_btf/kfree_skb", "(TCP, with socket)"),))
TCP_REFUSED_WHY = Probe("tcp_error", (Program("tcp_refused_why", "tp_btf/kfree_skb", "(TCP, with reason)"),))
TCP_REFUSED = Probe("tcp_error", (Program("tcp_refused", "tp_btf/kfree_skb", "(TCP)"),))
TCP_BACKLOG_WHY = Probe("tcp_error", (Program("tcp_backlog_why", "fexit/tcp_add_backlog", "(with reason)"),))
TCP_BACKLOG = Probe("tcp_error", (Program("tcp_backlog", "fexit/tcp_add_backlog"),))
TCP_CHALLENGE = Probe(
    "tcp_error",
    (
        Program("tcp_challenge", "fentry/tcp_send_challenge_ack"),
        Program("tcp_syn", "tp_btf/kfree_skb", "(SYN, with reason)"),
    ),
)
TCP_CHECKSUM = Probe("tcp_error", (Program("tcp_checksum", "fexit/__skb_checksum_complete"),))

NETNS_EXIT = Probe("netns_exit", (Program("tcp_sk_exit", "fentry/tcp_sk_exit"),))
"""No item: guards the filter against reused namespace numbers while any pod is watched."""

SERVICE_PORTS = Ladder(
    "service ports",
    (),
    (
        Rung((MAKE_SYNACK, SERVICE_REMOTE)),
        Rung(
            (SERVICE_LOCAL, SERVICE_REMOTE),
            inexact="the handshake of the first connection to a service on a port from 32768 on, or from a client on "
            "a port below, may appear as a flow of its own",
        ),
    ),
)
"""No item: learns which ports are services', for items at flow granularity."""


_UNITS = {"ip": "{packet}", "tcp": "{segment}", "udp": "{datagram}"}
"""What a protocol calls its packets."""


def _traffic(prefix: str, item: str, kind: Kind, packets: str, octets: str) -> tuple[Counter, ...]:
    """Packets and bytes of one direction."""
    unit = _UNITS[item.partition("_")[0]]
    return (
        Counter(f"{prefix}_{item}_packets_total", packets, Field.PACKETS, ((kind, ()),), unit),
        Counter(f"{prefix}_{item}_bytes_total", octets, Field.BYTES, ((kind, ()),), "By"),
    )


def _both(item: str, kind: Kind, packets: str, octets: str) -> dict[Granularity, tuple[Metric, ...]]:
    """The same two metrics at both granularities."""
    return {
        Granularity.POD: _traffic("dolphin", item, kind, packets, octets),
        Granularity.FLOW: _traffic("dolphin_flow", item, kind, packets, octets),
    }


def _retransmits(name: str) -> tuple[Counter, ...]:
    return (Counter(name, "TCP segments retransmitted.", Field.PACKETS, ((Kind.TCP_RETRANS, ()),), "{segment}"),)


def _dropped(kind: Kind) -> Ladder:
    return Ladder(
        "",
        (kind,),
        (
            Rung((KFREE_SKB_SOCKET,)),
            Rung((KFREE_SKB_REASON,)),
            Rung(
                (KFREE_SKB,),
                inexact="this kernel gives no reasons: the function that dropped a packet is shown; what TCP drops "
                "within a connection is missing",
            ),
        ),
        by_address=True,
    )


def _drops(name: str, text: str, kind: Kind, unit: str) -> tuple[EventCounter, ...]:
    whole = Kind.IP_DROP if kind is Kind.TCP_DROP else None
    return (EventCounter(name, text, kind, unit, drops.reason, ("receive", "send"), whole),)


_IP_DROPS = "IP packets of the pod that the node's kernel dropped, by its reason."
_TCP_DROPS = "TCP segments of the pod that the node's kernel dropped, by its reason."

_IP_ERRORS = {
    1: "header",
    2: "checksum",
    3: "length",
    4: "address",
    5: "protocol",
    6: "no_route",
    7: "hop_limit",
}
_TCP_ERRORS = {1: "header", 2: "checksum", 8: "syn"}
"""enum error of ebpf/include/malformed.bpf.h: each is one counter of the kernel, or a part of one."""


def _errors(
    name: str, text: str, kind: Kind, unit: str, reasons: Mapping[int, str]
) -> dict[Granularity, tuple[Metric, ...]]:
    return {Granularity.POD: (EventCounter(name, text, kind, unit, reasons, ("receive", "send")),)}


_ANSWERED = "exceeded hop limits, unknown protocols, wrong IPv4 options and wrong headers of IPv6 fragments are missing"
_JUDGED_AGAIN = "malformed packets that are dropped before the IP layer are included"
_SYNS = "SYNs inside a connection are missing"
_IN_USE = "wrong checksums of segments that find their socket in use"

_QUEUE_ENTRY = (
    "devices stacked inside the pod count a packet once each, and packets dropped before the IP layer are included"
)


_USELESS_ACKS = (
    "listen_overflow has acknowledgements as well that the kernel would not have taken even if there were room "
    "in the queue"
)


def _received(kind: Kind, what: str, arrive: Probe, forward: Probe, entry: Probe) -> Ladder:
    """The ladder of a transport protocol's packets that arrive."""
    return Ladder(
        "",
        (kind,),
        (
            Rung((arrive, forward)),
            Rung((arrive,), inexact=f"{what} that the pod forwards are included"),
            Rung((entry,), inexact=f"{_QUEUE_ENTRY}, as are {what} that the pod forwards"),
        ),
    )


ITEMS: tuple[Item, ...] = (
    Item(
        name="ipReceive",
        ladders=(Ladder("", (Kind.IP_RECEIVE,), (Rung((IP_RCV,)), Rung((NETIF_RECEIVE,), inexact=_QUEUE_ENTRY))),),
        metrics=_both(
            "ip_receive",
            Kind.IP_RECEIVE,
            "IP packets received, as they are on the wire.",
            "Bytes of the IP packets received, headers included, as they are on the wire.",
        ),
    ),
    Item(
        name="ipSend",
        ladders=(Ladder("", (Kind.IP_SEND,), (Rung((NET_DEV_QUEUE,)),)),),
        metrics=_both(
            "ip_send",
            Kind.IP_SEND,
            "IP packets sent, as they are on the wire.",
            "Bytes of the IP packets sent, headers included, as they are on the wire.",
        ),
    ),
    Item(
        name="ipDrop",
        ladders=(_dropped(Kind.IP_DROP),),
        metrics={
            Granularity.POD: _drops("dolphin_ip_drop_packets_total", _IP_DROPS, Kind.IP_DROP, "{packet}"),
            Granularity.FLOW: _drops("dolphin_flow_ip_drop_packets_total", _IP_DROPS, Kind.IP_DROP, "{packet}"),
        },
    ),
    Item(
        name="ipError",
        ladders=(
            Ladder(
                "",
                (Kind.IP_ERROR,),
                (
                    Rung((IP_REFUSED_WHY, ICMP_SEND)),
                    Rung((IP_REFUSED_WHY,), inexact=_ANSWERED),
                    Rung((IP_REFUSED, ICMP_SEND), inexact=_JUDGED_AGAIN),
                    Rung((IP_REFUSED,), inexact=f"{_JUDGED_AGAIN}; {_ANSWERED}"),
                ),
            ),
        ),
        metrics=_errors(
            "dolphin_ip_errors_total",
            "IP packets that the pod received and refused for what they are.",
            Kind.IP_ERROR,
            "{packet}",
            _IP_ERRORS,
        ),
    ),
    Item(
        name="tcpReceive",
        ladders=(_received(Kind.TCP_RECEIVE, "segments", IP_RCV, FORWARD, NETIF_RECEIVE),),
        metrics=_both(
            "tcp_receive",
            Kind.TCP_RECEIVE,
            "TCP segments received, as they are on the wire.",
            "Payload bytes of the TCP segments received, retransmissions included.",
        ),
    ),
    Item(
        name="tcpSend",
        ladders=(Ladder("", (Kind.TCP_SEND,), (Rung((NET_DEV_QUEUE,)),)),),
        metrics=_both(
            "tcp_send",
            Kind.TCP_SEND,
            "TCP segments sent, as they are on the wire.",
            "Payload bytes of the TCP segments sent, retransmissions included.",
        ),
    ),
    Item(
        name="tcpRetrans",
        ladders=(
            Ladder(
                "",
                (Kind.TCP_RETRANS,),
                (
                    Rung((NET_DEV_QUEUE, SYNACK)),
                    Rung((RETRANSMIT_ERR, SYNACK)),
                    Rung((RETRANSMIT, SYNACK)),
                ),
            ),
        ),
        metrics={
            Granularity.POD: _retransmits("dolphin_tcp_retransmits_total"),
            Granularity.FLOW: _retransmits("dolphin_flow_tcp_retransmits_total"),
        },
    ),
    Item(
        name="tcpDrop",
        ladders=(_dropped(Kind.TCP_DROP),),
        metrics={
            Granularity.POD: _drops("dolphin_tcp_drop_packets_total", _TCP_DROPS, Kind.TCP_DROP, "{segment}"),
            Granularity.FLOW: _drops("dolphin_flow_tcp_drop_packets_total", _TCP_DROPS, Kind.TCP_DROP, "{segment}"),
        },
    ),
    Item(
        name="tcpError",
        ladders=(
            Ladder(
                "",
                (Kind.TCP_ERROR,),
                (
                    Rung((TCP_REFUSED_SK,)),
                    Rung((TCP_REFUSED_WHY, TCP_BACKLOG_WHY, TCP_CHALLENGE)),
                    Rung((TCP_REFUSED_WHY,), inexact=f"{_SYNS}, and so are {_IN_USE}"),
                    Rung((TCP_REFUSED, TCP_CHECKSUM, TCP_BACKLOG), inexact=_SYNS),
                ),
            ),
        ),
        metrics=_errors(
            "dolphin_tcp_errors_total",
            "TCP segments that the pod received and refused for what they are.",
            Kind.TCP_ERROR,
            "{segment}",
            _TCP_ERRORS,
        ),
    ),
    Item(
        name="tcpRtt",
        ladders=(Ladder("", (Kind.TCP_RTT,), (Rung((TCP_PROBE,)),)),),
        metrics={
            Granularity.FLOW: (
                Histogram(
                    "dolphin_flow_tcp_rtt_microseconds",
                    "Smoothed round-trip time of TCP connections, at most one sample per round trip and connection.",
                    Kind.TCP_RTT,
                    "us",
                ),
            ),
        },
    ),
    Item(
        name="tcpNewConnection",
        ladders=(
            Ladder(
                "inbound",
                (Kind.TCP_OPEN_INBOUND,),
                (
                    Rung((CREATE_CHILD,)),
                    Rung(
                        (SET_STATE_IN,),
                        inexact="connections that end before they are established are missing, "
                        "and a few may be missed under heavy load",
                    ),
                ),
            ),
            Ladder(
                "outbound",
                (Kind.TCP_OPEN_OUTBOUND,),
                (
                    Rung((NET_DEV_QUEUE,)),
                    Rung((TCP_CONNECT,), inexact="a few may be missed on preemptible kernels"),
                    Rung((SET_STATE_OUT,), inexact="a few may be missed on preemptible kernels"),
                ),
            ),
        ),
        metrics={
            Granularity.POD: (
                Counter(
                    "dolphin_tcp_new_connections_total",
                    "TCP connections opened by the pod (outbound) and accepted from others (inbound).",
                    Field.PACKETS,
                    (
                        (Kind.TCP_OPEN_INBOUND, (("direction", "inbound"),)),
                        (Kind.TCP_OPEN_OUTBOUND, (("direction", "outbound"),)),
                    ),
                    "{connection}",
                ),
            ),
        },
    ),
    Item(
        name="tcpConnectFail",
        ladders=(
            Ladder(
                "",
                (Kind.TCP_CONNECT_FAIL,),
                (
                    Rung((CONNECT, HALF_OPEN, SYN_RECV, COOKIE_ARGUMENT)),
                    Rung((CONNECT, HALF_OPEN, SYN_RECV, COOKIE)),
                    Rung((CONNECT, HALF_OPEN, ACK_OVERFLOW, COOKIE_ARGUMENT), inexact=_USELESS_ACKS),
                    Rung((CONNECT, HALF_OPEN, ACK_OVERFLOW, COOKIE), inexact=_USELESS_ACKS),
                    Rung(
                        (CONNECT_STATE,),
                        inexact="inbound connections are missing, and of those that failed before anything was sent "
                        "(local) all but those that found no free port; before kernel 6.10 some may count as aborted",
                    ),
                ),
            ),
        ),
        metrics={
            Granularity.POD: (
                EventCounter(
                    "dolphin_tcp_connect_failures_total",
                    "TCP connections that the pod (outbound) or others (inbound) tried to open in vain, by reason.",
                    Kind.TCP_CONNECT_FAIL,
                    "{connection}",
                    {failure: failure.name.lower() for failure in Failure},
                ),
            ),
        },
    ),
    Item(
        name="udpReceive",
        ladders=(_received(Kind.UDP_RECEIVE, "datagrams", UDP_RCV, UDP_FORWARD, UDP_NETIF),),
        metrics=_both(
            "udp_receive",
            Kind.UDP_RECEIVE,
            "UDP datagrams received, as they are on the wire.",
            "Payload bytes of the UDP datagrams received.",
        ),
    ),
    Item(
        name="udpSend",
        ladders=(Ladder("", (Kind.UDP_SEND,), (Rung((UDP_DEV_QUEUE,)),)),),
        metrics=_both(
            "udp_send",
            Kind.UDP_SEND,
            "UDP datagrams sent, as they are on the wire.",
            "Payload bytes of the UDP datagrams sent.",
        ),
    ),
)

EVENT_COUNTERS = {
    metric.kind: metric
    for item in ITEMS
    for metrics in item.metrics.values()
    for metric in metrics
    if isinstance(metric, EventCounter)
}
"""Kind -> a metric that says what its reasons mean; both of an item say the same."""

BY_NAME = {item.name: item for item in ITEMS}
