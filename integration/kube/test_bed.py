"""The bed itself: what the other tests rely on, and what its faults look like to a client."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from integration.kube import binaries
from integration.kube.api import Api, ApiError, Object
from integration.kube.control_plane import ControlPlane
from integration.kube.proxy import Mode, Proxy
from integration.lib.server import STOP_SECONDS
from integration.lib.wait import wait_until
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 2
"""Seconds that a client of these tests waits for an answer."""

CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "ranges.test.dolphin.io"},
    "spec": {
        "group": "test.dolphin.io",
        "scope": "Namespaced",
        "names": {"kind": "Range", "plural": "ranges"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}},
                        "x-kubernetes-validations": [{"rule": "self.low <= self.high", "message": "low above high"}],
                    }
                },
            }
        ],
    },
}


@contextmanager
def client(control_plane: ControlPlane) -> Iterator[urllib3.PoolManager]:
    """An administrator with little patience, who tries once."""
    with urllib3.PoolManager(
        ca_certs=str(control_plane.ca),
        cert_file=str(control_plane.work / "admin.crt"),
        key_file=str(control_plane.work / "admin.key"),
        retries=False,
        timeout=urllib3.Timeout(PATIENCE),
    ) as pool:
        yield pool


@contextmanager
def watch(control_plane: ControlPlane, url: str) -> Iterator[Iterator[Any]]:
    """Watch a collection for the length of a block; the iterator waits for the next event."""
    with client(control_plane) as pool:
        answer = pool.request("GET", url, preload_content=False)
        try:
            assert answer.status == 200
            yield (json.loads(line) for line in answer)
        finally:
            answer.close()


def config_map(name: str, **data: str) -> Object:
    """An object to store."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def config_maps(namespace: str) -> str:
    """Their path."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


def test_versions(api: Api, control_plane: ControlPlane) -> None:
    """Those that are pinned."""
    assert api.get("/version")["gitVersion"] == binaries.KUBERNETES
    said = json.loads(control_plane.kubectl("version", "--output=json").stdout)
    assert said["clientVersion"]["gitVersion"] == binaries.KUBERNETES
    etcd, helm = (
        subprocess.run([str(binaries.find(name)), *words], capture_output=True, text=True, check=True).stdout
        for name, words in (("etcd", ["--version"]), ("helm", ["version", "--short"]))
    )
    assert etcd.startswith(f"etcd Version: {binaries.ETCD.removeprefix('v')}\n")
    # Helm's source has its minor version; the patch is what its own Makefile links in.
    assert helm.startswith(binaries.HELM.rpartition(".")[0])


def test_kubectl(control_plane: ControlPlane, namespace: str) -> None:
    """As administrator, on this server; what it complains about is in the error."""
    assert control_plane.kubectl("get", "namespace", namespace, "-o", "name").stdout == f"namespace/{namespace}\n"
    with pytest.raises(AssertionError, match='namespaces "nowhere" not found'):
        control_plane.kubectl("get", "namespace", "nowhere")


def test_crd(api: Api, namespace: str) -> None:
    """It is served soon after it is made, and its rules are enforced."""
    path = f"/apis/test.dolphin.io/v1/namespaces/{namespace}/ranges"
    definition = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD['metadata']['name']}"
    one = {"apiVersion": "test.dolphin.io/v1", "kind": "Range", "metadata": {"name": "one"}, "low": 1, "high": 2}
    api.apply(definition, CRD)
    try:
        wait_until(lambda: api.raw("GET", path).status == 200, deadline=10, what="the CRD is served")
        api.create(path, one)
        with pytest.raises(ApiError, match="low above high") as refusal:
            api.patch(f"{path}/one", {"low": 3})
        assert refusal.value.status == 422
        assert api.get(f"{path}/one")["low"] == 1
    finally:
        api.delete(definition)


def test_rights(control_plane: ControlPlane, api: Api, namespace: str) -> None:
    """A ServiceAccount has those that RBAC gives it and no others, and needs a token that is one."""
    api.create_service_account(namespace, "nobody")
    nobody = Api(control_plane.server, control_plane.ca, token=control_plane.token(namespace, "nobody"))
    with pytest.raises(ApiError, match=f"system:serviceaccount:{namespace}:nobody") as refusal:
        nobody.get(config_maps(namespace))
    assert refusal.value.status == 403
    control_plane.kubectl("create", "role", "reader", "-n", namespace, "--verb=list", "--resource=configmaps")
    who = f"--serviceaccount={namespace}:nobody"
    control_plane.kubectl("create", "rolebinding", "reader", "-n", namespace, "--role=reader", who)
    wait_until(lambda: nobody.raw("GET", config_maps(namespace)).status == 200, deadline=10, what="it may read")
    assert nobody.raw("POST", config_maps(namespace), config_map("one")).status == 403
    stranger = Api(control_plane.server, control_plane.ca, token="nonsense")  # noqa: S106 - that is the point
    assert stranger.raw("GET", config_maps(namespace)).status == 401


def test_token_kubeconfig(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """A kubeconfig of a ServiceAccount is that account's, the administrator's certificate notwithstanding."""
    config = control_plane.kubeconfig(tmp_path / "config", token=control_plane.token(namespace, "default"))
    said = control_plane.kubectl("--kubeconfig", str(config), "auth", "whoami", "-o", "jsonpath={.status.userInfo}")
    assert json.loads(said.stdout)["username"] == f"system:serviceaccount:{namespace}:default"


def test_pod_of_a_node(api: Api, node: str, namespace: str) -> None:
    """A Pod is what tests say of it, is found by its node, and is gone as soon as it is deleted."""
    pods = f"/api/v1/pods?fieldSelector=spec.nodeName={node}"
    api.create_pod(namespace, "web", node=node, labels={"app": "web"}, ips=("10.1.2.3", "fd00::3"))
    (pod,) = api.get(pods)["items"]
    assert pod["metadata"]["labels"] == {"app": "web"}
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIPs"] == [{"ip": "10.1.2.3"}, {"ip": "fd00::3"}]
    api.pod_status(namespace, "web", phase="Pending")
    assert api.get(pods)["items"][0]["status"]["phase"] == "Pending"
    api.delete_pod(namespace, "web")
    assert api.get(pods)["items"] == []


def test_paused(control_plane: ControlPlane) -> None:
    """Nothing answers, and then everything does."""
    with client(control_plane) as pool:
        assert pool.request("GET", f"{control_plane.server}/version").status == 200
        with control_plane.paused(), pytest.raises(urllib3.exceptions.ReadTimeoutError):
            pool.request("GET", f"{control_plane.server}/version")
        assert pool.request("GET", f"{control_plane.server}/version").status == 200


def test_restart(control_plane: ControlPlane, api: Api, namespace: str) -> None:
    """Another process on the same port and data; its flags last until the next restart."""
    api.create(config_maps(namespace), config_map("kept", key="value"))
    with client(control_plane) as pool:
        processes = [control_plane.api_server.pid]
        for flags, status in ((["--anonymous-auth=false"], 401), ([], 200)):
            control_plane.restart_api_server(*flags)
            processes.append(control_plane.api_server.pid)
            anonymous = Api(control_plane.server, control_plane.ca)
            assert anonymous.raw("GET", "/version").status == status
            found = pool.request("GET", f"{control_plane.server}{config_maps(namespace)}/kept").json()
            assert found["data"] == {"key": "value"}
    assert len(set(processes)) == 3


@pytest.fixture(scope="module")
def uncached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without a watch cache, for itself."""
    with ControlPlane(tmp_path_factory.mktemp("uncached"), flags=["--watch-cache=false"]) as made:
        made.api.create_namespace("test")
        yield made


