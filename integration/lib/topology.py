"""Pods joined by veth pairs: directly, or through a router.

Nothing but the tests' own traffic moves in them: neighbours are permanent, so that no ARP and no neighbour
discovery is sent, addresses are usable at once, no router is solicited, and multicast reports are over.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from integration.lib import counters, wait
from integration.lib.netns import NODE, Netns, new_netns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.lib.counters import Family

_FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
# Before a device exists it inherits them from "default".
_SYSCTLS = {
    "ipv6/conf/{}/router_solicitations": 0,
    "ipv6/conf/{}/accept_dad": 0,
    "ipv6/conf/{}/accept_ra": 0,
    # Two reports for each group joined, each after a random delay of up to this many ms: get them over with.
    "ipv6/conf/{}/mldv2_unsolicited_report_interval": 10,
    "ipv6/conf/{}/mldv1_unsolicited_report_interval": 10,
}
_NUD_PERMANENT = 0x80
# In /proc/net/if_inet6.
_SCOPE_LINK = "20"
_IFA_F_TENTATIVE = 0x40
_IPV4_PREFIX = 24
_IPV6_PREFIX = 64
# Reports come within two intervals of 10 ms: several times that without one means that all are sent.
_QUIET = 0.3
_QUIET_DEADLINE = 30


@dataclass(frozen=True, slots=True)
class Pod:
    """One end of a path: a namespace with one device and one address of each family."""

    netns: Netns
    device: str
    ipv4: str
    ipv6: str

    def address(self, family: Family) -> str:
        """Return the address of a family."""
        return self.ipv4 if family == "ipv4" else self.ipv6

    def counters(self) -> counters.Counters:
        """Read the kernel's counters of this pod."""
        return counters.read(self.netns)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pods, and the router between them where there is one."""

    a: Pod
    b: Pod
    router: Netns | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A bridge in a namespace of its own, and the pods at its ports; neighbours are found as anywhere."""

    bridge: Pod
    pods: tuple[Pod, ...]


@contextmanager
def bridged_pods(prefix: str = "node", count: int = 1) -> Iterator[Node]:
    """Pods as most plugins join them; the namespaces are `<prefix>-bridge`, `<prefix>-0`, `<prefix>-1`, ..."""
    with ExitStack() as stack:
        bridge = _end(stack, f"{prefix}-bridge", "10.9.0.1", "fd09::1", device="br0")
        pods = tuple(_end(stack, f"{prefix}-{n}", f"10.9.0.{n + 2}", f"fd09::{n + 2:x}") for n in range(count))
        with bridge.netns.routes() as routes:
            routes.link("add", ifname=bridge.device, kind="bridge")
            (master,) = routes.link_lookup(ifname=bridge.device)
            for number, pod in enumerate(pods):
                with pod.netns.path.open() as there:
                    peer = {"ifname": pod.device, "net_ns_fd": there.fileno()}
                    routes.link("add", ifname=f"port{number}", kind="veth", peer=peer)
                (port,) = routes.link_lookup(ifname=f"port{number}")
                routes.link("set", index=port, master=master, state="up")
        for pod in (bridge, *pods):
            _configure(pod)
        wait_quiet(bridge, *pods)
        yield Node(bridge, pods)


@contextmanager
def joined_pair(prefix: str = "pod") -> Iterator[Pair]:
    """Two pods at the two ends of one veth pair; their namespaces are `<prefix>-a` and `<prefix>-b`."""
    with ExitStack() as stack:
        a = _end(stack, f"{prefix}-a", "10.8.0.1", "fd08::1")
        b = _end(stack, f"{prefix}-b", "10.8.0.2", "fd08::2")
        _join(a, b)
        wait_quiet(a, b)
        yield Pair(a, b)


@contextmanager
def routed_pair(prefix: str = "routed") -> Iterator[Pair]:
    """Two pods in different networks, with a router between them whose devices are `to-a` and `to-b`.

    The namespaces are `<prefix>-a`, `<prefix>-b` and `<prefix>-router`.
    """
    with ExitStack() as stack:
        a = _end(stack, f"{prefix}-a", "10.8.1.2", "fd08:1::2")
        b = _end(stack, f"{prefix}-b", "10.8.2.2", "fd08:2::2")
        to_a = _end(stack, f"{prefix}-router", "10.8.1.1", "fd08:1::1", device="to-a")
        router = to_a.netns
        to_b = Pod(router, "to-b", "10.8.2.1", "fd08:2::1")
        for name in _FORWARDING:
            router.sysctl(name, 1)
        for pod, gateway in ((a, to_a), (b, to_b)):
            _join(pod, gateway)
            with pod.netns.routes() as routes:
                routes.route("add", dst="default", gateway=gateway.ipv4)
                routes.route("add", dst="default", gateway=gateway.ipv6)
        wait_quiet(a, b, to_a, to_b)
        yield Pair(a, b, router)


