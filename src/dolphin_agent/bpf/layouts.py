"""ctypes mirrors of ebpf/include/*.bpf.h; tests/bpf/test_layouts.py compares them with the objects' BTF."""

from __future__ import annotations

import ctypes
import enum

SLOTS = 512
NETNS_NUMBERS = 65536
NETNS_FIRST = 0xF0000000
CPU_PARTITIONS = 2
PORT_WORDS = 1024
IPV4_KEY = 2
IPV6_KEY = 5
BUCKET_SHIFT = 25
EVENTS = 4096
EVENT_GROUPS = 2
"""Pods, flows."""


class Family(enum.IntEnum):
    """enum family: the second index of a pod's counters."""

    IPV4 = 0
    IPV6 = 1


class Kind(enum.IntEnum):
    """enum kind: the first index of a pod's counters, and the bits in its `wants` word."""

    IP_RECEIVE = 0
    IP_SEND = 1
    TCP_RECEIVE = 2
    TCP_SEND = 3
    TCP_RETRANS = 4
    TCP_OPEN_INBOUND = 5
    TCP_OPEN_OUTBOUND = 6
    TCP_RTT = 7
    UDP_RECEIVE = 8
    UDP_SEND = 9
    TCP_CONNECT_FAIL = 10
    IP_DROP = 11
    TCP_DROP = 12
    IP_ERROR = 13
    TCP_ERROR = 14

    @property
    def counted(self) -> int:
        """COUNTED(kind): the pod wants it."""
        return 1 << self

    @property
    def per_flow(self) -> int:
        """PER_FLOW(kind): the pod wants it per flow; never without `counted`."""
        return 1 << 16 + self


FIRST_KINDS = 8
KINDS = 10
"""Those that a pod has counters of: the first ones. Later ones are events (bpf/events.py)."""
EVENT_KINDS = tuple(Kind)[KINDS:]
ALL_KINDS = 16
ANY_PER_FLOW = 0xFFFF << 16


class Direction(enum.IntEnum):
    """enum direction: as the pod sees it. A packet that goes in has the record RECEIVED, one that goes out SENT."""

    INCOMING = 0
    OUTGOING = 1


class Record(enum.IntEnum):
    """enum record: what an entry of a flow table says of its flow."""

    RECEIVED = 0
    SENT = 1
    RETRANSMITTED = 2
    RTT = 3


class Failure(enum.IntEnum):
    """enum failure: why a connection came to nothing."""

    REFUSED = 0
    RESET = 1
    TIMEOUT = 2
    UNREACHABLE = 3
    LOCAL = 4
    ABORTED = 5
    LISTEN_OVERFLOW = 6
    COOKIE = 7


class Watched(ctypes.Structure):
    """struct watched: what is to be done for a network namespace."""

    _fields_ = (("wants", ctypes.c_uint32), ("slot", ctypes.c_uint32))


class AgentState(ctypes.Structure):
    """struct agent_state: the whole of .bss."""

    _fields_ = (
        ("active", ctypes.c_uint32),
        ("services_known", ctypes.c_uint32),
        ("no_partition", ctypes.c_uint64),
        ("no_sample", ctypes.c_uint64),
        ("no_event", ctypes.c_uint64 * ALL_KINDS),
        ("node", ctypes.c_uint32),
        ("services", ctypes.c_uint64 * PORT_WORDS),
        ("watched", Watched * NETNS_NUMBERS),
    )


class Counter(ctypes.Structure):
    """struct counter."""

    _fields_ = (("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class Partition(ctypes.Structure):
    """struct partition: pod[SLOTS][FIRST_KINDS][FAMILIES]."""

    _fields_ = (("pod", ((Counter * len(Family)) * FIRST_KINDS) * SLOTS),)


class MorePartition(ctypes.Structure):
    """struct more_partition: the same of the other kinds."""

    _fields_ = (("pod", ((Counter * len(Family)) * (KINDS - FIRST_KINDS)) * SLOTS),)


class TableSize(ctypes.Structure):
    """struct table_size."""

    _fields_ = (("mask", ctypes.c_uint32), ("shift", ctypes.c_uint32))


class FlowConfig(ctypes.Structure):
    """struct flow_config: .rodata.config, set before load."""

    _fields_ = (
        ("factors", ctypes.c_uint64 * IPV6_KEY),
        ("flows4", TableSize),
        ("flows6", TableSize),
        ("samples4", TableSize),
        ("samples6", TableSize),
        ("fold_ports", ctypes.c_uint32),
    )


class FlowTable(ctypes.Structure):
    """struct flow_table: the header of a table; its entries follow."""

    _fields_ = (("used", ctypes.c_uint32), ("busy", ctypes.c_uint32), ("spare", ctypes.c_uint64 * 7))


class Traffic(ctypes.Structure):
    """struct traffic: the counters of a flow."""

    _fields_ = (
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("segments", ctypes.c_uint64),
        ("payload", ctypes.c_uint64),
    )


class FlowSample(ctypes.Structure):
    """struct flow_sample: what is counted beside the packets' path."""

    _fields_ = (("count", ctypes.c_uint64), ("sum", ctypes.c_uint64))


class Flow4(ctypes.Structure):
    """struct flow4."""

    _fields_ = (("key", ctypes.c_uint64 * IPV4_KEY), ("traffic", Traffic))


class Flow6(ctypes.Structure):
    """struct flow6."""

    _fields_ = (("key", ctypes.c_uint64 * IPV6_KEY), ("traffic", Traffic))


class Sample4(ctypes.Structure):
    """struct sample4."""

    _fields_ = (("key", ctypes.c_uint64 * IPV4_KEY), ("sample", FlowSample))


class Sample6(ctypes.Structure):
    """struct sample6."""

    _fields_ = (("key", ctypes.c_uint64 * IPV6_KEY), ("sample", FlowSample))


class Address(ctypes.Structure):
    """struct address: a key of `addresses`."""

    _fields_ = (("words", ctypes.c_uint64 * 2),)


class Event(ctypes.Structure):
    """struct event: what happened."""

    _fields_ = (
        ("slot", ctypes.c_uint32),
        ("kind", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
        ("direction", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("reason", ctypes.c_uint64),
        ("flow", ctypes.c_uint64 * IPV6_KEY),
    )


class Events(ctypes.Structure):
    """struct events: an entry of a table of them."""

    _fields_ = (
        ("event", Event),
        ("packets", ctypes.c_uint64),
        ("digest", ctypes.c_uint64),
        ("claims", ctypes.c_uint64),
    )


class EventTable(ctypes.Structure):
    """struct event_table: an element of `event_tables`."""

    _fields_ = (("table", FlowTable), ("entries", Events * EVENTS))
