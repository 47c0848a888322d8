"""What is kept of the API server's pods."""

import json
import tracemalloc

import pytest

from dolphin_agent.pods.objects import read_pod


def item(**parts):
    """A v1 Pod; `metadata`, `spec`, `status` add to what it needs."""
    metadata = {"namespace": "default", "name": "web", "uid": "u-1", **parts.pop("metadata", {})}
    return {"metadata": metadata, "spec": {}, "status": {}, **parts}


def test_ordinary_pod():
    found = read_pod(
        item(
            metadata={"labels": {"app": "nginx"}, "annotations": {"other": "x"}},
            status={"phase": "Running", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]},
        )
    )
    assert (found.full_name, found.uid, found.cgroup_uid) == ("default/web", "u-1", "u-1")
    assert dict(found.labels) == {"app": "nginx"}
    assert found.ips == ("10.0.0.7", "fd00::7")
    assert (found.host_network, found.terminated, found.running) == (False, False, True)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_ended(phase):
    assert read_pod(item(status={"phase": phase})).terminated


def test_being_deleted():
    assert read_pod(item(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})).terminated


def test_host_network():
    assert read_pod(item(spec={"hostNetwork": True})).host_network


def test_static_pod():
    found = read_pod(item(metadata={"annotations": {"kubernetes.io/config.hash": "abc"}}))
    assert (found.uid, found.cgroup_uid) == ("u-1", "abc")


@pytest.mark.parametrize(
    "broken",
    [
        {"metadata": {"labels": ["a"], "annotations": "x"}},
        {"metadata": {"labels": {"a": 1, "b": None}}},
        {"status": {"podIPs": [None, "10.0.0.1", {"ip": 5}, {}]}},
        {"status": None, "spec": None},
    ],
)
def test_what_is_wrong_is_left_out(broken):
    found = read_pod(item(**broken))
    assert (dict(found.labels), found.ips) == ({}, ())


@pytest.mark.parametrize("missing", ["name", "namespace", "uid"])
def test_nameless(missing):
    assert read_pod(item(metadata={missing: None})) is None


def test_pods_of_a_full_node_are_small():
    """What is kept of 250 pods of 30 labels each: less than 2 MB, whatever else the API server says of them."""
    tracemalloc.start()
    labels = {f"example.com/label-{number}": f"value-{number}" * 3 for number in range(30)}
    kept = []
    for number in range(250):
        text = json.dumps(
            item(
                metadata={
                    "name": f"web-{number}",
                    "uid": f"u-{number}",
                    "labels": labels,
                    "managedFields": ["x" * 9000],
                },
                status={"phase": "Running", "podIPs": [{"ip": f"10.0.0.{number}"}], "conditions": ["y" * 3000]},
            )
        )
        kept.append(read_pod(json.loads(text)))
    del text
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 250
    assert size < 2_000_000
