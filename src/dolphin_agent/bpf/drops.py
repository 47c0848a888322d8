"""What the reasons mean that ebpf/drop.bpf.c counts by."""

from __future__ import annotations

from functools import cache

import structlog

from dolphin_agent.bpf import symbols
from dolphin_agent.bpf.btf import enumerators
from dolphin_agent.errors import DolphinError

UNKNOWN = "unknown"
"""A drop without a reason in a place whose function cannot be told."""

_LOCATION = 1 << 63
"""IS_LOCATION: the reason is the address of code."""
_NO_FIN = 1 << 62
"""LOCATION_FIN: cleared in it where the packet was a TCP segment with FIN."""
_SUBSYSTEM_SHIFT = 16
_PREFIX = "SKB_DROP_REASON_"
_SUBSYSTEM_PREFIX = "SKB_DROP_REASON_SUBSYS_"

NOT_DROPS = frozenset(
    {"skb_release_data", "kfree_skb_list_reason", "packet_rcv", "tpacket_rcv", "icmp_rcv", "icmpv6_rcv"}
)
"""Functions that free, without a reason, what is not a packet that was dropped.

The first two: the parts of a merged packet, which stands for them (5.10 names the list of a full queue like them:
`kfree_skb_list`, which is therefore not here). Then copies for packet sockets. The last two: replies to echoes, which
whoever asked has a copy of (before 5.19), and messages of neighbour discovery that were handled (before 6.3)."""

TIME_WAIT = frozenset({"tcp_v4_rcv", "tcp_v6_rcv"})
"""Functions that free, without a reason, the FIN that a socket in TIME_WAIT has acknowledged."""

log = structlog.get_logger()


def reason(number: int) -> str:
    """The label of a reason; empty where nothing was dropped."""
    if number & _LOCATION:
        function = _function(number | _NO_FIN)
        handled = function in NOT_DROPS or (function in TIME_WAIT and not number & _NO_FIN)
        return "" if handled else function
    return _names().get(number) or _numbered(number)


@cache
def _names() -> dict[int, str]:
    """The kernel's names, those that its modules add left out."""
    try:
        core, queue = enumerators("skb_drop_reason"), enumerators("qdisc_drop_reason")
    except DolphinError as fault:
        log.warning("reasons of drops have no names", reason=str(fault))
        return {}
    return {number: name.lower() for number, name in queue.items() if number} | {
        number: name.removeprefix(_PREFIX).lower() for number, name in core.items()
    }


@cache
def _subsystems() -> dict[int, str]:
    try:
        found = enumerators("skb_drop_reason_subsys")
    except DolphinError:
        return {}
    return {number: name.removeprefix(_SUBSYSTEM_PREFIX).lower() for number, name in found.items()}


def _numbered(number: int) -> str:
    """By subsystem and number: the names are in a module's BTF, or nowhere."""
    subsystem, index = number >> _SUBSYSTEM_SHIFT, number & (1 << _SUBSYSTEM_SHIFT) - 1
    if not subsystem:
        return f"reason_{index}"
    return f"{_subsystems().get(subsystem) or f'subsystem_{subsystem}'}_{index}"


@cache
def _function(address: int) -> str:
    """Asked for once: the kernel's code stays where it is, and modules are seldom loaded again."""
    try:
        (name,) = symbols.resolve([address])
    except (DolphinError, ValueError) as fault:
        log.warning("the function that dropped packets has no name", reason=str(fault))
        name = ""
    return name or UNKNOWN