@contextmanager
def node_pair(prefix: str = "local") -> Iterator[Pair]:
    """Two pods in different networks as a plugin that routes joins them: the node is the router between them.

    Their namespaces are `<prefix>-a` and `<prefix>-b`, the node's devices `to-<prefix>-a` and `to-<prefix>-b`.
    """
    with ExitStack() as stack:
        for name in _FORWARDING:
            stack.enter_context(NODE.setting(name, 1))
        for setting, value in _SYSCTLS.items():
            stack.enter_context(NODE.setting(setting.format("default"), value))
        a = _end(stack, f"{prefix}-a", "10.8.3.2", "fd08:3::2")
        b = _end(stack, f"{prefix}-b", "10.8.4.2", "fd08:4::2")
        to_a = Pod(NODE, f"to-{prefix}-a", "10.8.3.1", "fd08:3::1")
        to_b = Pod(NODE, f"to-{prefix}-b", "10.8.4.1", "fd08:4::1")
        for pod, gateway in ((a, to_a), (b, to_b)):
            _join(pod, gateway)
            # A namespace takes its devices with it, but later.
            stack.callback(NODE.run, ["ip", "link", "delete", gateway.device])
            with pod.netns.routes() as routes:
                routes.route("add", dst="default", gateway=gateway.ipv4)
                routes.route("add", dst="default", gateway=gateway.ipv6)
        wait_quiet(a, b, to_a, to_b)
        yield Pair(a, b, NODE)


@contextmanager
def forwards(netns: Netns) -> Iterator[None]:
    """A namespace that does not forward does, for the length of a block."""
    for name in _FORWARDING:
        netns.sysctl(name, 1)
    try:
        yield
    finally:
        for name in _FORWARDING:
            netns.sysctl(name, 0)


def _end(stack: ExitStack, name: str, ipv4: str, ipv6: str, device: str = "eth0") -> Pod:
    netns = stack.enter_context(new_netns(name))
    # A new namespace takes the node's setting, which other tests change.
    netns.sysctl("ipv4/ip_forward", 0)
    for setting, value in _SYSCTLS.items():
        for scope in ("all", "default"):
            netns.sysctl(setting.format(scope), value)
    return Pod(netns, device, ipv4, ipv6)


def _join(left: Pod, right: Pod) -> None:
    """Make a veth pair between two pods."""
    with left.netns.routes() as routes, right.netns.path.open() as there:
        peer = {"ifname": right.device, "net_ns_fd": there.fileno()}
        routes.link("add", ifname=left.device, kind="veth", peer=peer)
    connect(left, right)


def connect(left: Pod, right: Pod) -> None:
    """Address two devices that can reach each other, bring them up, and tell each end who the other is."""
    hardware = {pod: _configure(pod) for pod in (left, right)}
    for pod, other in ((left, right), (right, left)):
        with pod.netns.routes() as routes:
            (index,) = routes.link_lookup(ifname=pod.device)
            for address in (other.ipv4, other.ipv6):
                routes.neigh("add", dst=address, lladdr=hardware[other], ifindex=index, state=_NUD_PERMANENT)


def _configure(pod: Pod) -> str:
    """Address a pod's device and bring it up; returns its hardware address."""
    with pod.netns.routes() as routes:
        (index,) = routes.link_lookup(ifname=pod.device)
        routes.addr("add", index=index, address=pod.ipv4, prefixlen=_IPV4_PREFIX)
        routes.addr("add", index=index, address=pod.ipv6, prefixlen=_IPV6_PREFIX)
        routes.link("set", index=index, state="up")
        (link,) = routes.get_links(index)
        return str(link.get_attr("IFLA_ADDRESS"))


def wait_quiet(*pods: Pod) -> None:
    """Wait until every device is in use by IPv6 and no namespace sends or receives anything."""
    for pod in pods:
        wait.wait_until(partial(_is_configured, pod), deadline=_QUIET_DEADLINE, what=f"IPv6 on {pod.device}")

    def readings() -> list[counters.Counters]:
        return [pod.counters() for pod in pods]

    wait.unchanged(readings, seconds=_QUIET, deadline=_QUIET_DEADLINE, what="new namespaces are quiet")


def _is_configured(pod: Pod) -> bool:
    """Whether the kernel has done all that follows a device's coming up, within a second or so.

    It then has a link-local address and has noticed the carrier: multicast reports follow both.
    """
    with pod.netns.routes() as routes:
        (link,) = routes.link("get", ifname=pod.device)
    with pod.netns.entered():
        addresses = Path("/proc/thread-self/net/if_inet6").read_text()
    fields = (line.split() for line in addresses.splitlines())
    return link.get_attr("IFLA_OPERSTATE") == "UP" and any(
        name == pod.device and scope == _SCOPE_LINK and not int(flags, 16) & _IFA_F_TENTATIVE
        for _, _, _, scope, flags, name in fields
    )
