"""From `helm install` to a number in Prometheus, and back to a node with nothing on it. The tests are in order."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from integration.cluster.conftest import NAMESPACE, SELECTOR
from integration.image.build import version
from integration.kube.chart import CHART, EARLIER
from integration.lib import judge
from integration.lib.wait import wait_until
from integration.telemetry.otlp import Point
from integration.vm.boot import PROJECT

if TYPE_CHECKING:
    from integration.cluster import bed
    from integration.cluster.conftest import Release, Scraped
    from integration.cluster.workload import Workload
    from integration.lib.agent import Samples
    from integration.lib.counters import Counters
    from integration.telemetry.collector import Collector

PUBLISHED = PROJECT / "tests/policy/examples/policy-published.yaml"
APP1 = Path(__file__).with_name("app1.yaml")
CRDS = ("monitorpolicies.crd.dolphin.io", "nodemonitors.crd.dolphin.io")
RECEIVED = "dolphin_ip_receive_packets_total"
EFFECT_SECONDS = 120

Reading = tuple[dict[str, "Counters"], "Samples"]


def programs(cluster: bed.Cluster) -> list[str]:
    """The types of the node's BPF programs, but for those with which the runtime guards each container's devices."""
    types = [program["type"] for program in json.loads(cluster.node.run("bpftool --json prog list"))]
    return [one for one in types if one != "cgroup_device"]


def apply(cluster: bed.Cluster, policy: Path) -> None:
    """Apply a policy as it is."""
    cluster.control_plane.kubectl("apply", "-f", str(policy))


def patch(cluster: bed.Cluster, policy: str, spec: dict[str, Any]) -> None:
    """Change a policy."""
    change = json.dumps({"spec": spec})
    cluster.control_plane.kubectl("patch", "mp", "-n", "kube-system", policy, "--type=merge", "-p", change)


def condition(cluster: bed.Cluster, kind: str, name: str) -> str:
    """The status of the condition Ready."""
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return cluster.control_plane.kubectl("get", kind, "-n", "kube-system", name, "-o", path, check=False).stdout


def counted(workload: Workload, scraped: Scraped, deadline: float = 180) -> Reading:
    """A reading of the pods' counters and of Prometheus that belong together: nothing moved around the scrape."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        before, read = {app: workload.counters(app) for app in ("nginx", "app1")}, time.time()
        # It may show a reading of half a second ago; on a busy machine some fail.
        wait_until(lambda: scraped.time() > read + 0.6, deadline=EFFECT_SECONDS, what="a scrape after that")  # noqa: B023
        samples = scraped.samples()
        if before == {app: workload.counters(app) for app in before}:
            return before, samples
    raise AssertionError("the pods were never quiet")


def test_installed(cluster: bed.Cluster, release: Release) -> None:
    """Agents are ready, say so at the API server, and have attached nothing: there is no policy."""
    (pod,) = release.pods()
    assert pod["spec"].get("hostNetwork") is None
    wait_until(lambda: condition(cluster, "nm", cluster.node.name) == "True", deadline=EFFECT_SECONDS, what="Ready")
    assert programs(cluster) == []


def test_health(cluster: bed.Cluster, scraped: Scraped, workload: Workload) -> None:
    """The published policy, word for word, pings nginx every 5 s."""
    apply(cluster, PUBLISHED)
    labels = {"pod": workload.name("nginx"), "command": "ping", "ipfamily": "ipv4"}
    name = "dolphin_health_check_successful_total"
    wait_until(lambda: scraped.samples().value(name, **labels) >= 2, deadline=EFFECT_SECONDS, what="it was pinged")
    assert scraped.samples().value("dolphin_health_check_status", **labels) == 1


