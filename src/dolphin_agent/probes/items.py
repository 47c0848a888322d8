"""THE declaration of every item: what it counts, where the kernel is asked, and under which metric names it leaves.

To add one: a program in ebpf/, an entry here, an integration/test_<item>.py. Everything else is derived.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from dolphin_agent.bpf.layouts import Kind
from dolphin_agent.policy.vocabulary import Granularity


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


class Field(enum.IntEnum):
    """Which number of a counter a metric shows: its index in (packets, bytes)."""

    PACKETS = 0
    BYTES = 1


@dataclass(frozen=True)
class Counter:
    """One exported metric of an item, per IP family."""

    name: str
    """The Prometheus name, with `_total`."""
    help: str
    field: Field
    kinds: tuple[tuple[Kind, tuple[tuple[str, str], ...]], ...]
    """The kinds shown, each with the labels that tell it apart."""


@dataclass(frozen=True)
class Item:
    """One thing that can be monitored."""

    name: str
    """The field of MonitorPolicy."""
    ladders: tuple[Ladder, ...]
    metrics: dict[Granularity, tuple[Counter, ...]] = field(hash=False)

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
NETIF_RECEIVE = Probe("receive", (Program("netif_receive_skb", "tp_btf/netif_receive_skb"),))
NET_DEV_QUEUE = Probe("transmit", (Program("net_dev_queue", "tp_btf/net_dev_queue"),))
SYNACK = Probe("retransmit", (Program("tcp_retransmit_synack", "tp_btf/tcp_retransmit_synack"),))
RETRANSMIT_ERR = Probe("retransmit", (Program("tcp_retransmit_err", "tp_btf/tcp_retransmit_skb", "(with err)"),))
RETRANSMIT = Probe("retransmit", (Program("tcp_retransmit_skb", "tp_btf/tcp_retransmit_skb"),))
CREATE_CHILD = Probe("open", (Program("tcp_create_child", "fexit/tcp_create_openreq_child"),))
SET_STATE_IN = Probe("open", (Program("set_state_in", "tp_btf/inet_sock_set_state"),))
TCP_CONNECT = Probe("open", (Program("tcp_connect", "fexit/tcp_connect"),))
SET_STATE_OUT = Probe("open", (Program("set_state_out", "tp_btf/inet_sock_set_state"),))

NETNS_EXIT = Probe("netns_exit", (Program("tcp_sk_exit", "fentry/tcp_sk_exit"),))
"""No item: guards the filter against reused namespace numbers while any pod is watched."""


def _traffic(name: str, direction: str, kind: Kind) -> tuple[Counter, ...]:
    """Packets and bytes of one direction."""
    return (
        Counter(
            f"dolphin_ip_{name}_packets_total",
            f"IP packets {direction}, as they are on the wire.",
            Field.PACKETS,
            ((kind, ()),),
        ),
        Counter(
            f"dolphin_ip_{name}_bytes_total",
            f"Bytes of the IP packets {direction}, headers included, as they are on the wire.",
            Field.BYTES,
            ((kind, ()),),
        ),
    )


ITEMS: tuple[Item, ...] = (
    Item(
        name="ipReceive",
        ladders=(
            Ladder(
                "",
                (Kind.IP_RECEIVE,),
                (
                    Rung((IP_RCV,)),
                    Rung(
                        (NETIF_RECEIVE,),
                        inexact="devices stacked inside the pod count a packet once each, "
                        "and packets dropped before the IP layer are included",
                    ),
                ),
            ),
        ),
        metrics={Granularity.POD: _traffic("receive", "received", Kind.IP_RECEIVE)},
    ),
    Item(
        name="ipSend",
        ladders=(Ladder("", (Kind.IP_SEND,), (Rung((NET_DEV_QUEUE,)),)),),
        metrics={Granularity.POD: _traffic("send", "sent", Kind.IP_SEND)},
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
            Granularity.POD: (
                Counter(
                    "dolphin_tcp_retransmits_total",
                    "TCP segments retransmitted.",
                    Field.PACKETS,
                    ((Kind.TCP_RETRANS, ()),),
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
                ),
            ),
        },
    ),
)

BY_NAME = {item.name: item for item in ITEMS}
