"""ctypes mirrors of ebpf/include/*.bpf.h; tests/bpf/test_layouts.py compares them with the objects' BTF."""

from __future__ import annotations

import ctypes
import enum

SLOTS = 512
NETNS_NUMBERS = 65536
NETNS_FIRST = 0xF0000000
CPU_PARTITIONS = 2


class Family(enum.IntEnum):
    """enum family: the second index of a pod's counters."""

    IPV4 = 0
    IPV6 = 1


class Kind(enum.IntEnum):
    """enum kind: the first index of a pod's counters, and the bit in its `wants` word."""

    IP_RECEIVE = 0
    IP_SEND = 1
    TCP_RETRANS = 2
    TCP_OPEN_INBOUND = 3
    TCP_OPEN_OUTBOUND = 4


KINDS = 8


class AgentState(ctypes.Structure):
    """struct agent_state: the whole of .bss."""

    _fields_ = (
        ("slot", ctypes.c_uint16 * NETNS_NUMBERS),
        ("wants", ctypes.c_uint32 * SLOTS),
        ("active", ctypes.c_uint32),
        ("no_partition", ctypes.c_uint64),
    )


class Counter(ctypes.Structure):
    """struct counter."""

    _fields_ = (("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class Partition(ctypes.Structure):
    """struct partition: pod[SLOTS][KINDS][FAMILIES]."""

    _fields_ = (("pod", ((Counter * len(Family)) * KINDS) * SLOTS),)