def test_equal(cluster: bed.Cluster, workload: Workload, scraped: Scraped, collector: Collector) -> None:
    """The published policy, and one for app1: both exits show what the kernel counted in the pods."""
    apply(cluster, APP1)
    # From now on nothing moves by itself, so that readings of kernel and Prometheus can belong together.
    patch(cluster, "example-task", {"healthCheck": {"enable": False}})
    nginx, app1 = workload.name("nginx"), workload.name("app1")
    wait_until(
        lambda: scraped.samples().series("dolphin_ip_send_packets_total", pod=app1),
        deadline=EFFECT_SECONDS,
        what="app1 is counted",
        interval=1,
    )
    workload.ask(1)  # neighbours are known, and flows are there from now on
    kernel_before, before = counted(workload, scraped)
    workload.ask(20)
    kernel_after, after = counted(workload, scraped)
    moved = {app: kernel_after[app] - kernel_before[app] for app in kernel_after}
    published = ("ipReceive", "ipSend", "tcpReceive", "tcpSend", "tcpRetrans")
    kernel = judge.kernel_says(moved["nginx"], accepts=True, items=published)
    assert kernel["tcp_receive_packets_total", "both"] >= 20
    labels = {"pod": nginx, "task": "kube-system/example-task"}
    assert judge.agent_says(before, after, granularity="flow", items=published, **labels) == kernel
    assert opened(before, after, "inbound", **labels) == moved["nginx"].passive_opens == 40

    labels = {"pod": app1, "task": "kube-system/app1"}
    items = ("ipReceive", "ipSend")
    assert judge.agent_says(before, after, items=items, **labels) == judge.kernel_says(moved["app1"], items=items)
    assert opened(before, after, "outbound", **labels) == moved["app1"].active_opens == 40
    assert after.series("dolphin_flow_tcp_rtt_microseconds_count", **labels)
    assert not judge.lost(after, published)

    wanted = int(after.value("dolphin_ip_receive_bytes_total", pod=app1, ipfamily="ipv4"))
    collector.wait_for(
        lambda _: pushed(collector, "dolphin_ip_receive_bytes_total", app1, "ipv4") == wanted,
        deadline=EFFECT_SECONDS,
        what=f"{wanted} bytes are pushed",
    )


def opened(before: Samples, after: Samples, direction: str, **labels: str) -> int:
    """Connections opened meanwhile."""
    name = "dolphin_tcp_new_connections_total"
    return int(after.value(name, direction=direction, **labels) - before.value(name, direction=direction, **labels))


def pushed(collector: Collector, name: str, pod: str, family: str, *, after: int = 0) -> int:
    """The last value of a pod's series, but for so many of the first requests; -1 where there is none."""
    values = [
        point.value
        for request in collector.requests()[after:]
        for metric in request
        if metric.name == name
        for point in metric.points
        if isinstance(point, Point)
        and point.attributes["k8s.pod.name"] == pod.partition("/")[2]
        and point.attributes["network.type"] == family
    ]
    return int(values[-1]) if values else -1


def test_status(cluster: bed.Cluster) -> None:
    """What kubectl shows of policies and nodes."""
    for name in ("example-task", "app1"):
        wait_until(lambda: condition(cluster, "mp", name) == "True", deadline=EFFECT_SECONDS, what=f"{name} is ready")  # noqa: B023
    header, line = cluster.control_plane.kubectl("get", "nm").stdout.splitlines()
    assert header.split()[:4] == ["NAME", "READY", "TASKS", "PODS"]
    assert line.split()[:4] == [cluster.node.name, "True", "2", "2"]


def test_policy_edited(cluster: bed.Cluster, scraped: Scraped, workload: Workload) -> None:
    """One item less: its series go, the others go on."""
    app1 = workload.name("app1")
    held = scraped.samples().value(RECEIVED, pod=app1)
    assert held
    patch(cluster, "app1", {"monitor": {"ip": {"ipSend": None}}})

    def one_less() -> bool:
        samples = scraped.samples()
        # A scrape that timed out while programs were detached has neither.
        return (
            not samples.series("dolphin_ip_send_packets_total", pod=app1) and samples.value(RECEIVED, pod=app1) >= held
        )

    wait_until(one_less, deadline=EFFECT_SECONDS, what="it is gone, and the others are there")


def test_pod_rolled(scraped: Scraped, workload: Workload) -> None:
    """The new pod is counted from its beginning, the old one goes."""
    old = workload.name("app1")
    workload.roll("app1")
    new = workload.name("app1")
    assert new != old
    name = "dolphin_ip_receive_packets_total"

    def shown() -> set[str]:
        return {series["pod"] for series in scraped.samples().series(name, task="kube-system/app1")}

    wait_until(lambda: shown() == {new}, deadline=EFFECT_SECONDS, what="the new pod is counted, and only that")


def test_agent_killed(cluster: bed.Cluster, release: Release, scraped: Scraped) -> None:
    """SIGKILL: its programs go with it, the kubelet starts it again, and it counts again."""
    (pod,) = release.pods()
    container = pod["status"]["containerStatuses"][0]["containerID"].partition("//")[2]
    process = f"ctr -n k8s.io tasks ls | awk '$1 == \"{container}\" {{print $2}}'"
    cluster.node.run(f"kill -9 $({process})")

    def restarted() -> bool:
        statuses = release.pods()[0]["status"]["containerStatuses"]
        return bool(statuses[0]["restartCount"] == 1 and statuses[0]["ready"])

    wait_until(restarted, deadline=180, what="it is started again, and ready", interval=2)
    scraped.wait_up()
    name = "dolphin_ip_receive_packets_total"
    wait_until(lambda: scraped.samples().series(name), deadline=EFFECT_SECONDS, what="it counts again", interval=1)