def test_compacted(uncached: ControlPlane) -> None:
    """A watch from before the compaction gets a 410, in an event; one from now does not."""
    path = config_maps("test")
    uncached.api.create(path, config_map("one"))
    old = uncached.api.get(path)["metadata"]["resourceVersion"]
    for turn in range(3):
        uncached.api.patch(f"{path}/one", {"data": {"turn": str(turn)}})
    with watch(uncached, f"{uncached.server}{path}?watch=true&resourceVersion={old}") as events:
        assert [next(events)["type"] for _ in range(3)] == ["MODIFIED"] * 3
    uncached.compact()
    with watch(uncached, f"{uncached.server}{path}?watch=true&resourceVersion={old}") as events:
        event = next(events)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    now = uncached.api.get(path)["metadata"]["resourceVersion"]
    with watch(uncached, f"{uncached.server}{path}?watch=true&resourceVersion={now}") as events:
        uncached.api.delete(f"{path}/one")
        assert next(events)["type"] == "DELETED"


def test_start_that_fails_says_why(tmp_path: Path) -> None:
    """The end of the log is in the error, and nothing keeps running."""
    made = ControlPlane(tmp_path)
    with made:
        servers = [made.etcd, made.api_server]
        with pytest.raises(
            HarnessError, match=r"kube-apiserver ended with status 1:\n(.*\n)*.*unknown flag: --nonsense"
        ):
            made.restart_api_server("--nonsense")
        began = time.monotonic()
    assert time.monotonic() - began < STOP_SECONDS, "etcd had to be killed"
    assert [server.poll() for server in servers] == [-signal.SIGTERM, 0], "etcd ends by the signal, in good order"


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[Proxy]:
    """A proxy in front of the API server."""
    with Proxy(control_plane.port) as made:
        yield made


