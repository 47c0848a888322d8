"""Pods' namespaces by the cgroups of their processes, in a /proc made of files."""

import os
import shutil
from pathlib import Path

import pytest

from dolphin_agent.errors import ConfigError
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.pods import processes
from dolphin_agent.pods.model import Pod
from dolphin_agent.pods.processes import ProcessResolver

UID = "0f2a5a3e-9f0b-4c39-a8a1-6a1f3f0d9c11"
OTHER = "7d1b2c3d-0000-4000-8000-00000000beef"
HASH = "59bb3bd8e5e2ee6d2a6a8ff9a2a0d1f7"
CONTAINER = "d0f9" * 16

CGROUPFS = f"/kubepods/burstable/pod{UID}/{CONTAINER}"
SYSTEMD = (
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/"
    f"cri-containerd-{CONTAINER}.scope"
)


class Proc:
    """A /proc; the namespaces are files, whose inode numbers stand for theirs."""

    def __init__(self, root):
        self.root = root / "proc"
        self.namespaces = root / "namespaces"
        self.namespaces.mkdir()
        self.add(1, "/init.scope", "host", started=0)

    def add(self, pid, cgroup, netns, started=100, prefix="0::"):
        """A process that is there from now on."""
        directory = self.root / str(pid)
        (directory / "ns").mkdir(parents=True)
        lines = cgroup if cgroup.startswith("1") else f"{prefix}{cgroup}"
        (directory / "cgroup").write_text(f"{lines}\n")
        (directory / "stat").write_text(f"{pid} (pause (x)) S 1 {' 0' * 17} {started} 0 0\n")
        self.move(pid, netns)

    def move(self, pid, netns):
        """The process is in another namespace from now on."""
        link = self.root / str(pid) / "ns/net"
        link.unlink(missing_ok=True)
        (self.namespaces / netns).touch()
        os.link(self.namespaces / netns, link)

    def end(self, pid):
        """The process is gone."""
        shutil.rmtree(self.root / str(pid))

    def inode(self, netns):
        return (self.namespaces / netns).stat().st_ino


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


@pytest.fixture
def resolver(proc):
    made = ProcessResolver(proc.root)
    yield made
    made.close()


def pod(name="web", uid=UID, **fields):
    return Pod("default", name, uid, FrozenMap(), cgroup_uid=fields.pop("cgroup_uid", uid), **fields)


def found(resolver, *pods):
    """Pod name -> number of its namespace."""
    return {backend.pod.name: backend.netns for backend in resolver.resolve(pods).backends}


@pytest.mark.parametrize(
    "cgroup",
    [
        CGROUPFS,
        f"/kubepods/pod{UID}/{CONTAINER}",
        SYSTEMD,
        SYSTEMD.replace("cri-containerd", "crio"),
        SYSTEMD.replace("cri-containerd", "docker"),
        f"/../../kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{CONTAINER}.scope",
        f"/docker/{CONTAINER}/kubelet.slice/kubelet-kubepods-pod{UID.replace('-', '_')}.slice/crio-{CONTAINER}.scope",
        f"12:memory:{CGROUPFS}\n3:cpu,cpuacct:{CGROUPFS}\n1:name=systemd:{CGROUPFS}",
        f"{CGROUPFS}/kubepods/burstable/pod{OTHER}/{CONTAINER}",
    ],
    ids=["cgroupfs", "guaranteed", "containerd", "crio", "docker", "cgroupns", "kind", "v1", "cluster in a pod"],
)
def test_every_layout(proc, resolver, cgroup):
    """Cgroup v1 and v2, both drivers, three runtimes, seen from the node or from a container."""
    proc.add(100, cgroup, "web")
    proc.add(101, f"/kubepods/pod{OTHER}/x", "other")
    assert found(resolver, pod()) == {"web": proc.inode("web")}


@pytest.mark.parametrize("cgroup", [f"/machine.slice/libpod-{CONTAINER}.scope", "/kubepods/burstable", "/podman"])
def test_what_is_no_pod(proc, resolver, cgroup):
    proc.add(100, cgroup, "web")
    assert found(resolver, pod()) == {}


