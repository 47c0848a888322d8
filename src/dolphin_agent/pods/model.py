"""A pod, whatever it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field

from dolphin_agent.frozen import FrozenMap

NETNS_ANNOTATION = "dolphin.io/netns"
"""Names the pod's network namespace in a standalone manifest, such as `/run/netns/web`."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node."""

    namespace: str
    name: str
    uid: str
    """The pod's identity: a pod made anew under the same name has another. `namespace/name` if none is known."""
    labels: FrozenMap[str, str] = field(default_factory=FrozenMap)
    netns_path: str | None = None
    """An absolute path that is not checked yet; None where the namespace is found by the pod's processes."""
    cgroup_uid: str = ""
    """The uid that the cgroups of its processes are named after: a static pod's are not named after `uid`."""
    ips: tuple[str, ...] = ()
    """Of each IP family at most one; empty until the network is set up."""
    host_network: bool = False
    """True: the pod has no network namespace of its own, so its traffic cannot be told from the node's."""
    terminated: bool = False
    """True: finished, or being deleted."""
    running: bool = False
    """True: the kubelet says that its containers have been started."""

    @property
    def full_name(self) -> str:
        """The value of the `pod` label: `namespace/name`."""
        return f"{self.namespace}/{self.name}"
