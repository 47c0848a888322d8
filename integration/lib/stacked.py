"""Devices on top of a pod's veth: each packet passes two devices and is still one packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.lib.topology import Pair, Pod, connect, wait_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from integration.lib.netns import Netns

_VLAN = 7


def vlan(netns: Netns, lower: str, name: str) -> None:
    """A tagged network (8021q)."""
    with netns.routes() as routes:
        (index,) = routes.link_lookup(ifname=lower)
        routes.link("add", ifname=name, kind="vlan", link=index, vlan_id=_VLAN)


def macvlan(netns: Netns, lower: str, name: str) -> None:
    """A second hardware address on the same device."""
    with netns.routes() as routes:
        (index,) = routes.link_lookup(ifname=lower)
        routes.link("add", ifname=name, kind="macvlan", link=index, macvlan_mode="bridge")


def bridge(netns: Netns, lower: str, name: str) -> None:
    """A bridge whose only port is the device."""
    with netns.routes() as routes:
        routes.link("add", ifname=name, kind="bridge")
        (master,) = routes.link_lookup(ifname=name)
        (index,) = routes.link_lookup(ifname=lower)
        routes.link("set", index=index, master=master)


KINDS: Mapping[str, Callable[[Netns, str, str], None]] = {made.__name__: made for made in (vlan, macvlan, bridge)}


def stacked(kind: str, lower: Pair) -> Pair:
    """Put a device on top of each pod's and return the pods with these, addressed in a network of their own, quiet.

    The devices end with the pods.
    """
    device = f"{kind}0"
    for pod in (lower.a, lower.b):
        KINDS[kind](pod.netns, pod.device, device)
    upper = Pair(
        Pod(lower.a.netns, device, "10.9.0.1", "fd09::1"),
        Pod(lower.b.netns, device, "10.9.0.2", "fd09::2"),
    )
    connect(upper.a, upper.b)
    wait_quiet(upper.a, upper.b)
    return upper
