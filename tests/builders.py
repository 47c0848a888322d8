"""Short ways to build the immutable values that tests are about."""

from dataclasses import replace

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.health.plan import Check
from dolphin_agent.pods.backend import Backend
from dolphin_agent.pods.model import Pod
from dolphin_agent.policy.model import LabelSelector, MonitorPolicy, PodLabel, Requirement
from dolphin_agent.policy.vocabulary import Command, Granularity, IPFamily, Operator


def policy(name="p", items=("ipReceive",), select=None, pod_labels=(), granularity=Granularity.POD):
    """A policy in kube-system; `select` is matchLabels."""
    requirements = tuple(Requirement(key, Operator.IN, frozenset([value])) for key, value in (select or {}).items())
    return MonitorPolicy(
        namespace="kube-system",
        name=name,
        selector=LabelSelector(requirements),
        pod_labels=tuple(PodLabel(key) for key in pod_labels),
        monitor=FrozenMap(dict.fromkeys(items, granularity)),
    )


def backend(name="web", netns=4026532000, labels=None, incarnation=0, ips=()):
    """A pod in namespace `default`."""
    pod = Pod("default", name, f"uid-{name}", FrozenMap(labels or {}), f"/run/netns/{name}", ips=ips)
    return Backend(pod, netns, incarnation)


def check(**fields):
    """A ping of pod `web` over IPv4, every second."""
    made = Check(
        "kube-system/p", "uid", "default/web", (), (), Command.PING, IPFamily.IPV4, "10.0.0.7", period=1, threshold=1
    )
    return replace(made, **fields)
