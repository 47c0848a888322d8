"""YAML text or an API server's object -> MonitorPolicy, or every fault it has: one set of rules for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dolphin_agent.errors import PolicyError
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.manifests.names import SUBDOMAIN_RULE, is_subdomain
from dolphin_agent.manifests.stream import Stream, parse_stream
from dolphin_agent.policy.field import Field, Report
from dolphin_agent.policy.model import MonitorPolicy
from dolphin_agent.policy.rules.health_check import read_health_check
from dolphin_agent.policy.rules.monitor import read_monitor
from dolphin_agent.policy.rules.pod_label import read_pod_labels
from dolphin_agent.policy.rules.selector import read_selector
from dolphin_agent.policy.schema import closest
from dolphin_agent.policy.vocabulary import API_VERSION, KIND, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dolphin_agent.manifests.fault import Fault

_MAX_GENERATION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FaultyPolicy:
    """A document that is not a right policy."""

    name: str | None
    """`metadata.name`, if that much could be read."""
    faults: tuple[Fault, ...]
    """Never empty."""

    @property
    def task(self) -> str | None:
        """The task that this document is about, if that can be told.

        The namespace does not matter: there is only one that it could have meant.
        """
        return None if self.name is None else f"{NAMESPACE}/{self.name}"


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What a policy file holds."""

    file: str
    policies: tuple[MonitorPolicy, ...] = ()
    """The documents without a fault; their tasks differ."""
    faulty: tuple[FaultyPolicy, ...] = ()
    malformed: Fault | None = None
    """Why nothing of the file could be read; then all else is empty."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every fault, document by document."""
        whole = (self.malformed,) if self.malformed else ()
        return (*whole, *(fault for faulty in self.faulty for fault in faulty.faults))


def parse_policies(text: str, file: str) -> ParsedFile:
    """Parse a stream of MonitorPolicy manifests; `file` is the name that faults carry. Never raises."""
    return policies_of(parse_stream(text, file))


def policies_of(stream: Stream) -> ParsedFile:
    """Judge the documents of a stream; the second of two equal tasks is a fault."""
    policies: dict[str, MonitorPolicy] = {}
    faulty: list[FaultyPolicy] = []
    for document in stream.documents:
        report = Report(document.file, document.locate, list(document.faults))
        policy = _read_policy(Field((), document.value, report))
        if policy and policy.task in policies:
            report.add(("metadata", "name"), policy.name, "defined before in this file; remove one of them")
        if policy and not report.faults:
            policies[policy.task] = policy
        else:
            faulty.append(FaultyPolicy(_name(document.value), report.in_order()))
    return ParsedFile(stream.file, tuple(policies.values()), tuple(faulty), stream.malformed)


def policy_from_object(obj: Mapping[str, object]) -> MonitorPolicy:
    """Read a MonitorPolicy decoded from the API server's JSON; PolicyError has every fault if it is wrong."""
    report = Report()
    policy = _read_policy(Field((), dict(obj), report))
    if policy is None or report.faults:
        raise PolicyError(report.in_order())
    return policy


def _read_policy(root: Field) -> MonitorPolicy | None:
    """Read a document; the result counts only if nothing was reported, and is None for another kind."""
    if not isinstance(root.value, dict):
        root.fault(f"must be a {KIND}, a mapping with apiVersion, kind, metadata and spec")
        return None
    kind = root.value.get("kind")
    if isinstance(kind, str) and closest(kind, (KIND,)) is None:
        root.report.add(("kind",), kind, f"must be {KIND}")
        return None  # a Deployment has many fields that are unknown here; one fault says it all
    fields = root.fields()
    _constant(fields["apiVersion"], API_VERSION)
    _constant(fields["kind"], KIND)
    metadata = fields["metadata"].fields()
    spec = fields["spec"].fields()
    policy = MonitorPolicy(
        namespace=_constant(metadata["namespace"], NAMESPACE),
        name=_object_name(metadata["name"]),
        generation=metadata["generation"].integer(0, _MAX_GENERATION) or 0,
        selector=read_selector(spec["selector"]),
        pod_labels=read_pod_labels(spec["podLabel"]),
        health_check=read_health_check(spec["healthCheck"]),
        monitor=FrozenMap(read_monitor(spec["monitor"])),
    )
    if not policy.monitor and not policy.health_check:
        _asks_for_nothing(fields["spec"], spec["monitor"])
    return policy


def _asks_for_nothing(spec: Field, monitor: Field) -> None:
    wishes = ("spec.monitor", "spec.healthCheck")
    tried = any(f.field == "spec" or f.field.startswith(wishes) for f in spec.report.faults)
    if spec.report.unknown_fields or tried:
        return  # it does ask, in a wrong way or place, and that fault says how it is done
    guilty = spec if monitor.is_absent else monitor
    guilty.fault(
        "asks for nothing; add an item under spec.monitor (pruned by the API server if it was indented under "
        "spec.selector) or a spec.healthCheck with enable: true"
    )


def _constant(field: Field, allowed: str) -> str:
    """Read a field that can have one value only."""
    text = field.text()
    if field.is_absent:
        field.fault(f"missing; must be {allowed}")
    elif text is not None and text != allowed:
        hint = f"; did you mean {allowed}?" if closest(text, (allowed,)) else ""
        field.fault(f"must be {allowed}{hint}")
    return allowed


def _object_name(field: Field) -> str:
    text = field.text()
    if field.is_absent:
        field.fault(f"missing; give the policy a name: {SUBDOMAIN_RULE}")
    elif text is not None and not is_subdomain(text):
        field.fault(f"not an object name: {SUBDOMAIN_RULE}")
    return text or ""


def _name(document: object) -> str | None:
    """Give the `metadata.name` of a document that may have any shape; None if it has no right one."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) and is_subdomain(name) else None
