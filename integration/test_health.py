"""Health checks of real pods: what the agent counts against the packets that arrive there."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from integration.lib import bpf, http_server, links
from integration.lib.agent import COMMAND, running
from integration.lib.capture import captured
from integration.lib.manifests import PodManifest
from integration.lib.topology import Node, Pod, bridged_pods
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from integration.conftest import StartAgent
    from integration.lib.agent import Agent, Samples
    from integration.lib.capture import Capture
    from integration.lib.counters import Family
    from integration.lib.manifests import Manifests

STATUS = "dolphin_health_check_status"
SUCCESSFUL = "dolphin_health_check_successful_total"
FAILED = "dolphin_health_check_failed_total"
DURATION = "dolphin_health_check_duration_seconds"
PORT = 8080
PERIOD = 2
"""Seconds. A busy machine that emulates may need one for an answer."""
PROBES = 5
EFFECT = 30
"""Seconds until a change shows, for emulation on a busy machine."""
COMMANDS = ("ping", "arping", "curl")
FAMILIES = ("ipv4", "ipv6")
DROPS = {
    "ping": "icmp type echo-request drop; icmpv6 type echo-request drop;",
    "arping": "icmpv6 type nd-neighbor-solicit drop;",
    "curl": f"tcp dport {PORT} drop;",
}
"""What keeps a pod from answering, in the words of nftables."""
DROP_ARP = "table arp t { chain c { type filter hook input priority 0; arp operation request drop; }; }"
HTTP = {
    "200": (http_server.page(200), True),
    "302": (http_server.page(302), True),
    "404": (http_server.page(404), False),
    "500": (http_server.page(500), False),
    "slow": (http_server.page(200, delay=0.5), True),
    "large": (http_server.page(200, body=bytes(200_000)), True),
    "never": (http_server.NEVER, False),
    "half": (http_server.HALF, False),
    "half-and-silent": (http_server.HALF_AND_SILENT, False),
    "not-http": (http_server.Answer(b"SSH-2.0-OpenSSH\r\n"), False),
    "nothing": (http_server.Answer(), False),
}
"""Pod -> what its server answers, and whether that is good."""


@pytest.fixture
def node(guest: None) -> Iterator[Node]:  # noqa: ARG001 - must come first
    """Two pods; the test, and the agent that it starts, are in the node's namespace."""
    with bridged_pods(count=2) as made, made.bridge.netns.entered():
        yield made


@pytest.fixture
def pod(node: Node, manifests: Manifests) -> Pod:
    """The pod that is asked, as the agent is told of it."""
    manifests.write_pods(manifest(node.pods[0]))
    return node.pods[0]


@pytest.fixture
def every_command(manifests: Manifests) -> None:
    """Policies that ask every pod by every command, over both families; a policy is named after its command."""
    for command in COMMANDS:
        manifests.write_policy(command, [], health=check(command, *FAMILIES))


def manifest(pod: Pod, name: str = "web", **fields: Any) -> PodManifest:  # noqa: ANN401 - PodManifest has them
    """It, as the agent is told of it."""
    return PodManifest(name, pod.netns.path, **{"ips": (pod.ipv4, pod.ipv6)} | fields)


