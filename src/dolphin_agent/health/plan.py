"""Which pods are asked, and how: a pure function of the policies and the pods."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from dolphin_agent.policy.vocabulary import Command, IPFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dolphin_agent.pods.model import Pod
    from dolphin_agent.policy.model import MonitorPolicy

MAX_TIMEOUT = 5.0
"""Seconds after which a probe has failed, however long its period."""

VERSIONS = {4: IPFamily.IPV4, 6: IPFamily.IPV6}


@dataclass(frozen=True, slots=True)
class Check:
    """One pod, asked for one policy over one IP family.

    It keeps its counts, and its place in the period, for as long as nothing of it changes.
    """

    task: str
    uid: str
    """The pod's."""
    pod: str
    """namespace/name."""
    labels: tuple[tuple[str, str], ...]
    """The podLabel labels."""
    keys: tuple[str, ...]
    """The podLabel keys that these are made of."""
    command: Command
    family: IPFamily
    address: str
    period: int
    """Seconds from one probe to the next."""
    threshold: int
    """Consecutive failures until the pod counts as unhealthy."""
    port: int = 0
    """TCP port, as `path` of curl alone: another command's do not begin it anew."""
    path: str = ""

    @property
    def timeout(self) -> float:
        """Seconds that a probe has, so that it never outlives its period."""
        return min(self.period, MAX_TIMEOUT)


class Impossible(NamedTuple):
    """A check that cannot be made, which says nothing about the pod."""

    task: str
    pod: str
    reason: str


class HealthPlan(NamedTuple):
    """What the policies ask for; pods that have no address yet are in neither."""

    checks: tuple[Check, ...] = ()
    impossible: tuple[Impossible, ...] = ()


def plan_checks(policies: Iterable[MonitorPolicy], pods: Iterable[Pod]) -> HealthPlan:
    """The checks that answer all policies. Pods of the host's network have none: it would be the node that answers."""
    addressed = [(pod, _addresses(pod)) for pod in pods if not (pod.host_network or pod.terminated)]
    found = [
        one
        for policy in policies
        if policy.health_check
        for pod, addresses in addressed
        if policy.selector.matches(pod.labels)
        for one in _of_pod(policy, pod, addresses)
    ]
    return HealthPlan(
        tuple(one for one in found if isinstance(one, Check)),
        tuple(one for one in found if isinstance(one, Impossible)),
    )


def _addresses(pod: Pod) -> dict[IPFamily, str]:
    """Its first address of each family; what is none is left out."""
    found: dict[IPFamily, str] = {}
    for ip in pod.ips:
        try:
            address = ip_address(ip)
        except ValueError:
            continue
        found.setdefault(VERSIONS[address.version], str(address))
    return found


def _of_pod(policy: MonitorPolicy, pod: Pod, addresses: dict[IPFamily, str]) -> Iterator[Check | Impossible]:
    wanted = policy.health_check
    assert wanted  # noqa: S101 - the caller looked
    is_curl = wanted.command is Command.CURL
    for family in wanted.ip_families:
        if address := addresses.get(family):
            yield Check(
                task=policy.task,
                uid=pod.uid,
                pod=pod.full_name,
                labels=policy.label_pairs(pod.labels),
                keys=tuple(label.key for label in policy.pod_labels),
                command=wanted.command,
                family=family,
                address=address,
                period=wanted.period_seconds,
                threshold=wanted.failure_threshold,
                port=wanted.port or 0 if is_curl else 0,
                path=wanted.path if is_curl else "",
            )
        elif pod.running or pod.netns_path:
            yield Impossible(
                policy.task, pod.full_name, f"a pod that runs has no {family} address in its status.podIPs"
            )
