"""The names that OTLP carries, against the published registry: its Python package."""

import re
from importlib.resources import files

import pytest
from opentelemetry.semconv._incubating.attributes.network_attributes import NetworkTransportValues, NetworkTypeValues
from opentelemetry.semconv.schemas import Schemas

from dolphin_agent.export.otlp import SCHEMA, make_resource
from dolphin_agent.export.otlp_data import attributes
from dolphin_agent.policy.vocabulary import SYSTEM_LABELS
from dolphin_agent.snapshot.flows import OTHER, PROTOCOLS
from dolphin_agent.snapshot.ledger import FAMILY_LABEL

OURS = {
    "dolphin.task": "a MonitorPolicy: nothing that others have",
    "dolphin.flow": "in place of the five of a flow, where it could not be kept in detail",
    "dolphin.direction": "of a connection; network.io.direction is that of bytes: receive and transmit",
    "dolphin.reason": "of an event; error.type is how an operation of the program itself ended",
    "dolphin.command": "how a health check asks: process.command is that of a process",
}
"""Names that the registry does not have, and why no name of it would do."""

CONSTANT = re.compile(r'^\w+: Final = "(.+)"\n"""\n((?:.*\n)*?)"""', re.MULTILINE)


def registry():
    """Every attribute's name, without those that were replaced."""
    package = files("opentelemetry.semconv")
    modules = [
        module
        for folder in (package / "attributes", package / "_incubating" / "attributes")
        for module in folder.iterdir()
        if module.name.endswith("_attributes.py")
    ]
    found = {name: text for module in modules for name, text in CONSTANT.findall(module.read_text())}
    return {name for name, text in found.items() if not text.startswith("Deprecated: ")}


def used():
    """Every name that a point may carry, and those of the resource."""
    values = {"pod": "default/web", "srcport": "80", "dstport": "81"}
    labels = tuple((name, values.get(name, "x")) for name in SYSTEM_LABELS)
    return {*attributes(labels, {}), *attributes(OTHER.pairs, {}), *make_resource("node").attributes}


def test_registry_is_read():
    """Also what was replaced is told apart."""
    assert {"k8s.pod.name", "source.address", "k8s.pod.label"} <= registry()
    assert not {"k8s.pod.labels", "net.peer.ip"} & registry()


@pytest.mark.parametrize("name", sorted(used() - OURS.keys()))
def test_name_is_the_registrys(name):
    assert name in registry()


def test_exceptions_are_used_and_ours():
    """None that the registry has by now, none that is not carried any more."""
    assert OURS.keys() <= used()
    assert not OURS.keys() & registry()


def test_pod_labels_follow_the_registrys_template():
    (name,) = attributes((("app_name", "x"),), {("", "app_name"): "app.name"})
    prefix = name.removesuffix(".app.name")
    assert prefix in registry()
    assert prefix.endswith(".label")


def test_values_are_the_registrys():
    """Both enumerations are open: a protocol that they do not have is IANA's name."""
    assert set(FAMILY_LABEL.values()) == {one.value for one in NetworkTypeValues}
    assert {"tcp", "udp"} == {one.value for one in NetworkTransportValues} & set(PROTOCOLS.values())


def test_schema_is_published():
    assert SCHEMA in {one.value for one in Schemas}
