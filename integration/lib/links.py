"""What a path does to packets: segmentation offload, delay and loss."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.lib.netns import Netns
    from integration.lib.topology import Pod

# What ethtool takes, and how it lists them.
_FEATURES = {
    "tso": "tcp-segmentation-offload",
    "gso": "generic-segmentation-offload",
    "gro": "generic-receive-offload",
}
_MERGED = 65536  # the longest merged packet by default
_MILLISECOND = 1000  # netem's unit here is the microsecond


@contextmanager
def offloads(*pods: Pod, tso: bool, gso: bool, gro: bool) -> Iterator[None]:
    """Switch the devices' segmentation (sending) and merging (receiving), for the length of a block."""
    wanted = {"tso": tso, "gso": gso, "gro": gro}
    before = [_offloads(pod) for pod in pods]
    for pod in pods:
        _set_features(pod, wanted)
    try:
        yield
    finally:
        for pod, states in zip(pods, before, strict=True):
            _set_features(pod, states)


@contextmanager
def feature(*pods: Pod, name: str, on: bool) -> Iterator[None]:
    """Switch one of the devices' features, by ethtool's name, for the length of a block."""
    before = [_features(pod)[name] for pod in pods]
    for pod in pods:
        _set_features(pod, {name: on})
    try:
        yield
    finally:
        for pod, was in zip(pods, before, strict=True):
            _set_features(pod, {name: was})


@contextmanager
def big_tcp(*pods: Pod, size: int = 180_000) -> Iterator[None]:
    """Let TCP packets of up to `size` bytes be sent and merged, for the length of a block.

    Raises AssertionError where the kernel refuses.
    """
    for pod in pods:
        _set_link(pod, "gso_max_size", str(size), "gro_max_size", str(size))
    try:
        yield
    finally:
        for pod in pods:
            _set_link(pod, "gso_max_size", str(_MERGED), "gro_max_size", str(_MERGED))


@contextmanager
def mtu(pod: Pod, size: int) -> Iterator[None]:
    """Change a device's MTU, for the length of a block."""
    with pod.netns.routes() as routes:
        (link,) = routes.link("get", ifname=pod.device)
    _set_link(pod, "mtu", str(size))
    try:
        yield
    finally:
        _set_link(pod, "mtu", str(link.get_attr("IFLA_MTU")))


def _set_link(pod: Pod, *settings: str) -> None:
    pod.netns.run(["ip", "link", "set", "dev", pod.device, *settings])


def _offloads(pod: Pod) -> dict[str, bool]:
    states = _features(pod)
    return {switch: states[listed] for switch, listed in _FEATURES.items()}


def _features(pod: Pod) -> dict[str, bool]:
    """Return every feature's state by the name that ethtool lists it by."""
    printed = pod.netns.run(["ethtool", "-k", pod.device])
    states = dict(line.strip().split(": ", 1) for line in printed.splitlines() if ": " in line)
    return {name: state.startswith("on") for name, state in states.items()}


def _set_features(pod: Pod, states: Mapping[str, bool]) -> None:
    words = [word for switch, on in states.items() for word in (switch, "on" if on else "off")]
    pod.netns.run(["ethtool", "-K", pod.device, *words])


@contextmanager
def unmerged(*pods: Pod) -> Iterator[None]:
    """Have every TCP segment sent as a packet of its own, for the length of a block.

    With offloads off TCP still builds merged packets, which the kernel counts once and segments on their way to
    the device; with this it does not. UDP segmentation offload ignores it.
    """
    before = [_set_segments(pod, 1) for pod in pods]
    try:
        yield
    finally:
        for pod, most in zip(pods, before, strict=True):
            _set_segments(pod, most)


def _set_segments(pod: Pod, most: int) -> int:
    """Limit the segments that one packet stands for and return the limit before."""
    with pod.netns.routes() as routes:
        (index,) = routes.link_lookup(ifname=pod.device)
        (link,) = routes.get_links(index)
        routes.link("set", index=index, gso_max_segs=most)
        return int(link.get_attr("IFLA_GSO_MAX_SEGS"))


@contextmanager
def netem(pod: Pod, *, delay: float = 0, loss: float = 0) -> Iterator[None]:
    """Delay (in ms) and lose (in per cent, at random) what a pod sends, for the length of a block."""
    with pod.netns.routes() as routes:
        (index,) = routes.link_lookup(ifname=pod.device)
        routes.tc("add", "netem", index=index, handle="1:", delay=round(delay * _MILLISECOND), loss=loss)
    try:
        yield
    finally:
        with pod.netns.routes() as routes:
            routes.tc("del", "netem", index=index, handle="1:")


@contextmanager
def lossy_arrival(netns: Netns, device: str, *, every: int) -> Iterator[None]:
    """Drop every so many-th packet that a device receives, for the length of a block; for kernels without netem.

    On a router: in a pod, the agent's lower rungs count before this, and others and the kernel behind it.
    """
    chain = f"type filter hook ingress device {device} priority 0; numgen inc mod {every} 0 drop;"
    netns.run(["nft", f"table netdev loss {{ chain arrival {{ {chain} }}; }}"])
    try:
        yield
    finally:
        netns.run(["nft", "delete", "table", "netdev", "loss"])