def test_client_sees_a_freeze(control_plane: ControlPlane, proxy: Proxy, api: Api, namespace: str) -> None:
    """A watch that is silent, connections that are accepted and lead nowhere; afterwards all is well."""
    path = config_maps(namespace)
    with client(control_plane) as pool, watch(control_plane, f"{proxy.server}{path}?watch=true") as events:
        api.create(path, config_map("one"))
        assert next(events)["type"] == "ADDED"
        proxy.set(Mode.FREEZE)
        api.delete(f"{path}/one")
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            next(events)
        with pytest.raises(urllib3.exceptions.TimeoutError):
            pool.request("GET", f"{proxy.server}/version")
        assert proxy.connections == 2
        proxy.set(Mode.PASS)
        assert pool.request("GET", f"{proxy.server}/version").status == 200


def test_client_sees_a_reset(control_plane: ControlPlane, proxy: Proxy, api: Api, namespace: str) -> None:
    """In the middle of a watch."""
    path = config_maps(namespace)
    with watch(control_plane, f"{proxy.server}{path}?watch=true") as events:
        api.create(path, config_map("one"))
        assert next(events)["type"] == "ADDED"
        proxy.reset()
        # Python before 3.11.9 takes a reset for the end of the stream, under TLS (gh-115627).
        with pytest.raises(
            urllib3.exceptions.ProtocolError, match=r"Connection reset by peer|Response ended prematurely"
        ):
            next(events)
    with watch(control_plane, f"{proxy.server}{path}?watch=true") as events:
        assert next(events)["type"] == "ADDED"


def test_client_sees_a_cut(control_plane: ControlPlane, proxy: Proxy, api: Api, namespace: str) -> None:
    """In the middle of an event, without an end of the answer."""
    path = config_maps(namespace)
    with watch(control_plane, f"{proxy.server}{path}?watch=true") as events:
        api.create(path, config_map("one"))
        assert next(events)["type"] == "ADDED"
        proxy.truncate(100)
        api.patch(f"{path}/one", {"data": {"key": "value"}})
        with pytest.raises((urllib3.exceptions.ProtocolError, urllib3.exceptions.SSLError)):
            next(events)
    with watch(control_plane, f"{proxy.server}{path}?watch=true") as events:
        assert next(events)["object"]["data"] == {"key": "value"}


def test_client_is_refused(control_plane: ControlPlane, proxy: Proxy) -> None:
    """Nobody listens; then somebody does, on the same port."""
    with client(control_plane) as pool:
        proxy.set(Mode.REFUSE)
        with pytest.raises(urllib3.exceptions.NewConnectionError, match="Connection refused"):
            pool.request("GET", f"{proxy.server}/version")
        assert proxy.connections == 0
        proxy.set(Mode.PASS)
        assert pool.request("GET", f"{proxy.server}/version").status == 200
        assert proxy.connections == 1


class Wire:
    """Both ends of a connection through a proxy."""

    def __init__(self, proxy: Proxy, listener: socket.socket) -> None:
        """Connect."""
        self.client = socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)
        self.server, _ = listener.accept()
        self.server.settimeout(PATIENCE)

    def close(self) -> None:
        """Close both."""
        self.client.close()
        self.server.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the proxy of `wire` leads."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(PATIENCE)
        yield made


