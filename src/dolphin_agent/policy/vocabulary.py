"""The words of the MonitorPolicy API, declared once; all else derives from here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

API_VERSION = "crd.dolphin.io/v1"
KIND = "MonitorPolicy"
NAMESPACE = "kube-system"
"""The only namespace a policy may be in: it decides about pods of every namespace."""

MAX_TASKS = 32
"""Policies that run at once on a node."""
MAX_POD_LABELS = 10
MAX_LABEL_NAME = 256
"""Characters of a podLabel key."""
SYSTEM_LABELS = (
    *("pod", "task", "ipfamily", "srcip", "dstip", "srcport", "dstport", "protocol"),
    *("direction", "command", "reason"),
)
"""Labels the agent sets itself."""
HISTOGRAM_LABEL = "le"
"""Prometheus's own label on histogram buckets; a second one would void the whole scrape."""

MAX_FAILURE_THRESHOLD = 1000
MAX_PERIOD_SECONDS = 86_400
"""A day: a check that is rarer says nothing about health."""
MAX_PORT = 65_535
MAX_PATH = 1024
"""Characters of a health check's HTTP path."""


class Granularity(StrEnum):
    """What one series stands for (`aggregateType`)."""

    POD = "pod"
    FLOW = "flow"


class Operator(StrEnum):
    """How a label selector's requirement judges a label."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Command(StrEnum):
    """How a health check asks a pod."""

    PING = "ping"
    ARPING = "arping"
    CURL = "curl"


class IPFamily(StrEnum):
    """A version of the Internet Protocol."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True)
class ItemOffer:
    """What a user may ask of one item."""

    group: str
    """The field under `spec.monitor` that holds the item: `ip`, `tcp` or `udp`."""
    granularities: tuple[Granularity, ...]
    """Never empty; the first is what a policy gets that does not say."""


_BOTH = (Granularity.POD, Granularity.FLOW)

ITEMS: Mapping[str, ItemOffer] = MappingProxyType(
    {
        "ipReceive": ItemOffer("ip", _BOTH),
        "ipSend": ItemOffer("ip", _BOTH),
        "ipDrop": ItemOffer("ip", _BOTH),
        "ipError": ItemOffer("ip", (Granularity.POD,)),
        "tcpReceive": ItemOffer("tcp", _BOTH),
        "tcpSend": ItemOffer("tcp", _BOTH),
        "tcpRetrans": ItemOffer("tcp", _BOTH),
        "tcpDrop": ItemOffer("tcp", _BOTH),
        "tcpError": ItemOffer("tcp", (Granularity.POD,)),
        "tcpRtt": ItemOffer("tcp", (Granularity.FLOW,)),
        "tcpNewConnection": ItemOffer("tcp", (Granularity.POD,)),
        "tcpConnectFail": ItemOffer("tcp", (Granularity.POD,)),
        "udpReceive": ItemOffer("udp", _BOTH),
        "udpSend": ItemOffer("udp", _BOTH),
    }
)
"""Every item by its field name in `spec.monitor.<group>`."""
