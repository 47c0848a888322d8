"""Selectors and exported labels."""

import pytest

from dolphin_agent.policy.model import LabelSelector, MonitorPolicy, PodLabel, Requirement
from dolphin_agent.policy.vocabulary import Operator


@pytest.mark.parametrize(
    ("operator", "values", "labels", "expected"),
    [
        (Operator.IN, ["a", "b"], {"k": "b"}, True),
        (Operator.IN, ["a", "b"], {"k": "c"}, False),
        (Operator.IN, [""], {}, False),
        (Operator.IN, [""], {"k": ""}, True),
        (Operator.NOT_IN, ["a"], {"k": "a"}, False),
        (Operator.NOT_IN, ["a"], {"k": "b"}, True),
        (Operator.NOT_IN, ["a"], {}, True),
        (Operator.EXISTS, [], {"k": ""}, True),
        (Operator.EXISTS, [], {"other": "k"}, False),
        (Operator.DOES_NOT_EXIST, [], {}, True),
        (Operator.DOES_NOT_EXIST, [], {"k": ""}, False),
    ],
)
def test_requirement(operator, values, labels, expected):
    """Each operator judges as Kubernetes does, absent labels included."""
    assert Requirement("k", operator, frozenset(values)).matches(labels) == expected


def test_selector():
    """An empty selector selects everything; otherwise every requirement must hold."""
    both = LabelSelector((Requirement("a", Operator.IN, frozenset(["1"])), Requirement("b", Operator.DOES_NOT_EXIST)))

    assert LabelSelector().matches({})
    assert both.matches({"a": "1"})
    assert not both.matches({"a": "1", "b": ""})
    assert not both.matches({})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("app", "app"),
        ("app.kubernetes.io/name", "app_kubernetes_io_name"),
        ("a-b", "a_b"),
        ("3scale.net/app", "_3scale_net_app"),
    ],
)
def test_label_name(key, expected):
    """A label key becomes a Prometheus label name."""
    assert PodLabel(key).label_name == expected


def test_label_pairs():
    """Each podLabel is exported under its Prometheus name; what a pod lacks is "not found"."""
    policy = MonitorPolicy("kube-system", "p", pod_labels=(PodLabel("app"), PodLabel("a/b"), PodLabel("empty")))

    assert policy.label_pairs({"a/b": "x", "empty": "", "more": "y"}) == (
        ("app", "not found"),
        ("a_b", "x"),
        ("empty", ""),
    )


def test_policies_are_values():
    """Equal policies are equal and hash alike, so that a change can be noticed."""
    assert hash(MonitorPolicy("kube-system", "p")) == hash(MonitorPolicy("kube-system", "p"))
    assert MonitorPolicy("kube-system", "p") != MonitorPolicy("kube-system", "q")