def test_upgrade(release: Release, scraped: Scraped, workload: Workload) -> None:
    """Other values: a new pod takes over, equal again."""
    (old,) = release.pods()
    release.upgrade("--set", "agent.logLevel=debug")
    scraped.wait_up()
    (new,) = (pod for pod in release.pods() if pod["metadata"]["name"] != old["metadata"]["name"])
    assert "--log-level=debug" in new["spec"]["containers"][0]["args"]
    labels = {"pod": workload.name("app1"), "task": "kube-system/app1"}
    goes_on(scraped, workload, labels)


def goes_on(scraped: Scraped, workload: Workload, labels: dict[str, str]) -> None:
    """Wait until app1 is counted; from then on its numbers equal the kernel's."""
    wait_until(
        lambda: scraped.samples().series(RECEIVED, **labels), deadline=EFFECT_SECONDS, what="it counts", interval=1
    )
    kernel_before, before = counted(workload, scraped)
    workload.ask(5)
    kernel_after, after = counted(workload, scraped)
    moved = kernel_after["app1"] - kernel_before["app1"]
    items = ("ipReceive",)
    assert judge.agent_says(before, after, items=items, **labels) == judge.kernel_says(moved, items=items)


def test_each_capability_is_needed(cluster: bed.Cluster, release: Release) -> None:
    """Without it, `dolphin-agent check` in the chart's container names it."""
    (pod,) = release.pods()
    own = pod["spec"]["containers"][0]
    needed = own["securityContext"]["capabilities"]["add"]
    containers = [
        {
            "name": one.lower().replace("_", "-"),
            "image": own["image"],
            "imagePullPolicy": "Never",
            "args": ["check"],
            "securityContext": {
                **own["securityContext"],
                "capabilities": {"drop": ["ALL"], "add": [other for other in needed if other != one]},
            },
        }
        for one in needed
    ]
    spec = {"containers": containers, "restartPolicy": "Never", "automountServiceAccountToken": False}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "without", "namespace": "default"}, "spec": spec}
    kubectl = cluster.control_plane.kubectl
    kubectl("apply", "-f", "-", stdin=json.dumps(body))
    phase = ["get", "pod", "without", "-o", "jsonpath={.status.phase}"]
    wait_until(
        lambda: kubectl(*phase).stdout in ("Succeeded", "Failed"), deadline=400, what="all have checked", interval=2
    )
    said = {one: kubectl("logs", "without", "-c", one.lower().replace("_", "-")).stdout for one in needed}
    assert set(needed) - {"SYS_RESOURCE"} == {"BPF", "PERFMON", "SYS_PTRACE", "NET_RAW"}
    assert {one: f"CAP_{one}" in text or f"capability {one}" in text for one, text in said.items()} == dict.fromkeys(
        needed, True
    ), said
    kubectl("delete", "pod", "without", "--grace-period=1")


