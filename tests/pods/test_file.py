"""Pods from a watched file of v1 Pod manifests."""

from pathlib import Path

import pytest

from dolphin_agent.frozen import FrozenMap
from dolphin_agent.pods.file import PodFile
from dolphin_agent.pods.model import Pod
from tests.files import put, remove

WEB = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {dolphin.io/netns: /run/netns/web}
"""
DB = WEB.replace("web", "db")
POD_WEB = Pod("default", "web", "default/web", netns_path="/run/netns/web")
POD_DB = Pod("default", "db", "default/db", netns_path="/run/netns/db")


@pytest.fixture
def path(tmp_path) -> Path:
    """Where the manifests are."""
    return tmp_path / "pods.yaml"


@pytest.fixture
def source(path):
    """The pods of `path`."""
    return PodFile(path)


def read(path, text):
    """Read a file once: (pods, problems without the file's name)."""
    source = PodFile(put(path, text))
    source.poll()
    return source.pods, [str(problem).removeprefix(f"{path}:") for problem in source.problems]


def test_ordinary_manifest(path):
    """What the agent uses of a pod is read, all else is left alone."""
    text = """\
        apiVersion: v1
        kind: Pod
        metadata:
          name: web-0
          namespace: shop
          uid: 5d9c1b3e
          labels: {app: web, tier: ""}
          annotations: {dolphin.io/netns: /run/netns/web, other: x}
          creationTimestamp: 2026-01-01T00:00:00Z
        spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}], hostNetwork: false}
        status: {phase: Running, podIP: 10.0.0.1}
        """
    labels = FrozenMap({"app": "web", "tier": ""})

    assert read(path, text) == ((Pod("shop", "web-0", "5d9c1b3e", labels, "/run/netns/web", ips=("10.0.0.1",)),), [])


@pytest.mark.parametrize(
    ("status", "ips"),
    [
        ("{}", ()),
        ("{podIP: ''}", ()),
        ("{podIP: 10.0.0.1}", ("10.0.0.1",)),
        ("{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'FD00:0::7'}]}", ("10.0.0.1", "fd00::7")),
    ],
)
def test_addresses(path, status, ips):
    """As the API server writes them; none until there is one."""
    pods, problems = read(path, f"{WEB}status: {status}\n")
    assert ([pod.ips for pod in pods], problems) == ([ips], [])


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        ("{podIP: 10.0.0.256}", 'status.podIP "10.0.0.256": 10.0.0.256 is not an IP address'),
        ("{podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}", "a second IPv4 address, 10.0.0.2; remove one"),
        ("{podIPs: [{address: 10.0.0.1}]}", "is not an IP address"),
        ("{podIPs: [10.0.0.1]}", "must be a list such as [{ip: 10.0.0.7}, {ip: 'fd00::7'}]"),
        ("{podIPs: 10.0.0.1}", "must be a list such as"),
    ],
)
def test_wrong_addresses(path, status, fault):
    """Named, with the line."""
    pods, (problem,) = read(path, f"{WEB}status: {status}\n")
    assert pods == ()
    assert problem.startswith("6: ")
    assert fault in problem


def test_defaults_and_streams(path):
    """Namespace and uid have defaults; a stream, or a list as kubectl prints it, holds several pods."""
    as_list = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        f"- apiVersion: v1\n  kind: Pod\n  metadata: {{name: {name}, annotations: "
        f"{{dolphin.io/netns: /run/netns/{name}}}}}\n"
        for name in ("web", "db")
    )

    assert read(path, f"{WEB}---\n{DB}") == ((POD_WEB, POD_DB), [])
    assert read(path, as_list) == ((POD_WEB, POD_DB), [])


@pytest.mark.parametrize(
    ("addition", "host_network", "terminated"),
    [
        ("spec: {hostNetwork: true}", True, False),
        ("status: {phase: Succeeded}", False, True),
        ("status: {phase: Failed}", False, True),
        ("status: {phase: Pending}", False, False),
        ("  deletionTimestamp: 2026-01-01T00:00:00Z", False, True),
    ],
)
def test_states(path, addition, host_network, terminated):
    """Pods that share the node's network, or are over, say so."""
    (pod,), problems = read(path, f"{WEB}{addition}\n")

    assert (pod.host_network, pod.terminated, problems) == (host_network, terminated, [])