def test_static_pod_goes_by_its_hash(proc, resolver):
    """The uid that the API server shows is the mirror's."""
    proc.add(100, f"/kubepods/pod{HASH}/{CONTAINER}", "etcd")
    assert found(resolver, pod(cgroup_uid=HASH)) == {"web": proc.inode("etcd")}


def test_oldest_process_decides(proc, resolver):
    """A container that makes network namespaces of its own is still the pod's."""
    proc.add(100, CGROUPFS, "inner", started=500)
    proc.add(300, CGROUPFS, "web", started=200)
    assert found(resolver, pod()) == {"web": proc.inode("web")}


def test_namespace_of_the_node_is_waited_out(proc, resolver):
    """A runtime places the process first and changes its namespace then."""
    proc.add(100, CGROUPFS, "host")
    assert found(resolver, pod()) == {}
    proc.move(100, "web")
    assert found(resolver, pod()) == {"web": proc.inode("web")}


def test_cgroup_may_come_late(proc, resolver):
    """A process that belonged to nobody at the first look."""
    proc.add(100, "/system.slice/containerd.service", "host")
    assert found(resolver, pod()) == {}
    (proc.root / "100/cgroup").write_text(f"0::{SYSTEMD}\n")
    proc.move(100, "web")
    assert found(resolver, pod()) == {"web": proc.inode("web")}


def test_sandbox_restarted(proc, resolver):
    """Another process and namespace of the same pod: another number."""
    proc.add(100, CGROUPFS, "web")
    assert found(resolver, pod()) == {"web": proc.inode("web")}
    proc.end(100)
    assert found(resolver, pod()) == {}
    proc.add(200, CGROUPFS, "again")
    assert found(resolver, pod()) == {"web": proc.inode("again")}


def test_process_number_given_to_another_pod(proc, resolver):
    """Between two looks: the old pod has nothing, the new one what is its own."""
    proc.add(100, CGROUPFS, "web")
    assert found(resolver, pod()) == {"web": proc.inode("web")}
    proc.end(100)
    proc.add(100, f"/kubepods/pod{OTHER}/x", "other")
    both = (pod(), pod("other", OTHER))
    found(resolver, *both)
    assert found(resolver, *both) == {"other": proc.inode("other")}


def test_container_outlives_its_sandbox(proc, resolver):
    """CRI-O without a pause process: any process of the pod is in its namespace."""
    proc.add(100, CGROUPFS, "web", started=1)
    proc.add(101, CGROUPFS, "web", started=2)
    assert found(resolver, pod()) == {"web": proc.inode("web")}
    proc.end(100)
    assert found(resolver, pod()) == {"web": proc.inode("web")}


def descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_are_given_back(proc, resolver):
    """One per pod that is there, none for one that went."""
    before = descriptors()
    for number in range(50):
        proc.add(1000 + number, CGROUPFS, f"web{number}")
        assert len(found(resolver, pod())) == 1
        proc.end(1000 + number)
    assert found(resolver, pod()) == {}
    assert descriptors() == before


def test_host_network_and_ended(proc, resolver):
    proc.add(100, CGROUPFS, "web")
    backends, (reason,) = resolver.resolve([pod("node", OTHER, host_network=True), pod("done", terminated=True)])
    assert backends == ()
    assert str(reason).startswith("pod default/node: uses hostNetwork")


def test_running_pod_without_a_process_is_named(resolver, monkeypatch):
    """Not at once, and not one that has not been started."""
    pods = [pod(running=True), pod("pending", OTHER)]
    assert resolver.resolve(pods) == ((), ())
    monkeypatch.setattr(processes, "MISSING_SECONDS", -1)
    (reason,) = resolver.resolve(pods).unmonitored
    assert reason.pod == "default/web"
    assert "is that the node's /proc" in reason.reason


def test_second_pod_of_a_namespace(proc, resolver):
    proc.add(100, CGROUPFS, "web")
    proc.add(101, f"/kubepods/pod{OTHER}/x", "web")
    backends, (reason,) = resolver.resolve([pod(), pod("other", OTHER)])
    assert [backend.pod.name for backend in backends] == ["web"]
    assert "not counted twice" in reason.reason


def test_not_a_proc(tmp_path):
    with pytest.raises(ConfigError, match=r"--proc-root .*: No such file or directory; mount the node's /proc"):
        ProcessResolver(tmp_path)