@pytest.fixture
def plain(listener: socket.socket) -> Iterator[Proxy]:
    """A proxy to a listener of the test's own, where bytes can be told apart."""
    with Proxy(listener.getsockname()[1]) as made:
        yield made


@pytest.fixture
def wire(plain: Proxy, listener: socket.socket) -> Iterator[Wire]:
    """A connection through `plain`."""
    made = Wire(plain, listener)
    yield made
    made.close()


def test_freeze_loses_nothing(plain: Proxy, wire: Wire) -> None:
    """What was sent in the meantime, in either direction, arrives afterwards."""
    plain.set(Mode.FREEZE)
    wire.client.sendall(b"request")
    wire.server.sendall(b"answer")
    for end in (wire.client, wire.server):
        end.settimeout(0.3)
        with pytest.raises(TimeoutError):
            end.recv(100)
    plain.set(Mode.PASS)
    assert wire.client.recv(100) == b"answer"
    assert wire.server.recv(100) == b"request"


def test_reset_is_seen_at_both_ends(plain: Proxy, wire: Wire) -> None:
    """Neither sees an orderly end."""
    plain.reset()
    for end in (wire.client, wire.server):
        with pytest.raises(ConnectionResetError):
            end.recv(100)


def test_truncate_counts_bytes(plain: Proxy, wire: Wire, listener: socket.socket) -> None:
    """Exactly so many from the server; those to the server, and the next connection, are not touched."""
    plain.truncate(5)
    wire.client.sendall(b"a long request")
    assert wire.server.recv(100) == b"a long request"
    wire.server.sendall(b"123")
    assert wire.client.recv(100) == b"123"
    wire.server.sendall(b"456789")
    assert wire.client.recv(100) == b"45"
    assert wire.client.recv(100) == b""
    other = Wire(plain, listener)
    other.server.sendall(b"123456789")
    assert other.client.recv(100) == b"123456789"
    other.close()


def test_refusal_keeps_connections(plain: Proxy, wire: Wire) -> None:
    """It is about new ones."""
    plain.set(Mode.REFUSE)
    wire.server.sendall(b"still here")
    assert wire.client.recv(100) == b"still here"


def test_dead_target_is_a_reset(plain: Proxy, listener: socket.socket) -> None:
    """Not an orderly end, which a server that is gone cannot give."""
    listener.close()
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", plain.port), PATIENCE) as one,
    ):
        one.recv(100)


def test_reader_that_is_stuck_blocks_nobody(plain: Proxy, wire: Wire, listener: socket.socket) -> None:
    """One client does not read: others are served, and every switch works."""
    flood = threading.Thread(target=send_until_broken, args=[wire.server])
    flood.start()
    try:
        time.sleep(1)
        other = Wire(plain, listener)
        other.server.sendall(b"answer")
        assert other.client.recv(100) == b"answer"
        other.close()
        switch = threading.Thread(target=plain.reset, daemon=True)
        switch.start()
        switch.join(PATIENCE)
        assert not switch.is_alive(), "the switch waits for the client"
    finally:
        wire.close()
        flood.join(PATIENCE)


def send_until_broken(end: socket.socket) -> None:
    """Send more than buffers take."""
    end.settimeout(None)
    try:
        end.sendall(bytes(64 << 20))
    except OSError:
        return


def test_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error with what Go said; no half a binary, and no build cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(HarnessError, match=r"^go mod tidy failed:\n(.*\n)*.*GOPROXY=off"):
        binaries.find("etcd")
    assert [path.name for path in (tmp_path / "dolphin-agent" / "kube").iterdir()] == [f"etcd-{binaries.ETCD}.lock"]


def test_go_that_is_too_old_fetches_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go before 1.21 does not do so by itself; that it cannot be had is one error."""
    old = tmp_path / "bin" / "go"
    old.parent.mkdir()
    old.write_text(
        '#!/bin/sh\nif [ "$1" = version ]; then echo go version go1.19.8 linux/amd64; exit; fi\necho "$@"; exit 1\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    assert shutil.which("go") == str(old)
    with pytest.raises(HarnessError, match=r"^go mod download -json golang.org/toolchain@.* failed:\nmod download"):
        binaries.find("etcd")
