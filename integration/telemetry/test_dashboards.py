"""Every query of every dashboard: a real Prometheus, which scrapes a real agent, which has measured real traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from integration.lib.counters import FAMILIES
from integration.telemetry import grafana
from integration.telemetry.prometheus import promtool_rules
from integration.telemetry.scene import (
    CLIENT,
    DATAGRAMS,
    DURATION,
    FAILED,
    LONG,
    NOTHING,
    SERVER,
    SUCCESSFUL,
    Scene,
    played,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.telemetry.grafana import Target

ALERTS = Path(__file__).parents[2] / "helm/dolphin-agent/files/alerts.yaml"
DATAGRAM = ("udp", "7000")
"""The flows of those that are counted; others are dropped on purpose."""
EXTRAPOLATED = 0.1
"""By so much rate() may be wrong: up to a scrape at either end of some 20, or none where a counter begins at 0."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests."""
    with played(tmp_path_factory.mktemp) as made:
        yield made


@pytest.mark.parametrize("target", grafana.targets(), ids=lambda one: f"{one.dashboard} {one.panel}")
def test_every_query_answers(target: Target, scene: Scene) -> None:
    """With numbers, and with the labels that its legend shows; native histograms need a Prometheus that has them."""
    heatmap = {"_bucket" not in target.expr}
    for native in heatmap if target.kind == "heatmap" else (False, True):
        found = scene.ask(target, native=native)
        assert found
        # Discovery in a cluster adds the node.
        assert all(target.legend_labels - {"node"} <= labels.keys() for labels, _ in found), found


@pytest.mark.parametrize("name", list(grafana.dashboards()))
def test_variables_offer_what_there_is(name: str, scene: Scene) -> None:
    """Namespaces out of the pods' names; the pods of a namespace; the tasks of a pod."""
    dashboard = grafana.dashboards()[name]
    pod = CLIENT if name == "connections" else SERVER
    found = grafana.options(scene.classic, dashboard, {"namespace": ["default"], "pod": [pod]})
    assert all(found.values()), found
    if name in ("pods", "flows"):
        tasks = ["kube-system/again", "kube-system/flow", "kube-system/pod"] if name == "pods" else ["kube-system/flow"]
        assert found == {"namespace": ["default"], "pod": [CLIENT, SERVER], "task": tasks}
    assert not grafana.options(scene.classic, dashboard, {"namespace": ["elsewhere"]}).get("pod")


@pytest.mark.parametrize("chosen", [[SERVER], [CLIENT], [SERVER, CLIENT]])
def test_a_choice_of_pods_is_kept_to(chosen: list[str], scene: Scene) -> None:
    """One, or several, with characters that mean something in a regular expression."""
    for target in grafana.targets():
        if target.dashboard == "pods" and "pod" in target.legend_labels:
            found = {labels["pod"] for labels, _ in scene.ask(target, {"pod": chosen, "namespace": ["default"]})}
            assert found <= set(chosen), target
            assert found == set(chosen) or "sent again" in target.panel or "connections" in target.panel
            assert not scene.ask(target, {"namespace": ["elsewhere"]})


@pytest.mark.parametrize("task", [grafana.ALL, "kube-system/pod", "kube-system/flow"])
def test_traffic_is_what_the_kernel_counted(task: str, scene: Scene) -> None:
    """Rate times time; however many tasks count it, and the flows together to the packet."""
    expected = {
        ("How many bytes", CLIENT, 1): sum(scene.client.ip_send_bytes(family) for family in FAMILIES),
        ("How many bytes", SERVER, 0): sum(scene.server.ip_receive_bytes(family) for family in FAMILIES),
        ("How many packets", CLIENT, 1): sum(scene.client.ip_send_packets(family) for family in FAMILIES),
        ("How many packets", SERVER, 0): sum(scene.server.ip_receive_packets(family) for family in FAMILIES),
        ("How many TCP segments", CLIENT, 1): scene.client.out_segs + scene.client.retrans_segs,
        ("How many TCP segments", SERVER, 0): scene.server.in_segs,
    }
    for (panel, pod, number), counted in expected.items():
        rate = scene.of(pod, grafana.target("pods", panel, number), {"task": [task]})
        error = 1e-9 if task == "kube-system/flow" else EXTRAPOLATED
        assert rate * scene.window == pytest.approx(counted, rel=error), panel


def test_a_flow_that_ends_is_no_traffic(tmp_path: Path) -> None:
    """It goes over to `other` at once, with all that it has counted; promtool has the time to wait for that."""
    target = grafana.target("pods", "How many bytes", 1)
    values = {"10.0.0.1": "0+6000x20", "10.0.0.2": "900000x10 stale", "other": "0x10 900000x10"}
    name = 'dolphin_flow_ip_send_bytes_total{{pod="default/web",task="kube-system/flow",ipfamily="ipv4",srcip="{}"}}'
    trial = {
        "interval": "1m",
        "input_series": [{"series": name.format(ip), "values": values[ip]} for ip in values],
        "promql_expr_test": [
            {
                "expr": grafana.interpolate(target.expr, grafana.dashboards()["pods"], NOTHING, seconds=120),
                "eval_time": "11m",
                "exp_samples": [{"labels": '{pod="default/web"}', "value": 100}],
            }
        ],
    }
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump({"tests": [trial]}))
    promtool_rules("test", file)