def check(command: str, *families: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - of every type
    """A health check every period."""
    port = {"port": PORT} if command == "curl" else {}
    return {"command": command, "periodSeconds": PERIOD, "ipFamilies": list(families or ["ipv4"]), **port, **fields}


@contextmanager
def dropping(pod: Pod, command: str) -> Iterator[None]:
    """Keep a pod from answering a command, over both families, for the length of a block."""
    pod.netns.run(["nft", f"table inet t {{ chain c {{ type filter hook input priority 0; {DROPS[command]} }}; }}"])
    if command == "arping":
        pod.netns.run(["nft", DROP_ARP])
    try:
        yield
    finally:
        pod.netns.run(["nft", "flush ruleset"])


def tells(agent: Agent, text: str) -> bool:
    """Whether /readyz has this text."""
    return text in agent.get("/readyz")[1]


def reaches(agent: Agent, name: str, least: float, **labels: str) -> bool:
    """Whether a metric has got so far."""
    return agent.value(name, **labels) >= least


def equal(agent: Agent, capture: Capture, command: str, family: str, at_least: int = PROBES) -> Samples:
    """A scrape between two probes, after so many of them: counted are as many as have arrived."""
    kind, labels = f"{command} {family}", {"command": command, "ipfamily": family}

    def found() -> Samples | None:
        before = capture.counts[kind]
        samples = agent.metrics()
        counted = samples.value(SUCCESSFUL, **labels) + samples.value(FAILED, **labels)
        return samples if at_least <= before == counted == capture.counts[kind] else None

    samples = wait_until(found, deadline=EFFECT + at_least * PERIOD, what=f"{kind}: counted are those that arrived")
    assert samples
    return samples


def test_counts_are_packets(node: Node, manifests: Manifests, start_agent: StartAgent) -> None:
    """One request a period, each counted once, with its duration; no BPF program for it."""
    programs = bpf.program_ids()
    manifests.write_pods(
        *(manifest(pod, name, labels={"app": name}) for pod, name in zip(node.pods, "ab", strict=True))
    )
    # The kernel looks for the neighbours of ping and curl itself.
    for command, app in (("ping", "a"), ("curl", "a"), ("arping", "b")):
        health = check(command, *FAMILIES)
        manifests.write_policy(command, [], labels={"app": app}, pod_label=["app"], health=health)
    with ExitStack() as stack:
        a, b = (stack.enter_context(captured(pod)) for pod in node.pods)
        stack.enter_context(http_server.serving(node.pods[0], PORT, http_server.page(200)))
        agent = start_agent()
        for command, capture in (("ping", a), ("curl", a), ("arping", b)):
            for family in FAMILIES:
                samples = equal(agent, capture, command, family)
                labels = {"command": command, "ipfamily": family}
                (found,) = samples.series(STATUS, **labels)
                app = "b" if command == "arping" else "a"
                assert found == labels | {"pod": f"default/{app}", "task": f"kube-system/{command}", "app": app}
                answered = samples.value(SUCCESSFUL, **labels)
                assert (samples.value(STATUS, **labels), samples.value(FAILED, **labels)) == (1, 0)
                assert samples.value(f"{DURATION}_count", **labels) == answered
                assert 0 < samples.value(f"{DURATION}_sum", **labels) < answered
        began, arrived = time.monotonic(), len(a.times)
        time.sleep(PROBES * PERIOD)
        assert 3 < (len(a.times) - arrived) * PERIOD / (time.monotonic() - began) < 5, "four checks a period"
    assert bpf.program_ids() == programs


@pytest.mark.usefixtures("every_command")
@pytest.mark.parametrize("command", COMMANDS)
def test_threshold(command: str, pod: Pod, manifests: Manifests, start_agent: StartAgent) -> None:
    """A pod that is kept from answering is unhealthy after three probes, not before, and healthy after one answer."""
    manifests.write_policy(command, [], health=check(command, *FAMILIES, failureThreshold=3))
    mine = {"command": command}
    with http_server.serving(pod, PORT, http_server.page(200)):
        agent = start_agent()
        wait_until(lambda: agent.value(STATUS) == 6, deadline=EFFECT, what="all are healthy")
        seen: dict[str, dict[float, float]] = {family: {} for family in FAMILIES}

        def fails() -> bool:
            samples = agent.metrics()
            for family, found in seen.items():
                labels = {**mine, "ipfamily": family}
                found.setdefault(samples.value(FAILED, **labels), samples.value(STATUS, **labels))
            return all(max(found) >= 4 for found in seen.values())

        with dropping(pod, command):
            wait_until(fails, deadline=EFFECT, what="four probes failed", interval=0.1)
        for found in seen.values():
            assert {n: status for n, status in found.items() if n <= 4} == {0: 1, 1: 1, 2: 1, 3: 0, 4: 0}
        wait_until(lambda: agent.value(STATUS, **mine) == 2, deadline=EFFECT, what="it answers again", interval=0.1)


@pytest.mark.usefixtures("every_command")
def test_interface_down(pod: Pod, start_agent: StartAgent) -> None:
    """The pod's own device; nothing is a problem of the agent's."""
    with http_server.serving(pod, PORT, http_server.page(200)):
        agent = start_agent()
        wait_until(lambda: agent.value(STATUS) == 6, deadline=EFFECT, what="all are healthy")
        pod.netns.run(["ip", "link", "set", pod.device, "down"])
        wait_until(lambda: agent.value(STATUS) == 0, deadline=EFFECT, what="all are down")
        assert len(agent.metrics().series(STATUS)) == 6
        assert tells(agent, '"problems": []')


@pytest.mark.usefixtures("every_command")
def test_slow_path_is_not_down(pod: Pod, start_agent: StartAgent) -> None:
    """A delay shows in the durations; the pod stays healthy."""
    with http_server.serving(pod, PORT, http_server.page(200)), links.netem(pod, delay=200):
        agent = start_agent()
        for command in COMMANDS:
            mine = {"command": command, "ipfamily": "ipv4"}
            wait_until(
                partial(reaches, agent, SUCCESSFUL, PROBES, **mine), deadline=EFFECT, what=f"{command} is answered"
            )
            samples = agent.metrics()
            assert samples.value(STATUS, **mine) == 1
            assert samples.value(FAILED, **mine) <= 1
            count = samples.value(f"{DURATION}_count", **mine)
            # ARP has no number: an answer that the kernel asked for itself may come first.
            early = 1 if command == "arping" else 0
            # curl: the answer to its SYN, and that to its request.
            assert 0.2 * (count - early) <= samples.value(f"{DURATION}_sum", **mine) < 0.8 * count
            assert samples.value(f"{DURATION}_bucket", le="0.0625", **mine) <= early
            assert samples.value(f"{DURATION}_bucket", le="1", **mine) >= samples.value(SUCCESSFUL, **mine) - 1


def test_loss(pod: Pod, manifests: Manifests, start_agent: StartAgent) -> None:
    """Of answers, half: each probe has failed or succeeded, and not both."""
    manifests.write_policy("p", [], health=check("ping", failureThreshold=1000))
    with captured(pod) as capture, links.netem(pod, loss=50):
        agent = start_agent()
        samples = equal(agent, capture, "ping", "ipv4", at_least=12)
    assert samples.value(SUCCESSFUL) > 0
    assert samples.value(FAILED) > 0


@pytest.mark.usefixtures("every_command")
def test_answer_after_the_timeout(pod: Pod, start_agent: StartAgent) -> None:
    """A probe that outlives its period has failed, and its answer is no later one's; ARP cannot tell them apart."""
    with http_server.serving(pod, PORT, http_server.page(200)), links.netem(pod, delay=1400 * PERIOD):
        agent = start_agent()
        for command in ("ping", "curl"):
            failed = partial(reaches, agent, FAILED, PROBES, command=command, ipfamily="ipv4")
            wait_until(failed, deadline=EFFECT, what=f"{command} fails")
        samples = agent.metrics()
    assert samples.value(SUCCESSFUL, command="ping") == samples.value(SUCCESSFUL, command="curl") == 0
    assert samples.value(SUCCESSFUL, command="arping", ipfamily="ipv4") > 0


def test_http(guest: None, manifests: Manifests, start_agent: StartAgent) -> None:  # noqa: ARG001 - must come first
    """Each way a server can answer, and nobody who listens; those who are slow or silent delay nobody."""
    manifests.write_policy("p", [], health=check("curl", path="/healthz?a=b"))
    with bridged_pods(count=len(HTTP) + 1) as node, ExitStack() as stack:
        stack.enter_context(node.bridge.netns.entered())
        pods = dict(zip((*HTTP, "refused"), node.pods, strict=True))
        manifests.write_pods(*(manifest(pod, name) for name, pod in pods.items()))
        requests = {
            name: stack.enter_context(http_server.serving(pods[name], PORT, answer))
            for name, (answer, _) in HTTP.items()
        }
        agent = start_agent()
        for name in pods:
            is_good = name in HTTP and HTTP[name][1]
            mine = {"pod": f"default/{name}"}
            counted, other = (SUCCESSFUL, FAILED) if is_good else (FAILED, SUCCESSFUL)
            wait_until(partial(reaches, agent, counted, 3, **mine), deadline=EFFECT, what=f"{name} was asked")
            samples = agent.metrics()
            assert samples.value(STATUS, **mine) == is_good, name
            # As above, where there is an answer.
            assert samples.value(other, **mine) <= is_good, name
        began, before = time.monotonic(), len(requests["200"])
        time.sleep(PROBES * PERIOD)
        assert 0.7 < (len(requests["200"]) - before) * PERIOD / (time.monotonic() - began) < 1.3
        host = f"{pods['200'].ipv4}:{PORT}"
        assert requests["200"][0].startswith(f"GET /healthz?a=b HTTP/1.1\r\nHost: {host}\r\n".encode())


def test_those_who_do_not_answer_delay_nobody(pod: Pod, manifests: Manifests, start_agent: StartAgent) -> None:
    """Packets to 400 addresses that nobody has wait in the kernel for ARP; the pod's own do not."""
    absent = [PodManifest(f"n{n}", pod.netns.path, ips=[f"10.9.0.{n % 200 + 50}"]) for n in range(400)]
    manifests.write_pods(manifest(pod), *absent)
    manifests.write_policy("p", [], health=check("ping"))
    with captured(pod) as capture:
        agent = start_agent()
        wait_until(lambda: agent.value(SUCCESSFUL) >= PROBES, deadline=2 * EFFECT, what="the pod answers")
        samples = agent.metrics()
        times = list(capture.times)
    assert samples.value(FAILED, pod="default/web") == 0
    assert samples.value(STATUS) == 1
    assert samples.value(SUCCESSFUL, pod="default/n1") == 0
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) < 3


