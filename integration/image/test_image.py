"""The image has what the agent needs, and nothing that anyone else could use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

from dolphin_agent.kube.access import SERVICE_ACCOUNT
from integration.image.build import HERE, version
from integration.image.container import Container, Image
from integration.kube import chart
from integration.lib import counters
from integration.lib.agent import COMMAND, Agent
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.netns import new_netns
from integration.lib.wait import wait_until

LIMIT = 100e6
"""Bytes. It is 80 MB; what doubles it should be noticed."""
ELF_MACHINES = {"amd64": 62, "arm64": 183}
"""EM_X86_64 and EM_AARCH64 of elf.h."""
BPF = 247
RECEIVED = "dolphin_ip_receive_packets_total"
PUSHES = "dolphin_agent_otlp_pushes_total"
PRIME = 23
PROGRAMS = {"usr/bin/dolphin-agent", "usr/bin/python3", "usr/bin/python3.11"}


def test_size(image: Image) -> None:
    """Every node has to pull and store it."""
    assert 10e6 < image.size < LIMIT


def test_labels(image: Image) -> None:
    """Registries and scanners show them."""
    labels = image.config["config"]["Labels"]
    found = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert (found["title"], found["version"], found["licenses"]) == ("dolphin-agent", version(), "Apache-2.0")
    assert found["description"]
    assert (image.config["config"]["Entrypoint"], image.config["config"]["Cmd"]) == (["dolphin-agent"], ["run"])


def test_nothing_to_misuse(image: Image) -> None:
    """No shell, compiler, package manager or package lists; nothing runs as somebody else; nothing can be changed."""
    programs = {name for name in image.files if re.match(r"(usr/|usr/local/)?s?bin/", name)}
    assert programs == PROGRAMS
    assert not [name for name in image.files if re.search(r"var/lib/apt|var/cache|/pip/|ensurepip|/tests?/", name)]
    assert not [name for name, info in image.files.items() if info.mode & 0o7000]
    assert not [name for name, info in image.files.items() if info.mode & 0o222 and not info.issym()]
    assert {(info.uid, info.gid) for info in image.files.values()} == {(0, 0)}


def machine(image: Image, name: str) -> int:
    """Of an ELF file; 0 for others."""
    path = image.root / name
    if not image.files[name].isfile():
        return 0
    head = path.read_bytes()[:20]
    return int.from_bytes(head[18:20], "little") if head.startswith(b"\x7fELF") else 0


def test_everything_is_for_its_architecture(image: Image) -> None:
    """Programs, libraries and the modules of Python's packages; and the BPF objects are there."""
    machines = {name: found for name in image.files if (found := machine(image, name))}
    objects = {name for name, found in machines.items() if found == BPF}
    assert len(objects) == len(list((chart.CHART.parents[1] / "ebpf").glob("*.bpf.c"))) * 2
    assert {machines[name] for name in machines.keys() - objects} == {ELF_MACHINES[image.config["architecture"]]}


def test_every_library_is_there(image: Image) -> None:
    """Whatever a program or library links to."""
    names = {name.rpartition("/")[2] for name in image.files}
    linked = [str(image.root / name) for name in image.files if machine(image, name) not in (0, BPF)]
    said = subprocess.run(["llvm-readelf", "--needed-libs", *linked], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"^  (\S+)$", said, re.MULTILINE))
    assert "libc.so.6" in needed
    assert needed <= names