@pytest.mark.parametrize("task", [grafana.ALL, "kube-system/pod", "kube-system/flow"])
def test_retransmit_ratio_is_the_kernels(task: str, scene: Scene) -> None:
    """Of a client, which sends no SYN-ACKs."""
    ratio = scene.client.retrans_segs / (scene.client.out_segs + scene.client.retrans_segs)
    assert ratio > 0.01, "nothing was lost"
    shown = scene.of(CLIENT, grafana.target("pods", "What share"), {"task": [task]})
    assert shown == pytest.approx(ratio, rel=1e-6 if task == "kube-system/flow" else EXTRAPOLATED)


def test_connections_are_the_kernels(scene: Scene) -> None:
    """Accepted by the server, opened by the client."""
    panel = "How many connections"
    accepted = scene.of(SERVER, grafana.target("pods", panel, 0)) * scene.window
    opened = scene.of(CLIENT, grafana.target("pods", panel, 1)) * scene.window
    assert accepted == pytest.approx(scene.server.passive_opens, rel=EXTRAPOLATED)
    assert opened == pytest.approx(scene.client.active_opens, rel=EXTRAPOLATED)


def test_failed_attempts_are_the_kernels(scene: Scene) -> None:
    """Of a client: refused ones."""
    found = scene.ask(grafana.target("connections", "Which attempts"))
    ((labels, rate),) = [one for one in found if one[0]["pod"] == CLIENT]
    assert (labels["direction"], labels["reason"]) == ("outbound", "refused")
    assert rate * scene.window == pytest.approx(scene.client["Tcp.AttemptFails"], rel=EXTRAPOLATED)


def test_loss_is_what_did_not_arrive(scene: Scene) -> None:
    """Of datagrams, which nobody sends again."""
    found = scene.ask(grafana.target("flows", "Which flows lose"))
    shares = {labels["dstip"]: value for labels, value in found if (labels["protocol"], labels["dstport"]) == DATAGRAM}
    for family, address in (("ipv4", "10.8.2.2"), ("ipv6", "fd08:2::2")):
        assert scene.arrived[family] < DATAGRAMS, "nothing was lost"
        assert shares[address] == pytest.approx(1 - scene.arrived[family] / DATAGRAMS, abs=0.01)


def test_volume_of_a_flow_is_exact(scene: Scene) -> None:
    """Datagrams of 300 bytes, with their headers, as the sender counts them."""
    found = scene.ask(grafana.target("flows", "Which flows moved"))
    volumes = {labels["dstip"]: value for labels, value in found if (labels["protocol"], labels["dstport"]) == DATAGRAM}
    assert volumes == {"10.8.2.2": DATAGRAMS * (300 + 28), "fd08:2::2": DATAGRAMS * (300 + 48)}


def test_round_trips_are_the_kernels(scene: Scene) -> None:
    """A connection's mean lies between what the kernel says of it, the same with either kind of histogram."""
    slowest = grafana.target("flows", "Which flows have")
    classic, exact = (
        {_ends(labels): value for labels, value in scene.ask(slowest, native=native)} for native in (False, True)
    )
    assert exact == pytest.approx(classic, rel=0.01)
    assert min(scene.round_trips) <= classic["10.8.1.2", "ephemeral", "10.8.2.2", str(LONG)] <= max(scene.round_trips)
    for native in (False, True):
        ((_, mean),) = scene.ask(grafana.target("flows", "How long"), native=native)
        assert min(classic.values()) <= mean <= max(classic.values())
        quantiles = [scene.ask(grafana.target("flows", "How long", number), native=native) for number in (1, 2, 3)]
        values = [value for ((_, value),) in quantiles]
        assert values == sorted(values)


def _ends(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels[name] for name in ("srcip", "srcport", "dstip", "dstport"))


def test_health_is_what_was_told(scene: Scene) -> None:
    """One check of one pod, unhealthy in the end."""
    unhealthy, every = (scene.ask(grafana.target("health", "How many checks", number)) for number in (0, 1))
    assert (unhealthy[0][1], every[0][1]) == (1, 1)
    assert scene.of(SERVER, grafana.target("health", "Which pods")) == 0
    share = FAILED / (FAILED + SUCCESSFUL)
    assert scene.of(SERVER, grafana.target("health", "What share")) == pytest.approx(share)
    assert scene.of(SERVER, grafana.target("health", "Is it the path")) == pytest.approx(DURATION)
    ((_, mean),) = scene.ask(grafana.target("flows", "How long"), {"pod": [CLIENT]})
    assert scene.of(CLIENT, grafana.target("health", "Is it the path", 1)) == pytest.approx(mean / 1e6)


def test_alerts_are_made_of_what_there_is(scene: Scene) -> None:
    """The rules' own expressions, with either kind of histogram; every second, as these scrapes are that close."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        for server in (scene.classic, scene.native):
            found = server.query(rule["expr"].replace(":1m]", ":1s]"), scene.at)
            assert found or "alert" in rule, rule
    retransmits, segments, _ = (
        {labels["pod"]: value for labels, value in scene.classic.query(rule["expr"].replace(":1m]", ":1s]"), scene.at)}
        for rule in rules
        if "record" in rule
    )
    ratio = scene.client.retrans_segs / (scene.client.out_segs + scene.client.retrans_segs)
    assert retransmits[CLIENT] / segments[CLIENT] == pytest.approx(ratio, rel=EXTRAPOLATED)