def test_policy_and_pods_that_change(node: Node, manifests: Manifests, start_agent: StartAgent) -> None:
    """What does not change is not disturbed; what does begins anew; what goes is asked no more."""
    one, other = node.pods
    manifests.write_pods(manifest(one), manifest(other, "other"))
    manifests.write_policy("p", [], health=check("ping"))
    agent = start_agent()
    web, second = {"pod": "default/web"}, {"pod": "default/other"}

    def succeeds(**labels: str) -> None:
        wait_until(lambda: agent.value(SUCCESSFUL, **labels) >= 1, deadline=EFFECT, what=f"{labels} answers")

    wait_until(lambda: agent.value(SUCCESSFUL, **web) >= 4, deadline=EFFECT, what="it answers")
    kept = agent.value(SUCCESSFUL, **web)
    manifests.write_policy("q", [], health=check("ping", "ipv6"))
    succeeds(task="kube-system/q")
    manifests.write_policy("p", [], health=check("ping", "ipv4", "ipv6"))
    succeeds(task="kube-system/p", ipfamily="ipv6")
    manifests.write_pods(manifest(one))
    wait_until(lambda: not agent.metrics().series(SUCCESSFUL, **second), deadline=EFFECT, what="the other pod is gone")
    assert agent.value(SUCCESSFUL, task="kube-system/p", ipfamily="ipv4", **web) >= kept
    assert agent.value(FAILED) == 0

    manifests.remove_policy("q")
    wait_until(lambda: not agent.metrics().series(SUCCESSFUL, task="kube-system/q"), deadline=EFFECT, what="q is gone")
    manifests.write_policy("p", [], health=check("ping", failureThreshold=2))
    wait_until(lambda: agent.value(SUCCESSFUL, **web) < kept, deadline=EFFECT, what="an edited check begins anew")
    succeeds(**web)

    with captured(one) as before, captured(other) as after:
        manifests.write_pods(manifest(one, ips=(other.ipv4,)))
        wait_until(lambda: after.counts["ping ipv4"] >= 2, deadline=EFFECT, what="the new address is asked")
        asked = before.counts["ping ipv4"]
        time.sleep(PERIOD + 1)
        assert before.counts["ping ipv4"] == asked, "the old one is not"
    manifests.remove_policy("p")
    wait_until(lambda: agent.metrics().monitored() == {}, deadline=EFFECT, what="nothing is left")


