"""What runs in the guest: containerd, the kubelet, and commands that the tests give until they have had enough."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from integration.cluster.image import PAUSE
from integration.lib.wait import wait_until
from integration.vm.boot import OUT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "node-1"
ADDRESS = "10.111.0.2"
GATEWAY = "10.111.0.1"
"""The machine's end of the line, where the API server is."""
POD_CIDRS = ("10.244.0.0/24", "fd00:10:244::/64")
SERVICES = "10.96.0.1"
"""Of the Service `kubernetes`, which is the only one: the node leads it to the API server as kube-proxy would."""
PORT = 9999
"""Where commands are taken."""
END = "end"
_FILES = Path("/run/node")
_SOCKET = Path("/run/containerd/containerd.sock")


@dataclass(frozen=True)
class Task:
    """What the machine tells the guest."""

    port: int
    """Of the API server."""
    files: dict[str, str]
    """Certificates and keys: ClusterControlPlane.node_files."""
    runtime: str
    """The directory with containerd's files."""
    kubelet: str
    images: list[str]
    """Archives to import."""

    def json(self) -> str:
        """As the guest's only argument."""
        return json.dumps(asdict(self))


def main() -> int:
    """Run the node."""
    task = Task(**json.loads(sys.argv[1]))
    mount()
    join_network(task.port)
    _FILES.mkdir()
    for name, content in {**task.files, **configuration(task)}.items():
        (_FILES / name).write_text(content)
    runtime = Path(task.runtime) / "usr"
    path = f"{runtime}/bin:{runtime}/sbin:{os.environ['PATH']}"
    os.environ |= {"PATH": path, "LD_LIBRARY_PATH": f"{runtime}/lib/x86_64-linux-gnu"}
    start("containerd", [f"{runtime}/bin/containerd", "--config", f"{_FILES}/containerd.toml"])
    ctr = [f"{runtime}/bin/ctr", "--namespace", "k8s.io"]
    wait_until(lambda: succeeds([*ctr, "version"]), deadline=120, what="containerd answers", interval=0.2)
    kubelet = ["--config", f"{_FILES}/kubelet.yaml", "--kubeconfig", f"{_FILES}/kubeconfig"]
    start("kubelet", [task.kubelet, *kubelet, f"--hostname-override={NAME}", f"--node-ip={ADDRESS}"])
    for image in task.images:
        subprocess.run([*ctr, "images", "import", image], check=True, stdout=subprocess.DEVNULL)
    print("the node takes commands", flush=True)
    serve()
    return 0


def mount() -> None:
    """What a node has writable, what containers see propagated, and all cgroup controllers."""
    for directory in ("/var/lib", "/var/log"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    cgroups = Path("/sys/fs/cgroup")
    for controller in (cgroups / "cgroup.controllers").read_text().split():
        (cgroups / "cgroup.subtree_control").write_text(f"+{controller}")


def join_network(api_server: int) -> None:
    """Bring up the device, forward packets, and lead the Service `kubernetes` to the API server."""
    subprocess.run(["modprobe", "-a", "virtio_net", "bridge", "overlay", "nf_tables", "nft_chain_nat"], check=True)
    devices = Path("/sys/class/net")
    name = wait_until(
        lambda: next((path.name for path in devices.iterdir() if (path / "device").exists()), ""),
        deadline=20,
        what="the network device is there",
    )
    for command in (f"address add {ADDRESS}/24 dev {name}", f"link set {name} up", f"route add default via {GATEWAY}"):
        subprocess.run(["ip", *command.split()], check=True)
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        (Path("/proc/sys/net") / setting).write_text("1")
    led = f"ip daddr {SERVICES} tcp dport 443 dnat to {GATEWAY}:{api_server}"
    chains = "".join(
        f"chain {hook} {{ type nat hook {hook} priority -100; {led}; }}\n" for hook in ("prerouting", "output")
    )
    subprocess.run(["nft", "-f", "-"], input=f"table ip services {{\n{chains}}}\n", text=True, check=True)


def configuration(task: Task) -> Mapping[str, str]:
    """File name -> content."""
    certificate = {"client-certificate": f"{_FILES}/node.crt", "client-key": f"{_FILES}/node.key"}
    cluster = {"server": f"https://{GATEWAY}:{task.port}", "certificate-authority": f"{_FILES}/ca.crt"}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "node",
        "clusters": [{"name": "node", "cluster": cluster}],
        "users": [{"name": "node", "user": certificate}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}],
    }
    return {
        "kubeconfig": yaml.safe_dump(kubeconfig),
        "kubelet.yaml": yaml.safe_dump(kubelet_configuration()),
        "containerd.toml": containerd_configuration(task.runtime),
        "resolv.conf": f"nameserver {GATEWAY}\n",
        "10-bridge.conflist": json.dumps(network_configuration()),
    }


def kubelet_configuration() -> dict[str, Any]:
    """A KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,  # the roots are tmpfs, for which no device is found
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_FILES}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{_FILES}/serving.crt",
        "tlsPrivateKeyFile": f"{_FILES}/serving.key",
        "resolvConf": f"{_FILES}/resolv.conf",
        "volumePluginDir": f"{_FILES}/volume-plugins",
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "syncFrequency": "10s",
    }


def containerd_configuration(runtime: str) -> str:
    """TOML."""
    plugin = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{_SOCKET}"
[{plugin}]
  sandbox_image = "{PAUSE}"
[{plugin}.containerd]
  snapshotter = "overlayfs"
[{plugin}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{plugin}.containerd.runtimes.runc.options]
  BinaryName = "{runtime}/usr/sbin/runc"
[{plugin}.cni]
  bin_dir = "{runtime}/usr/lib/cni"
  conf_dir = "{_FILES}"
"""


def network_configuration() -> dict[str, Any]:
    """A bridge, both families."""
    ranges = [[{"subnet": subnet}] for subnet in POD_CIDRS]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def start(name: str, command: list[str]) -> None:
    """Start a server; it ends with the guest, and its log is brought out."""
    with (Path(os.environ[OUT_VARIABLE]) / f"{name}.log").open("ab") as log:
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def succeeds(command: list[str]) -> bool:
    """Whether it does."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Server(socketserver.TCPServer):
    """Runs commands, one at a time."""

    ended = False


class Command(socketserver.StreamRequestHandler):
    """One line for a shell; the answer is its status, a line, and its output."""

    server: Server

    def handle(self) -> None:
        """Run it."""
        line = self.rfile.readline().decode().strip()
        if line == END:
            self.server.ended = True
            return
        done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        self.wfile.write(f"{done.returncode}\n".encode() + done.stdout)


def serve() -> None:
    """Take commands until the last one."""
    with Server((ADDRESS, PORT), Command) as server:
        while not server.ended:
            server.handle_request()


if __name__ == "__main__":
    sys.exit(main())