@pytest.mark.parametrize("addition", ["spec: {hostNetwork: true}", "status: {phase: Failed}"])
def test_no_netns_needed(path, addition):
    """A pod that is not monitored anyway needs no annotation."""
    (pod,), problems = read(path, f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\n{addition}\n")

    assert (pod.netns_path, problems) == (None, [])


NETNS = "metadata.annotations[dolphin.io/netns]"
ABSOLUTE = "give the absolute path of the pod's network namespace, such as /run/netns/web"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WEB.replace("Pod", "Service"), '2: kind "Service": must be a Pod of apiVersion v1'),
        ("just text\n", "1: kind: must be a Pod of apiVersion v1"),
        (WEB.replace("name: web", "labels: {}"), "3: metadata.name: must be lower-case letters"),
        (WEB.replace("name: web", "name: a/b"), '4: metadata.name "a/b": must be lower-case letters'),
        (WEB.replace("name: web", "name: 1"), '4: metadata.name "1": must be a string; quote it'),
        (WEB.replace("annotations", "annotation"), f"3: {NETNS}: missing; {ABSOLUTE}"),
        (WEB.replace("/run/netns/", "netns/"), f'5: {NETNS} "netns/web": not an absolute path; {ABSOLUTE}'),
        (f"{WEB}  labels: {{app: yes}}\n", '6: metadata.labels.app "yes": must be a string; quote it'),
        (f"{WEB}  labels: [app]\n", "6: metadata.labels: must be a mapping"),
        (f"{WEB}  name: web\n", "6: metadata.name: given twice, first on line 4; remove one of them"),
    ],
)
def test_one_bad_pod(path, text, expected):
    """What is wrong with a pod names file and line, and does not hide the other pods."""
    pods, problems = read(path, f"{text}---\n{DB}")

    assert pods == (POD_DB,)
    assert problems[0].startswith(expected)


def test_duplicates(path):
    """The first of two pods with the same name, or the same uid, is taken."""
    uid = "  uid: x\n"
    pods, problems = read(path, f"{WEB}{uid}---\n{WEB}---\n{DB}{uid}")

    assert [pod.name for pod in pods] == ["web"]
    assert problems == [
        "11: pod default/web is there twice; remove one",
        "17: pod default/db has the uid of pod default/web; remove one",
    ]


def test_life_of_the_file(path, source):
    """The file may come later; a change is followed; a removed file means no pods."""
    assert (source.poll(), source.pods, source.poll()) == (True, (), False)
    assert [str(problem) for problem in source.problems] == [f"{path}: no such file, so no pod is known; create it"]
    put(path, WEB)
    assert (source.poll(), source.pods, source.problems) == (True, (POD_WEB,), ())
    put(path, f"{WEB}---\n{DB}")
    assert (source.poll(), source.pods, source.poll()) == (True, (POD_WEB, POD_DB), False)
    remove(path, source)
    assert (source.poll(), source.pods, len(source.problems)) == (True, (), 1)


def test_malformed_later(path, source):
    """A file that turns malformed keeps its pods, with a problem."""
    put(path, WEB)
    source.poll()
    put(path, "a: [")

    assert (source.poll(), source.pods) == (True, (POD_WEB,))
    assert "YAML cannot be read" in str(source.problems[0])
    assert str(source.problems[0]).endswith("; the pods of its last good form are kept")


def test_pod_turned_wrong(path, source):
    """A pod whose manifest turns wrong is kept as it was; one that is removed is not."""
    put(path, f"{WEB}---\n{DB}")
    source.poll()
    put(path, f"{WEB}  labels: {{app: 1}}\n")

    assert (source.poll(), source.pods) == (True, (POD_WEB,))
    assert str(source.problems[0]).endswith("quote it; its last good form is kept")


def test_pods_are_values():
    """Equal pods are equal and hash alike, labels included, and their labels cannot change."""
    pods = [Pod("n", "p", "u", FrozenMap({"a": "b"})) for _ in range(2)]

    assert len(set(pods)) == 1
    with pytest.raises(TypeError):
        pods[0].labels["a"] = "c"