def test_pod_without_an_address(pod: Pod, manifests: Manifests, start_agent: StartAgent) -> None:
    """Told, until it has one."""
    manifests.write_pods(manifest(pod, ips=()))
    manifests.write_policy("p", [], health=check("ping"))
    agent = start_agent()
    problem = "healthCheck: a pod that runs has no ipv4 address in its status.podIPs"
    wait_until(lambda: tells(agent, problem), deadline=EFFECT, what="it is told")
    assert not agent.metrics().series(SUCCESSFUL)
    manifests.write_pods(manifest(pod))
    wait_until(lambda: agent.value(STATUS) == 1, deadline=EFFECT, what="it is asked")
    assert not tells(agent, problem)


@pytest.mark.parametrize("family", FAMILIES)
def test_arping_behind_a_router(family: Family, node: Node, manifests: Manifests, start_agent: StartAgent) -> None:
    """Named once for all pods, not counted as failed, and others are not disturbed; on the link again, it works."""
    one, other = node.pods
    far, length = {"ipv4": ("10.10.0.7", 32), "ipv6": ("fd10::7", 128)}[family]
    with node.bridge.netns.routes() as routes:
        routes.route("add", dst=f"{far}/{length}", gateway=other.address(family))
    manifests.write_pods(manifest(one), *(manifest(one, f"far{n}", ips=(far,)) for n in range(3)))
    manifests.write_policy("p", [], health=check("arping", family))
    agent = start_agent()
    problem = (
        f"healthCheck: arping cannot work: the route is by {other.address(family)} on br0, and neither ARP nor "
        "neighbour discovery passes a router; use ping"
    )
    wait_until(lambda: tells(agent, problem), deadline=EFFECT, what="it is told")
    wait_until(lambda: tells(agent, "(pod default/far0 and 2 more)"), deadline=EFFECT, what="of all three")
    wait_until(lambda: reaches(agent, SUCCESSFUL, 2, pod="default/web"), deadline=EFFECT, what="the near pod answers")
    samples = agent.metrics()
    assert samples.value(FAILED) == 0
    assert [one["pod"] for one in samples.series(STATUS)] == ["default/web"]
    assert agent.log.count("arping cannot work") == 1
    other.netns.run(["ip", "address", "add", f"{far}/{length}", "dev", other.device])
    with node.bridge.netns.routes() as routes:
        (index,) = routes.link_lookup(ifname="br0")
        routes.route("del", dst=f"{far}/{length}")
        routes.route("add", dst=f"{far}/{length}", oif=index)
    wait_until(lambda: agent.value(STATUS, pod="default/far1") == 1, deadline=EFFECT, what="it is on the link now")
    wait_until(lambda: not tells(agent, problem), deadline=EFFECT, what="it is told no more")


