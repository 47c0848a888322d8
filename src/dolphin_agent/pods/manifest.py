"""A v1 Pod manifest -> Pod, or its faults. Only what the agent uses is judged: the API server knows the rest."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.manifests.fault import Fault, field_name, plain
from dolphin_agent.manifests.names import SUBDOMAIN_RULE, is_subdomain
from dolphin_agent.pods.model import NETNS_ANNOTATION, Pod

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dolphin_agent.manifests.stream import Document

_ENDED = ("Succeeded", "Failed")
_NETNS = ("metadata", "annotations", NETNS_ANNOTATION)


def read_pod(document: Document) -> tuple[Pod, tuple[Fault, ...]]:
    """Read a manifest: (pod, faults). The pod counts only if there are no faults."""
    reader = _Reader(document)
    if reader.text("kind") != "Pod" or reader.text("apiVersion") != "v1":
        reader.fault(("kind",), "must be a Pod of apiVersion v1")
        return Pod("", "", ""), tuple(reader.faults)
    namespace = reader.object_name("namespace", "default")
    name = reader.object_name("name")
    host_network = reader.value("spec", "hostNetwork") is True
    phase, deleted = reader.value("status", "phase"), reader.value("metadata", "deletionTimestamp")
    terminated = phase in _ENDED or deleted is not None
    netns = reader.text(*_NETNS)
    if not (host_network or terminated) and (netns is None or not netns.startswith("/")):
        remedy = "give the absolute path of the pod's network namespace, such as /run/netns/web"
        reader.fault(_NETNS, f"{'missing' if netns is None else 'not an absolute path'}; {remedy}")
    pod = Pod(
        namespace=namespace,
        name=name,
        uid=reader.text("metadata", "uid") or f"{namespace}/{name}",
        labels=reader.labels(),
        netns_path=netns,
        ips=reader.addresses(),
        host_network=host_network,
        terminated=terminated,
    )
    return pod, tuple(reader.faults)


class _Reader:
    """Values of one document by their paths; what is wrong with them is collected."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.faults = list(document.faults)

    def value(self, *path: str) -> object:
        """Give the value at `path`; None where there is none."""
        value = self._document.value
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value

    def text(self, *path: str) -> str | None:
        """Read a string that may be missing."""
        value = self.value(*path)
        if value is None or isinstance(value, str):
            return value
        self.fault(path, "must be a string; quote it")
        return None

    def object_name(self, field: str, default: str = "") -> str:
        """Read `metadata.<field>`, which must be a right name unless it is missing and has a default."""
        text = self.text("metadata", field) or default
        if not is_subdomain(text):
            self.fault(("metadata", field), f"must be {SUBDOMAIN_RULE}")
        return text

    def labels(self) -> FrozenMap[str, str]:
        """Read `metadata.labels`."""
        labels = self.value("metadata", "labels") or {}
        if not isinstance(labels, dict):
            self.fault(("metadata", "labels"), "must be a mapping")
            return FrozenMap()
        return FrozenMap({key: self.text("metadata", "labels", key) or "" for key in labels})

    def addresses(self) -> tuple[str, ...]:
        """Read `status.podIPs`, or `status.podIP` where there are none: of each IP family at most one."""
        listed = self.value("status", "podIPs")
        if listed is None:
            alone = self.text("status", "podIP")
            return tuple(self._addresses(("status", "podIP"), [alone] if alone else []))
        if not (isinstance(listed, list) and all(isinstance(one, dict) for one in listed)):
            self.fault(("status", "podIPs"), "must be a list such as [{ip: 10.0.0.7}, {ip: 'fd00::7'}]")
            return ()
        return tuple(self._addresses(("status", "podIPs"), [one.get("ip") for one in listed]))

    def _addresses(self, path: tuple[str, ...], written: Iterable[object]) -> Iterator[str]:
        taken: set[int] = set()
        for one in written:
            try:
                address = ip_address(one if isinstance(one, str) else "")
            except ValueError:
                self.fault(path, f"{plain(one)} is not an IP address")
                continue
            if address.version in taken:
                self.fault(path, f"a second IPv{address.version} address, {address}; remove one")
                continue
            taken.add(address.version)
            yield str(address)

    def fault(self, path: tuple[str, ...], message: str) -> None:
        place = self._document.locate(path)
        value = self.value(*path)
        shown = plain(value) if place.written is None else place.written
        self.faults.append(Fault(self._document.file, place.line, field_name(path), shown, message))