@pytest.fixture
def security() -> dict[str, Any]:
    """The securityContext of the chart's container."""
    objects = yaml.safe_load(chart.render("--show-only", "templates/daemonset.yaml").stdout)
    found: dict[str, Any] = objects["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    return found


@pytest.fixture
def container(images: dict[str, Image], security: dict[str, Any], tmp_path: Path) -> Container:
    """One with just that."""
    return Container(images[HERE], security, tmp_path)


def test_help(container: Container) -> None:
    """It starts on a root that is read-only."""
    said = container.run("--help")
    assert (said.returncode, said.stderr) == (0, "")
    assert "validate" in said.stdout
    assert container.run("--version").stdout.strip() == version()


def test_check(container: Container) -> None:
    """The chart's capabilities are enough for whatever this kernel lets root do."""
    root = subprocess.run([COMMAND, "check"], capture_output=True, text=True, check=False)
    said = container.run("check")
    assert (said.returncode, said.stdout, said.stderr) == (root.returncode, root.stdout, root.stderr)
    assert "used" in said.stdout


@pytest.mark.parametrize("missing", ["BPF", "PERFMON"])
def test_check_names_what_is_missing(container: Container, missing: str) -> None:
    """Without it, nothing can be counted."""
    container.security["capabilities"]["add"].remove(missing)
    said = container.run("check")
    assert said.returncode == 1
    assert f"missing CAP_{missing}:" in said.stderr


def test_kubeconfig_needs_a_package(container: Container) -> None:
    """The image does without it."""
    said = container.run("run", "--kubeconfig", "/config", "--node-name", "n")
    assert said.returncode == 1
    assert "pip install 'dolphin-agent[kubeconfig]'" in said.stderr


def test_stays_up_without_an_api_server(images: dict[str, Image], security: dict[str, Any], tmp_path: Path) -> None:
    """As the chart starts it: alive, not ready, and it says why; and it ends when it is told to."""
    account = tmp_path / "account"
    account.mkdir()
    for name, content in {"ca.crt": Path(certifi.where()).read_text(), "token": "x", "namespace": "x"}.items():
        (account / name).write_text(content)
    mounts = ((account, str(SERVICE_ACCOUNT)), (Path("/proc"), "/host/proc"))
    environment = ("KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=1", "NODE_NAME=n")
    with Container(images[HERE], security, tmp_path, mounts, environment).agent("--proc-root=/host/proc") as agent:
        wait_until(lambda: answer(agent, "/healthz") == (200, "ok\n"), deadline=30, what="it is alive")
        wait_until(lambda: "127.0.0.1:1" in agent.get("/readyz")[1], deadline=30, what="it says what is missing")
        assert agent.get("/readyz")[0] == 503
        assert agent.terminate()[0] == 0
        assert "Traceback" not in agent.log


def answer(agent: Agent, path: str) -> tuple[int, str]:
    """What the agent answers; nothing before it is up."""
    try:
        return agent.get(path)
    except OSError:
        return 0, ""


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_counts_and_pushes(images: dict[str, Image], security: dict[str, Any], tmp_path: Path, protocol: str) -> None:
    """Under the chart's rights it counts what the kernel does, and has what either protocol of OTLP needs."""
    files = tmp_path / "files"
    files.mkdir()
    manifests = Manifests(files)
    manifests.write_policy("all", ["ipReceive"])
    with new_netns("image-pod") as pod:
        manifests.write_pods(PodManifest("web", pod.path))
        pod.run(["ip", "link", "set", "lo", "up"])
        mounts = ((files, "/files"), (pod.path.parent, str(pod.path.parent)))
        options = ("--standalone", "--policies=/files/policies", "--pods=/files/pods.yaml", "--collect-interval=1s")
        environment = (f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1")
        with Container(images[HERE], security, tmp_path, mounts, environment).agent(*options) as agent:
            agent.wait_ready()
            wait_until(lambda: agent.metrics().series(RECEIVED), deadline=10, what="the pod is counted")
            before = counters.read(pod)
            pod.run(["ping", "-q", "-c", str(PRIME), "-i", "0.01", "127.0.0.1"])
            received = (counters.read(pod) - before).ip_receive_packets("ipv4")
            assert received == 2 * PRIME, "a request and its answer"
            samples, _ = agent.settled(lambda: None)
            assert samples.value(RECEIVED, ipfamily="ipv4") == received
            wait_until(lambda: agent.value(PUSHES, result="failed") > 0, deadline=30, what="it has tried to push")
            assert agent.terminate()[0] == 0
            assert "Traceback" not in agent.log