def only(*capabilities: str) -> Sequence[str]:
    """The command of the agent with these capabilities alone."""
    allowed = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return ("setpriv", f"--bounding-set={allowed}", f"--inh-caps={allowed}", str(COMMAND))


def test_net_raw_is_enough(pod: Pod, manifests: Manifests, tmp_path: Path) -> None:
    """For all commands; who asks for items as well is told why there are none, and loses nothing by it."""
    manifests.write_pods(manifest(pod))
    for command in COMMANDS:
        manifests.write_policy(command, [], health=check(command, *FAMILIES))
    with ExitStack() as stack:
        stack.enter_context(http_server.serving(pod, PORT, http_server.page(200)))
        agent = stack.enter_context(running(manifests, tmp_path, program=only("net_raw")))
        agent.wait_ready()
        wait_until(lambda: agent.value(STATUS) == 6, deadline=EFFECT, what="all are healthy")
        assert tells(agent, '"problems": []')
        manifests.write_policy("items", ["ipReceive"])
        wait_until(lambda: tells(agent, "missing CAP_BPF"), deadline=EFFECT, what="it is told")
        before = agent.value(SUCCESSFUL)
        wait_until(lambda: agent.value(SUCCESSFUL) > before + 6, deadline=EFFECT, what="checks go on")
        assert agent.value(FAILED) == 0


def test_net_raw_that_is_missing(pod: Pod, manifests: Manifests, tmp_path: Path) -> None:
    """Named once for each command that needs it; curl and the counters work."""
    manifests.write_pods(manifest(pod))
    for command in COMMANDS:
        manifests.write_policy(command, ["ipReceive"], health=check(command))
    with ExitStack() as stack:
        stack.enter_context(http_server.serving(pod, PORT, http_server.page(200)))
        agent = stack.enter_context(running(manifests, tmp_path, program=only("bpf", "perfmon")))
        agent.wait_ready()
        for command in ("ping", "arping"):
            problem = f"healthCheck: {command} needs the capability NET_RAW"
            wait_until(partial(tells, agent, problem), deadline=EFFECT, what=f"{command} is told")
        wait_until(lambda: agent.value(STATUS, command="curl") == 1, deadline=EFFECT, what="curl works")
        assert [one["command"] for one in agent.metrics().series(STATUS)] == ["curl"]
        # The counters of a reading are a little older than its probes.
        received = "dolphin_ip_receive_packets_total"
        wait_until(lambda: agent.value(received) > 0, deadline=EFFECT, what="curl's packets are counted")
        assert agent.log.count("needs the capability NET_RAW") == 2