def test_port_taken(cluster: bed.Cluster, release: Release, collector: Collector, workload: Workload) -> None:
    """By a sidecar, as injectors add them: the agent stays up and pushes; kubectl and an Event name the port."""
    kubectl = cluster.control_plane.kubectl
    program = "import socket, signal, sys; signal.signal(15, lambda *_: sys.exit()); "
    program += "s = socket.create_server(('', 10001)); signal.pause()"
    image = release.pods()[0]["spec"]["containers"][0]["image"]
    sidecar = {
        "name": "sidecar",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/python3", "-S", "-c", program],
    }
    # A native one: it is there before the agent.
    sidecar |= {"restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 10001}, "periodSeconds": 1}}
    patch = {"spec": {"template": {"spec": {"initContainers": [sidecar]}}}}
    kubectl("patch", "ds", "-n", NAMESPACE, "dolphin-agent", "-p", json.dumps(patch))
    said = "cannot listen on 0.0.0.0:10001: Address already in use"
    wait_until(lambda: said in kubectl("get", "nm").stdout, deadline=180, what="kubectl get nm says so", interval=2)
    (pod,) = release.pods()
    assert said in kubectl("describe", "pod", "-n", NAMESPACE, pod["metadata"]["name"]).stdout
    name, app1 = "dolphin_ip_receive_bytes_total", workload.name("app1")
    after = len(collector.requests())  # the last of the earlier agent, whose totals were higher, among them
    collector.wait_for(
        lambda _: pushed(collector, name, app1, "ipv4", after=after) >= 0, deadline=EFFECT_SECONDS, what="it pushes"
    )
    before = pushed(collector, name, app1, "ipv4", after=after)
    workload.ask(5)
    collector.wait_for(
        lambda _: pushed(collector, name, app1, "ipv4", after=after) > before, deadline=EFFECT_SECONDS, what="it counts"
    )
    (status,) = release.pods()[0]["status"]["containerStatuses"]
    assert (status["restartCount"], status["ready"]) == (0, False)
    without = [{"op": "remove", "path": "/spec/template/spec/initContainers"}]
    kubectl("patch", "ds", "-n", NAMESPACE, "dolphin-agent", "--type=json", "-p", json.dumps(without))
    release.wait_rolled_out()
    wait_until(lambda: said not in kubectl("get", "nm").stdout, deadline=EFFECT_SECONDS, what="it is over", interval=2)


def test_nothing_is_left(cluster: bed.Cluster, release: Release) -> None:
    """The last policy goes, and so do the programs; the chart goes, and nothing of it is on the node."""
    remove(cluster, release)


def test_from_the_earlier_chart(
    cluster: bed.Cluster, release: Release, scraped: Scraped, workload: Workload, tmp_path: Path
) -> None:
    """Installed, then upgraded as the README says: the new pod counts on, takes what is new, and leaves nothing."""
    kubectl = cluster.control_plane.kubectl
    kubectl("delete", "crd", *CRDS)
    release.upgrade("--set", f"image.tag={version()}", chart=EARLIER)
    scraped.wait_up()
    apply(cluster, APP1)
    labels = {"pod": workload.name("app1"), "task": "kube-system/app1"}
    wait_until(
        lambda: scraped.samples().series(RECEIVED, **labels), deadline=EFFECT_SECONDS, what="it counts", interval=1
    )
    everything = tmp_path / "everything.yaml"
    everything.write_text(yaml.safe_dump(asking_for_everything()))
    assert kubectl("apply", "-f", str(everything), check=False).returncode, "the earlier CRD lacks something"

    (old,) = release.pods()
    with pytest.raises(AssertionError, match=re.escape("helm show crds CHART | kubectl apply")):
        release.upgrade()
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=release.helm("show", "crds", str(CHART)))
    release.upgrade()
    scraped.wait_up()
    (new,) = (pod for pod in release.pods() if pod["metadata"]["name"] != old["metadata"]["name"])
    assert old["metadata"]["labels"]["helm.sh/chart"] == "dolphin-agent-0.1.0"
    assert new["metadata"]["labels"]["helm.sh/chart"] == f"dolphin-agent-{version()}"
    goes_on(scraped, workload, labels)
    apply(cluster, everything)
    wait_until(lambda: condition(cluster, "mp", "everything") == "True", deadline=EFFECT_SECONDS, what="it is ready")
    remove(cluster, release)


def asking_for_everything() -> dict[str, Any]:
    """A policy with every item that the chart's CRD has."""
    crd = yaml.safe_load((CHART / "crds/monitorpolicies.yaml").read_text())
    monitor = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["monitor"]
    groups = monitor["properties"].items()
    items: dict[str, Any] = {group: {item: {} for item in found["properties"]} for group, found in groups}
    metadata = {"name": "everything", "namespace": "kube-system"}
    head = {"apiVersion": "crd.dolphin.io/v1", "kind": "MonitorPolicy", "metadata": metadata}
    return {**head, "spec": {"monitor": items}}


def remove(cluster: bed.Cluster, release: Release) -> None:
    """Remove the policies, then the chart; AssertionError if anything of them is left on the node."""
    kubectl = cluster.control_plane.kubectl
    assert programs(cluster)
    kubectl("delete", "mp", "-n", "kube-system", "--all")
    wait_until(lambda: not programs(cluster), deadline=EFFECT_SECONDS, what="no program is attached")
    release.helm("uninstall", "dolphin-agent", "--wait")
    gone = "--for=delete"
    kubectl("wait", gone, "-n", NAMESPACE, "pod", "-l", SELECTOR, "--timeout=90s", check=False, seconds=100)
    assert not programs(cluster)
    assert not cluster.node.run("find /sys/fs/bpf -mindepth 1")
    assert not cluster.node.run("find /var/lib /run -path '*/containerd' -prune -o -name '*dolphin-agent*' -print")
    assert not cluster.node.run("pgrep -f 'dolphin-agent ru[n]'", check=False)
