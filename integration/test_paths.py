"""Packets that take unusual paths: merged in other ways than TCP's, forwarded, tagged, fragmented, to many, to oneself.

Where packets stay merged the kernel at the sending end counts each merged one once. The judge is then the other end,
which nothing is lost to: what a pod sends is what the other receives, packets and bytes.
"""

from __future__ import annotations

import platform
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.items import ITEMS, Counter
from integration import scenarios
from integration.lib import counters, links, packets, sctp, tap, traffic, udp
from integration.lib.agent import running
from integration.lib.counters import FAMILIES, Family
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.stacked import KINDS, stacked
from integration.lib.topology import Pair, Pod, forwards, joined_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from integration.conftest import StartAgent
    from integration.lib.agent import Agent, Samples
    from integration.lib.counters import Counters
    from integration.lib.netns import Netns

PRIME = 23
LONG = 4000
"""Bytes of payload that take three packets."""
SIZE = 1_000_000
ALL = [item.name for item in ITEMS if any(isinstance(one, Counter) for one in item.metrics.get(Granularity.POD, ()))]
"""What counts packets, and no events."""
FLOW_ITEMS = ("ipReceive", "ipSend", "udpReceive", "udpSend")
POLICY = "paths"
PORTS = {"pod": 10011, "flow": 10012}
"""Beside those of the agents in conftest.py."""
_SETTLED = 180
"""Seconds, for emulation on a busy machine."""
BIG_TCP_SINCE = (5, 19)
SCTP_OFFLOAD = "tx-sctp-segmentation"
UDP_HEADERS: dict[Family, int] = {"ipv4": 20 + 8, "ipv6": 40 + 8}

SENT = "dolphin_ip_send_packets_total"
SENT_BYTES = "dolphin_ip_send_bytes_total"
RECEIVED = "dolphin_ip_receive_packets_total"
RECEIVED_BYTES = "dolphin_ip_receive_bytes_total"
TCP_SENT = "dolphin_tcp_send_packets_total"
TCP_RECEIVED = "dolphin_tcp_receive_packets_total"
UDP_SENT = "dolphin_udp_send_packets_total"
UDP_SENT_BYTES = "dolphin_udp_send_bytes_total"
UDP_RECEIVED = "dolphin_udp_receive_packets_total"
UDP_RECEIVED_BYTES = "dolphin_udp_receive_bytes_total"


@dataclass(frozen=True)
class Outcome:
    """What one pod did meanwhile, by the kernel and by the agent."""

    pod: str
    """The label `pod`."""
    kernel: Counters
    before: Samples
    after: Samples

    def agent(self, metric: str, **labels: str) -> int:
        """The increase of the agent's number."""
        labels["pod"] = self.pod
        return int(self.after.value(metric, **labels) - self.before.value(metric, **labels))


@dataclass(frozen=True)
class Watch:
    """An agent and the namespaces that it watches as pods of the same names."""

    agent: Agent
    netns: Mapping[str, Netns]

    def measured(self, made: Callable[[], object]) -> dict[str, Outcome]:
        """Make traffic, and return what each pod did meanwhile."""
        before, kernel_before = self.agent.settled(self._judge, deadline=_SETTLED)
        made()
        after, kernel_after = self.agent.settled(self._judge, deadline=_SETTLED)
        return {
            name: Outcome(f"default/{name}", kernel_after[name] - kernel_before[name], before, after)
            for name in self.netns
        }

    def _judge(self) -> dict[str, Counters]:
        return {name: counters.read(netns) for name, netns in self.netns.items()}


class StartWatch(Protocol):
    """Starts an agent that counts every item of some namespaces, or their IP and UDP traffic by flow."""

    def __call__(self, netns: Mapping[str, Netns], granularity: str = "pod") -> Watch: ...


@pytest.fixture
def watch(start_agent: StartAgent, manifests: Manifests) -> StartWatch:
    """An agent is started once the test knows its pods."""

    def start(netns: Mapping[str, Netns], granularity: str = "pod") -> Watch:
        write(manifests, netns, granularity)
        return Watch(start_agent(), netns)

    return start


@pytest.fixture(scope="module")
def plain(guest: None) -> Iterator[Pair]:  # noqa: ARG001 - must come first
    """Two pods that the tests share; each leaves them as they were."""
    with joined_pair("paths") as made:
        yield made


@pytest.fixture(scope="module")
def pair(plain: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """Both are watched, as a and b; starting agents would take most of the time."""
    yield from watched(plain, "pod", tmp_path_factory.mktemp("paths"))


def watched(plain: Pair, granularity: str, root: Path) -> Iterator[Watch]:
    """An agent for the shared pods."""
    manifests = Manifests(root)
    write(manifests, ends(plain), granularity)
    with running(manifests, root, port=PORTS[granularity]) as agent:
        agent.wait_ready()
        yield Watch(agent, ends(plain))


def write(manifests: Manifests, netns: Mapping[str, Netns], granularity: str) -> None:
    """One policy for all pods."""
    items = ALL if granularity == "pod" else FLOW_ITEMS
    manifests.write_policy(POLICY, items, granularity=granularity)
    manifests.write_pods(*(PodManifest(name, one.path) for name, one in netns.items()))


def ends(pair: Pair) -> dict[str, Netns]:
    """Both pods by name."""
    return {"a": pair.a.netns, "b": pair.b.netns}


def sent(result: Outcome) -> dict[Family, tuple[int, int]]:
    """By the agent: packets and bytes."""
    return {one: (result.agent(SENT, ipfamily=one), result.agent(SENT_BYTES, ipfamily=one)) for one in FAMILIES}


def received(result: Outcome) -> dict[Family, tuple[int, int]]:
    """By the agent: packets and bytes."""
    return {one: (result.agent(RECEIVED, ipfamily=one), result.agent(RECEIVED_BYTES, ipfamily=one)) for one in FAMILIES}


def udp_sent(result: Outcome) -> dict[Family, tuple[int, int]]:
    """By the agent: datagrams and payload."""
    return {one: (result.agent(UDP_SENT, ipfamily=one), result.agent(UDP_SENT_BYTES, ipfamily=one)) for one in FAMILIES}


def udp_received(result: Outcome) -> dict[Family, tuple[int, int]]:
    """By the agent: datagrams and payload."""
    return {
        one: (result.agent(UDP_RECEIVED, ipfamily=one), result.agent(UDP_RECEIVED_BYTES, ipfamily=one))
        for one in FAMILIES
    }


def received_packets(result: Outcome) -> dict[Family, int]:
    """By the agent."""
    return {family: packets_of for family, (packets_of, _) in received(result).items()}


def sent_packets(result: Outcome) -> dict[Family, int]:
    """By the agent."""
    return {family: packets_of for family, (packets_of, _) in sent(result).items()}


def kernel_received(result: Outcome) -> dict[Family, int]:
    """By the kernel, merged packets as those they stand for."""
    return {family: result.kernel.ip_receive_packets(family) for family in FAMILIES}


def kernel_received_bytes(result: Outcome) -> dict[Family, tuple[int, int]]:
    """Packets and bytes by the kernel, where nothing is merged."""
    return {one: (result.kernel.ip_receive_packets(one), result.kernel.ip_receive_bytes(one)) for one in FAMILIES}


def kernel_sent(result: Outcome) -> dict[Family, int]:
    """By the kernel, where nothing is merged."""
    return {family: result.kernel.ip_send_packets(family) for family in FAMILIES}


def assert_exchanged(a: Outcome, b: Outcome) -> None:
    """Each received what the other sent, of IP and of UDP, and received packets are the kernel's."""
    for sender, receiver in ((a, b), (b, a)):
        assert sent(sender) == received(receiver)
        assert udp_sent(sender) == udp_received(receiver)
        assert received_packets(receiver) == kernel_received(receiver)


def assert_unmerged(*results: Outcome) -> None:
    """Packets and datagrams both ways and bytes received are the kernel's."""
    for result in results:
        assert received(result) == kernel_received_bytes(result)
        assert sent_packets(result) == kernel_sent(result)
        for family in FAMILIES:
            assert udp_received(result)[family][0] == result.kernel.udp_receive_datagrams(family)
            assert udp_sent(result)[family][0] == result.kernel.udp_send_datagrams(family)


def assert_tcp(*results: Outcome) -> None:
    """Retransmissions and new connections are the kernel's."""
    for result in results:
        found = (
            result.agent("dolphin_tcp_retransmits_total"),
            result.agent("dolphin_tcp_new_connections_total", direction="outbound"),
            result.agent("dolphin_tcp_new_connections_total", direction="inbound"),
        )
        assert found == (result.kernel.retrans_segs, result.kernel.active_opens, result.kernel.passive_opens)


def everything(pair: Pair) -> None:
    """TCP in bulk, short and refused connections, datagrams and pings, some of them fragmented."""
    for family in FAMILIES:
        traffic.iperf3(pair.a, pair.b, family, size=SIZE)
    scenarios.short_connections(pair)
    scenarios.udp_fragments(pair)
    scenarios.pings(pair)


def connecting(pair: Pair) -> None:
    """TCP alone, whose lost segments are sent again."""
    for family in FAMILIES:
        traffic.iperf3(pair.a, pair.b, family, size=2 * SIZE)
        traffic.connections(pair.a, pair.b, family, count=PRIME)


# ---- UDP segmentation offload

UDP_SENDS = ((14_000, 1_400), (14_000, 1_200), (60, 20))
"""Bytes handed over, and bytes of each datagram; the last one may be shorter."""


@pytest.mark.parametrize("path", ["kept", "split", "split_merged"])
def test_udp_segmentation(pair: Watch, plain: Pair, path: str) -> None:
    """Datagrams handed over at once: kept merged to the other end, split by the sender's device, or merged again.

    5.10's veth cannot keep them merged: there the first case is the second.
    """

    def made() -> None:
        for family in FAMILIES:
            for size, segment in UDP_SENDS:
                for merge in (False, True):
                    bytes_read = udp.segmented(
                        plain.a, plain.b, family, count=PRIME, size=size, segment=segment, merge=merge
                    )
                    assert bytes_read == PRIME * size

    with (
        nullcontext() if path == "kept" else links.feature(plain.a, name="tx-udp-segmentation", on=False),
        links.offloads(plain.b, tso=True, gso=True, gro=path == "split_merged"),
    ):
        result = pair.measured(made)
    a, b = result["a"], result["b"]
    assert_exchanged(a, b)
    segments = 2 * PRIME * sum(-(-size // segment) for size, segment in UDP_SENDS)
    payload = 2 * PRIME * sum(size for size, _ in UDP_SENDS)
    assert sent(a) == {family: (segments, payload + segments * UDP_HEADERS[family]) for family in FAMILIES}
    assert udp_sent(a) == dict.fromkeys(FAMILIES, (segments, payload))
    # Else nothing was merged, and nothing shown.
    assert kernel_sent(a) == dict.fromkeys(FAMILIES, 2 * PRIME * len(UDP_SENDS))


# ---- BIG TCP


def kernel_release() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = platform.release().split("-")[0].split(".")[:2]
    return int(major), int(minor)


def test_big_tcp(pair: Watch, plain: Pair) -> None:
    """IPv6 packets of up to 180,000 bytes; before 6.18 with a hop-by-hop header that never reaches the wire.

    Kernels before 5.19 refuse such sizes; TCP is then merged up to 64 KB.
    """
    has = kernel_release() >= BIG_TCP_SINCE
    refusal = nullcontext() if has else pytest.raises(AssertionError, match="Invalid argument")

    def made() -> None:
        traffic.iperf3(plain.a, plain.b, "ipv6", size=10 * SIZE)
        traffic.iperf3(plain.a, plain.b, "ipv6", "--reverse", size=10 * SIZE)
        traffic.iperf3(plain.a, plain.b, "ipv4", size=SIZE)

    with ExitStack() as stack:
        with refusal:
            stack.enter_context(links.big_tcp(plain.a, plain.b))
        seen = stack.enter_context(packets.watched(plain.a))
        result = pair.measured(made)
    assert_exchanged(result["a"], result["b"])
    assert_tcp(result["a"], result["b"])
    assert (seen.longest > 2**16 + 100) == has


# ---- Packets from virtual machines

FROM_GUEST = ((20, 14_000, 10), (30, 5_000, 4))
"""Packets, bytes of payload of each, and how many of 1,400 bytes that makes."""
SEGMENT = 1_400


def from_guest(guest: tap.Guest, family: Family, to: str, *, partial: bool) -> None:
    """50 packets that stand for 320."""
    for count, size, _ in FROM_GUEST:
        for _ in range(count):
            guest.send(family, to, size=size, segment=SEGMENT, partial=partial)


def guest_wire(family: Family) -> tuple[int, int]:
    """Packets and bytes that they stand for."""
    number = sum(count * segments for count, _, segments in FROM_GUEST)
    payload = sum(count * size for count, size, _ in FROM_GUEST)
    assert number == 320
    return number, payload + number * tap.HEADERS[family]


@pytest.mark.parametrize("partial", [True, False])
def test_from_a_virtual_machine(pair: Watch, plain: Pair, partial: bool) -> None:  # noqa: FBT001 - a parameter
    """A pod receives 50 merged packets that do not say that they are 320: the agent's number is the wire's.

    Here it differs from In*Pkts, on purpose: the kernel adds max(1, gso_segs), which is 1 for these.
    """
    with tap.guest(plain.a.netns) as guest:

        def made() -> None:
            for family in FAMILIES:
                from_guest(guest, family, tap.HOST[family], partial=partial)

        a = pair.measured(made)["a"]
    assert received(a) == {family: guest_wire(family) for family in FAMILIES}
    assert kernel_received(a) == dict.fromkeys(FAMILIES, 50)
    # Each one that TCP accepts is answered by a RST.
    answers = 50 if partial else 0
    assert sent_packets(a) == kernel_sent(a) == dict.fromkeys(FAMILIES, answers)


def test_from_a_virtual_machine_to_another_pod(pair: Watch, plain: Pair) -> None:
    """Forwarded, such packets are sent as 320 as well; the sender's device counts them, so the other end is told."""
    with forwards(plain.a.netns), tap.guest(plain.a.netns) as guest:

        def made() -> None:
            for family in FAMILIES:
                from_guest(guest, family, plain.b.address(family), partial=True)

        result = pair.measured(made)
    a, b = result["a"], result["b"]
    expected = {family: guest_wire(family) for family in FAMILIES}
    assert (received(a), sent(a), received(b)) == (expected, expected, expected)
    assert kernel_received(a) == dict.fromkeys(FAMILIES, 50)
    assert kernel_received(b) == received_packets(b)


# ---- A pod that forwards


@pytest.fixture
def forwarding(watch: StartWatch, routed_pods: Pair) -> Watch:
    """The router is watched as a pod, and so are those it serves."""
    assert routed_pods.router is not None
    return watch({**ends(routed_pods), "router": routed_pods.router})


def router_ends(pair: Pair) -> tuple[Pod, Pod]:
    """Both devices of the router, each as the pod that `links` takes."""
    assert pair.router is not None
    return Pod(pair.router, "to-a", "10.8.1.1", "fd08:1::1"), Pod(pair.router, "to-b", "10.8.2.1", "fd08:2::1")


def passed_on(a: Outcome, b: Outcome) -> dict[Family, tuple[int, int]]:
    """Packets and bytes that both ends received together."""
    ours, theirs = received(a), received(b)
    return {family: (ours[family][0] + theirs[family][0], ours[family][1] + theirs[family][1]) for family in FAMILIES}


@pytest.mark.parametrize("mode", scenarios.MODES)
def test_forwarded(forwarding: Watch, routed_pods: Pair, mode: str) -> None:
    """A router receives and sends each packet once; its bytes sent are those that arrive at both ends.

    OutOctets is no judge of bytes: kernels without OutTransmits count what they forward twice for IPv4.
    """
    inner = Pair(*router_ends(routed_pods))
    with scenarios.mode(mode, routed_pods), scenarios.mode(mode, inner):
        result = forwarding.measured(lambda: everything(routed_pods))
    a, b, router = result["a"], result["b"], result["router"]
    assert received_packets(router) == kernel_received(router)
    assert sent(router) == passed_on(a, b) == received(router)
    for end in (a, b):
        assert received_packets(end) == kernel_received(end)
    if mode == "unmerged":
        assert_unmerged(a, b)
        assert received(router) == kernel_received_bytes(router)
        assert sent_packets(router) == kernel_sent(router)


@pytest.mark.parametrize("metric", [TCP_RECEIVED, TCP_SENT])
def test_forwarded_tcp_is_not_the_routers(forwarding: Watch, routed_pods: Pair, metric: str) -> None:
    """A router's TCP neither receives nor sends what it forwards: 0, as InSegs and OutSegs."""
    result = forwarding.measured(lambda: scenarios.bulk_ipv4(routed_pods))
    result |= {f"{name}6": one for name, one in forwarding.measured(lambda: scenarios.bulk_ipv6(routed_pods)).items()}
    for name in ("router", "router6"):
        router = result[name]
        assert router.after.series(metric, pod=router.pod)
        assert (router.kernel.in_segs, router.kernel.out_segs) == (0, 0)
        assert router.agent(metric) == 0
        assert sum(sent_packets(router).values()) > 0
    for name in ("a", "b", "a6", "b6"):
        assert result[name].agent(metric) > 0


def test_forwarded_udp_is_not_the_routers(forwarding: Watch, routed_pods: Pair) -> None:
    """Nor does its UDP have to do with what it forwards, fragments included; a datagram of its own is."""
    router, _ = router_ends(routed_pods)

    def made() -> None:
        for family in FAMILIES:
            udp.segmented(
                routed_pods.a, routed_pods.b, family, count=PRIME, size=14_000, segment=1_400, merge=True, port=7100
            )
            for size in (300, LONG):
                assert traffic.datagrams(routed_pods.a, routed_pods.b, family, count=PRIME, size=size) == PRIME
            packets.udp(routed_pods.a, router, family, ports=[(5000, 7000)])

    result = forwarding.measured(made)
    expected = dict.fromkeys(FAMILIES, (12 * PRIME, PRIME * (14_000 + 300 + LONG)))
    own = dict.fromkeys(FAMILIES, (1, 0))
    assert (udp_received(result["router"]), udp_sent(result["router"])) == (own, dict.fromkeys(FAMILIES, (0, 0)))
    assert udp_received(result["b"]) == expected
    assert udp_sent(result["a"]) == {family: (number + 1, octets) for family, (number, octets) in expected.items()}


def test_fragmented_by_a_router(forwarding: Watch, routed_pods: Pair) -> None:
    """A router splits IPv4 packets that are too long for the next device: each fragment is sent, none received."""
    with links.mtu(router_ends(routed_pods)[1], 1300):
        result = forwarding.measured(
            lambda: traffic.datagrams(routed_pods.a, routed_pods.b, "ipv4", count=PRIME, size=LONG)
        )
    a, b, router = result["a"], result["b"], result["router"]
    assert sent_packets(a)["ipv4"] == received_packets(router)["ipv4"] == 3 * PRIME
    # The first two of three are over 1,300 bytes.
    assert sent_packets(router)["ipv4"] == received_packets(b)["ipv4"] == 5 * PRIME
    assert_unmerged(a, b)
    assert received(router) == kernel_received_bytes(router)
    assert sent_packets(router) == kernel_sent(router)
    assert sent(router) == received(b)


# ---- Devices on top of devices


@pytest.mark.parametrize("mode", scenarios.MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_stacked(watch: StartWatch, pods: Pair, kind: str, mode: str) -> None:
    """What passes two devices of a pod, one on top of the other, is one packet."""
    upper = stacked(kind, pods)
    watching = watch(ends(pods))
    with scenarios.mode(mode, pods), scenarios.mode(mode, upper):
        result = watching.measured(lambda: everything(upper))
    a, b = result["a"], result["b"]
    assert_exchanged(a, b)
    assert_tcp(a, b)
    if mode == "unmerged":
        assert_unmerged(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_and_lossy(watch: StartWatch, pods: Pair, kind: str) -> None:
    """Lost by the lower device, and sent again through both: retransmissions are counted once as well."""
    upper = stacked(kind, pods)
    watching = watch(ends(pods))
    with (
        scenarios.mode("unmerged", pods),
        scenarios.mode("unmerged", upper),
        links.netem(pods.a, loss=scenarios.LOSS),
        links.netem(pods.b, loss=scenarios.LOSS),
    ):
        result = watching.measured(lambda: connecting(upper))
    a, b = result["a"], result["b"]
    assert_unmerged(a, b)
    assert_tcp(a, b)
    assert a.kernel.retrans_segs > 0


# ---- Fragments, extension headers, other protocols


@pytest.mark.parametrize("mode", scenarios.MODES)
def test_fragments(pair: Watch, plain: Pair, mode: str) -> None:
    """Datagrams and echo requests of three packets each."""

    def made() -> None:
        for family in FAMILIES:
            assert traffic.datagrams(plain.a, plain.b, family, count=PRIME, size=LONG) == PRIME
            assert traffic.ping(plain.a, plain.b, family, count=PRIME, size=LONG) == PRIME

    with scenarios.mode(mode, plain):
        result = pair.measured(made)
    a, b = result["a"], result["b"]
    assert_exchanged(a, b)
    assert_unmerged(a, b)
    assert sent_packets(a) == dict.fromkeys(FAMILIES, 6 * PRIME)
    assert udp_sent(a) == dict.fromkeys(FAMILIES, (PRIME, PRIME * LONG))


def test_extension_headers(pair: Watch, plain: Pair) -> None:
    """A hop-by-hop and a destination options header are bytes of the packet, and of each fragment the first is.

    They are no payload of UDP. Of a datagram in fragments, the later ones may not say that it is UDP's.
    """

    def made() -> None:
        assert udp.behind_extension_headers(plain.a, plain.b, count=PRIME, size=300) == PRIME
        assert udp.behind_extension_headers(plain.a, plain.b, count=PRIME, size=LONG) == PRIME

    result = pair.measured(made)
    a, b = result["a"], result["b"]
    assert_exchanged(a, b)
    assert_unmerged(a, b)
    assert sent_packets(a)["ipv6"] == (1 + 3) * PRIME
    number, octets = udp_sent(a)["ipv6"]
    assert number == 2 * PRIME
    assert PRIME * 300 < octets <= PRIME * (300 + LONG)
    assert udp_received(b)["ipv6"] == (number, octets)


@pytest.mark.parametrize("mode", scenarios.MODES)
def test_sctp(pair: Watch, plain: Pair, mode: str) -> None:
    """An association, whose packets the kernel merges by a way of their own (GSO_BY_FRAGS)."""

    def made() -> None:
        for family in FAMILIES:
            assert sctp.transfer(plain.a, plain.b, family, size=SIZE) == SIZE
            packets.sctp(plain.a, plain.b, family, count=PRIME, port=5000, source_port=6000)

    with links.feature(plain.a, plain.b, name=SCTP_OFFLOAD, on=mode == "merged"), scenarios.mode(mode, plain):
        result = pair.measured(made)
    a, b = result["a"], result["b"]
    assert_exchanged(a, b)
    assert all(one > SIZE / 1500 for one in sent_packets(a).values())
    if mode == "unmerged":
        assert_unmerged(a, b)
    else:
        assert all(kernel_sent(a)[family] < sent_packets(a)[family] for family in FAMILIES)


def test_to_nobody(pair: Watch, plain: Pair) -> None:
    """Datagrams without a socket at either end, and what little answers them."""

    def made() -> None:
        for family in FAMILIES:
            packets.udp(plain.a, plain.b, family, ports=[(5000, 7000 + one) for one in range(1000)])

    result = pair.measured(made)
    a, b = result["a"], result["b"]
    assert_exchanged(a, b)
    assert_unmerged(a, b)
    assert all(one >= 1000 for one in sent_packets(a).values())


# ---- To many


def test_multicast(pair: Watch, plain: Pair) -> None:
    """To a group that the sender is in as well: what it gets back is received, and was sent once."""
    arrived: list[list[int]] = []

    def made() -> None:
        for family in FAMILIES:
            for size in (300, LONG):
                arrived.append(udp.multicast(plain.a, (plain.a, plain.b), family, count=PRIME, size=size))
                arrived.append(udp.multicast(plain.a, (plain.b,), family, count=PRIME, size=size))

    result = pair.measured(made)
    assert arrived == [[PRIME] * 2, [PRIME]] * 4
    assert_unmerged(result["a"], result["b"])
    for family in FAMILIES:
        assert sent_packets(result["a"])[family] >= 2 * (1 + 3) * PRIME


@pytest.mark.parametrize("address", ["10.8.0.255", "255.255.255.255"])
def test_broadcast(pair: Watch, plain: Pair, address: str) -> None:
    """To everybody in a network, the sender too; IPv6 has no broadcast."""

    def made() -> None:
        for size in (300, LONG):
            arrived = udp.broadcast(plain.a, (plain.a, plain.b), address, count=PRIME, size=size)
            assert arrived == [PRIME] * 2

    result = pair.measured(made)
    a, b = result["a"], result["b"]
    assert_unmerged(a, b)
    assert received_packets(b)["ipv4"] == sent_packets(a)["ipv4"]
    assert received_packets(a)["ipv4"] >= PRIME


# ---- To oneself


@pytest.mark.parametrize("mtu", [65536, 1500])
@pytest.mark.parametrize("own", [False, True])
def test_loopback(pair: Watch, plain: Pair, mtu: int, own: bool) -> None:  # noqa: FBT001 - a parameter
    """A pod that talks to itself, by the loopback address or its own: each packet is sent and received.

    With the loopback device's own MTU a packet of 64 KB is one; with 1,500 it stands for many.
    """
    loop = Pod(plain.a.netns, "lo", *((plain.a.ipv4, plain.a.ipv6) if own else ("127.0.0.1", "::1")))
    with links.mtu(loop, mtu):
        result = pair.measured(lambda: everything(Pair(loop, loop)))
    a, b = result["a"], result["b"]
    assert_exchanged(a, a)
    assert_tcp(a)
    assert sent(b) == received(b) == dict.fromkeys(FAMILIES, (0, 0))
    if mtu == 1500:
        assert all(kernel_sent(a)[family] < sent_packets(a)[family] / 2 for family in FAMILIES)


def test_loopback_unmerged(pair: Watch, plain: Pair) -> None:
    """The same without merging: bytes and packets sent are the kernel's."""
    loop = Pod(plain.a.netns, "lo", "127.0.0.1", "::1")
    with links.mtu(loop, 1500), links.unmerged(loop):
        a = pair.measured(lambda: everything(Pair(loop, loop)))["a"]
    assert_exchanged(a, a)
    assert_unmerged(a)


# ---- The same at flow granularity

FIVE = ("srcip", "dstip", "srcport", "dstport", "protocol")
FLOWS_SENT = "dolphin_flow_ip_send_packets_total"
FLOWS_SENT_BYTES = "dolphin_flow_ip_send_bytes_total"
FLOWS_RECEIVED = "dolphin_flow_ip_receive_packets_total"
FLOWS_RECEIVED_BYTES = "dolphin_flow_ip_receive_bytes_total"
UDP_FLOWS_SENT = "dolphin_flow_udp_send_packets_total"
UDP_FLOWS_SENT_BYTES = "dolphin_flow_udp_send_bytes_total"
UDP_FLOWS_RECEIVED = "dolphin_flow_udp_receive_packets_total"
UDP_FLOWS_RECEIVED_BYTES = "dolphin_flow_udp_receive_bytes_total"
OTHER = ("other",) * len(FIVE)
EPHEMERAL = "ephemeral"
ICMP: dict[Family, str] = {"ipv4": "icmp", "ipv6": "icmpv6"}

Flows = dict[tuple[str, ...], int]


def flows(result: Outcome, metric: str, family: Family) -> Flows:
    """The increase of each series that moved, by the labels in FIVE; every series of the pod has a key of its own."""
    labels = {"pod": result.pod, "task": f"kube-system/{POLICY}", "ipfamily": family}
    before, after = (samples.keyed(metric, FIVE, **labels) for samples in (result.before, result.after))
    moved = {key: int(value - before.get(key, 0)) for key, value in after.items()}
    return {key: value for key, value in moved.items() if value}


def total(result: Outcome, metric: str) -> dict[Family, int]:
    """All flows together, what is not kept in detail included."""
    return {family: sum(flows(result, metric, family).values()) for family in FAMILIES}


def turned(flow: tuple[str, ...]) -> tuple[str, ...]:
    """The flow of the answers."""
    source, destination, source_port, port, protocol = flow
    return destination, source, port, source_port, protocol


class TestFlows:
    """Every packet of a pod is in one flow, named by its own headers; together they are the pod's total."""

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, plain: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
        """The shared pods, by flow."""
        yield from watched(plain, "flow", tmp_path_factory.mktemp("paths-flows"))

    @staticmethod
    def assert_complete(*results: Outcome) -> None:
        """Flows add up to what the kernel counts, where nothing is merged."""
        for result in results:
            assert total(result, FLOWS_RECEIVED) == kernel_received(result)
            octets = {family: result.kernel.ip_receive_bytes(family) for family in FAMILIES}
            assert total(result, FLOWS_RECEIVED_BYTES) == octets
            assert total(result, FLOWS_SENT) == kernel_sent(result)
            for family in FAMILIES:
                assert total(result, UDP_FLOWS_RECEIVED)[family] == result.kernel.udp_receive_datagrams(family)
                assert total(result, UDP_FLOWS_SENT)[family] == result.kernel.udp_send_datagrams(family)

    def assert_one_way(self, result: Mapping[str, Outcome], expected: Mapping[Family, Flows]) -> None:
        """These flows went from a to b, and nothing came back."""
        a, b = result["a"], result["b"]
        assert {family: flows(a, FLOWS_SENT, family) for family in FAMILIES} == expected
        assert {family: flows(b, FLOWS_RECEIVED, family) for family in FAMILIES} == expected
        assert total(a, FLOWS_SENT_BYTES) == total(b, FLOWS_RECEIVED_BYTES)
        assert total(a, FLOWS_RECEIVED) == total(b, FLOWS_SENT) == dict.fromkeys(FAMILIES, 0)
        self.assert_complete(a, b)

    @pytest.mark.parametrize(
        ("ports", "shown"),
        [
            ((5000, 7000), ("5000", "7000")),
            ((40_000, 7000), (EPHEMERAL, "7000")),
            ((5000, 40_000), ("5000", EPHEMERAL)),
            ((40_000, 50_000), ("40000", EPHEMERAL)),
            ((32_767, 32_766), ("32767", "32766")),
            ((32_768, 32_767), (EPHEMERAL, "32767")),
        ],
    )
    def test_udp_ports(self, pair: Watch, plain: Pair, ports: tuple[int, int], shown: tuple[str, str]) -> None:
        """The higher port is folded if it is 32768 or more; ports are none on fragments but the first."""

        def made() -> None:
            for family in FAMILIES:
                for size in (300, LONG):
                    arrived = traffic.datagrams(
                        plain.a, plain.b, family, count=PRIME, size=size, port=ports[1], source_port=ports[0]
                    )
                    assert arrived == PRIME

        expected: dict[Family, Flows] = {}
        for family in FAMILIES:
            addresses = (plain.a.address(family), plain.b.address(family))
            expected[family] = {(*addresses, *shown, "udp"): 2 * PRIME, (*addresses, "0", "0", "udp"): 2 * PRIME}
        result = pair.measured(made)
        self.assert_one_way(result, expected)
        a, b = result["a"], result["b"]
        for family, found in expected.items():
            named, later = found
            assert flows(a, UDP_FLOWS_SENT, family) == {named: 2 * PRIME} == flows(b, UDP_FLOWS_RECEIVED, family)
            octets = flows(a, UDP_FLOWS_SENT_BYTES, family)
            assert octets == flows(b, UDP_FLOWS_RECEIVED_BYTES, family)
            assert set(octets) == {named, later}
            assert sum(octets.values()) == PRIME * (300 + LONG)

    def test_udp_segmentation(self, pair: Watch, plain: Pair) -> None:
        """A merged packet is as many packets of its flow as it stands for."""

        def made() -> None:
            for family in FAMILIES:
                udp.segmented(plain.a, plain.b, family, count=PRIME, size=14_000, segment=1_400, merge=True)

        result = pair.measured(made)
        for family in FAMILIES:
            expected = {(plain.a.address(family), plain.b.address(family), EPHEMERAL, "7100", "udp"): 10 * PRIME}
            assert flows(result["a"], FLOWS_SENT, family) == flows(result["b"], FLOWS_RECEIVED, family) == expected
            for metric, end in ((UDP_FLOWS_SENT, "a"), (UDP_FLOWS_RECEIVED, "b")):
                assert flows(result[end], metric, family) == expected

    def test_icmp(self, pair: Watch, plain: Pair) -> None:
        """ICMP has no ports; requests and answers are two flows, fragments among them."""

        def made() -> None:
            for family in FAMILIES:
                for size in (56, LONG):
                    assert traffic.ping(plain.a, plain.b, family, count=PRIME, size=size) == PRIME

        result = pair.measured(made)
        a, b = result["a"], result["b"]
        for family in FAMILIES:
            asked = (plain.a.address(family), plain.b.address(family), "0", "0", ICMP[family])
            number = (1 + 3) * PRIME
            assert flows(a, FLOWS_SENT, family) == flows(b, FLOWS_RECEIVED, family) == {asked: number}
            assert flows(b, FLOWS_SENT, family) == flows(a, FLOWS_RECEIVED, family) == {turned(asked): number}
        self.assert_complete(a, b)

    def test_extension_headers(self, pair: Watch, plain: Pair) -> None:
        """The protocol and its ports are those behind the extension headers."""

        def made() -> None:
            for size in (300, LONG):
                arrived = udp.behind_extension_headers(plain.a, plain.b, count=PRIME, size=size, source_port=5000)
                assert arrived == PRIME

        addresses = (plain.a.ipv6, plain.b.ipv6)
        headed: Flows = {(*addresses, "5000", "7400", "udp"): 2 * PRIME}
        # What follows the fragment header of a later fragment says no more than that destination options began there.
        result = pair.measured(made)
        found = flows(result["a"], FLOWS_SENT, "ipv6")
        (later,) = set(found) - set(headed)
        assert later[:4] == (*addresses, "0", "0")
        assert later[4] in ("udp", "60")
        self.assert_one_way(result, {"ipv4": {}, "ipv6": {**headed, later: 2 * PRIME}})

    @pytest.mark.parametrize(("source_port", "shown"), [(5000, "5000"), (40_000, EPHEMERAL)])
    def test_sctp(self, pair: Watch, plain: Pair, source_port: int, shown: str) -> None:
        """SCTP has ports, folded as UDP's."""

        def made() -> None:
            for family in FAMILIES:
                assert sctp.transfer(plain.a, plain.b, family, size=SIZE, source_port=source_port) == SIZE

        with links.feature(plain.a, plain.b, name=SCTP_OFFLOAD, on=False), scenarios.mode("unmerged", plain):
            result = pair.measured(made)
        a, b = result["a"], result["b"]
        for family in FAMILIES:
            there = (plain.a.address(family), plain.b.address(family), shown, "7500", "sctp")
            assert flows(a, FLOWS_SENT, family) == flows(b, FLOWS_RECEIVED, family)
            assert set(flows(a, FLOWS_SENT, family)) == {there}
            assert flows(b, FLOWS_SENT, family) == flows(a, FLOWS_RECEIVED, family)
            assert set(flows(b, FLOWS_SENT, family)) == {turned(there)}
        self.assert_complete(a, b)

    def test_sctp_without_an_association(self, pair: Watch, plain: Pair) -> None:
        """Ports are read from any SCTP packet."""

        def made() -> None:
            for family in FAMILIES:
                packets.sctp(plain.a, plain.b, family, count=PRIME, port=5000, source_port=6000)

        result = pair.measured(made)
        for family in FAMILIES:
            flow = (plain.a.address(family), plain.b.address(family), "6000", "5000", "sctp")
            assert flows(result["a"], FLOWS_SENT, family) == {flow: PRIME}
            assert flows(result["b"], FLOWS_RECEIVED, family) == {flow: PRIME}
        self.assert_complete(result["a"], result["b"])

    @pytest.mark.parametrize("port", [8080, 45_000])
    def test_tcp(self, pair: Watch, plain: Pair, port: int) -> None:
        """However many connections, a service is one flow each way, even at a port above those of some clients."""

        def made() -> None:
            for family in FAMILIES:
                traffic.connections(plain.a, plain.b, family, count=PRIME, port=port)
                assert traffic.refused(plain.a, plain.b, family, count=7, port=9) == 7

        with scenarios.mode("unmerged", plain):
            result = pair.measured(made)
        a, b = result["a"], result["b"]
        for family in FAMILIES:
            addresses = (plain.a.address(family), plain.b.address(family))
            there = {(*addresses, EPHEMERAL, str(port), "tcp"), (*addresses, EPHEMERAL, "9", "tcp")}
            assert flows(a, FLOWS_SENT, family) == flows(b, FLOWS_RECEIVED, family)
            assert set(flows(a, FLOWS_SENT, family)) == there
            assert flows(b, FLOWS_SENT, family) == flows(a, FLOWS_RECEIVED, family)
            assert set(flows(b, FLOWS_SENT, family)) == {turned(one) for one in there}
            assert flows(a, FLOWS_SENT, family)[(*addresses, EPHEMERAL, "9", "tcp")] == 7
        self.assert_complete(a, b)

    def test_multicast(self, pair: Watch, plain: Pair) -> None:
        """To the group's address; the sender's own copy is a flow that it receives."""

        def made() -> None:
            for family in FAMILIES:
                assert udp.multicast(plain.a, (plain.a, plain.b), family, count=PRIME, size=300) == [PRIME] * 2

        result = pair.measured(made)
        a, b = result["a"], result["b"]
        for family, group in udp.GROUP.items():
            found = [flows(a, FLOWS_SENT, family), flows(a, FLOWS_RECEIVED, family), flows(b, FLOWS_RECEIVED, family)]
            for one in found:
                ours = {key[2:]: value for key, value in one.items() if key[1] == group and key[4] == "udp"}
                assert ours == {(EPHEMERAL, "7200", "udp"): PRIME}
        self.assert_complete(a, b)

    def test_from_a_virtual_machine(self, pair: Watch, plain: Pair) -> None:
        """Packets that do not say how many they are: 320 in one flow (the kernel's counters have 50)."""
        with tap.guest(plain.a.netns) as guest:

            def made() -> None:
                for family in FAMILIES:
                    from_guest(guest, family, tap.HOST[family], partial=False)

            a = pair.measured(made)["a"]
        for family in FAMILIES:
            flow = (tap.GUEST[family], tap.HOST[family], "1000", "1001", "tcp")
            assert flows(a, FLOWS_RECEIVED, family) == {flow: 320}
            assert flows(a, FLOWS_RECEIVED_BYTES, family) == {flow: guest_wire(family)[1]}

    def test_forwarded(self, watch: StartWatch, routed_pods: Pair) -> None:
        """Through a router the same flows come and go."""
        assert routed_pods.router is not None
        watching = watch({"router": routed_pods.router}, "flow")

        def made() -> None:
            for family in FAMILIES:
                traffic.connections(routed_pods.a, routed_pods.b, family, count=PRIME)
                traffic.datagrams(routed_pods.a, routed_pods.b, family, count=PRIME, size=LONG)

        router = watching.measured(made)["router"]
        for family in FAMILIES:
            assert flows(router, FLOWS_RECEIVED, family) == flows(router, FLOWS_SENT, family)
            addresses = (routed_pods.a.address(family), routed_pods.b.address(family))
            tcp = (*addresses, EPHEMERAL, "8080", "tcp")
            datagrams = {(*addresses, EPHEMERAL, "7000", "udp"), (*addresses, "0", "0", "udp")}
            assert set(flows(router, FLOWS_SENT, family)) == {tcp, turned(tcp), *datagrams}
            for metric in (UDP_FLOWS_RECEIVED, UDP_FLOWS_RECEIVED_BYTES, UDP_FLOWS_SENT, UDP_FLOWS_SENT_BYTES):
                assert flows(router, metric, family) == {}

    @pytest.mark.parametrize("kind", KINDS)
    def test_stacked(self, watch: StartWatch, pods: Pair, kind: str) -> None:
        """Two devices, one flow."""
        upper = stacked(kind, pods)
        watching = watch(ends(pods), "flow")

        def made() -> None:
            for family in FAMILIES:
                for size in (300, LONG):
                    assert traffic.datagrams(upper.a, upper.b, family, count=PRIME, size=size) == PRIME

        expected: dict[Family, Flows] = {}
        for family in FAMILIES:
            addresses = (upper.a.address(family), upper.b.address(family))
            named = (*addresses, EPHEMERAL, "7000", "udp")
            expected[family] = {named: 2 * PRIME, (*addresses, "0", "0", "udp"): 2 * PRIME}
        self.assert_one_way(watching.measured(made), expected)

    def test_many(self, pair: Watch, plain: Pair) -> None:
        """Flows of one datagram each, none lost; what happens beyond a limit is test_flow_bounds.py's."""
        number = 300  # a scrape of more takes an emulated processor too long to read
        ports = [(1024 + one // 100, 20_000 + one % 100) for one in range(number)]

        def made() -> None:
            for family in FAMILIES:
                packets.udp(plain.a, plain.b, family, ports=ports)

        result = pair.measured(made)
        a, b = result["a"], result["b"]
        self.assert_complete(a, b)
        for family in FAMILIES:
            there = flows(a, FLOWS_SENT, family)
            assert all(key == OTHER or key[4] in ("udp", ICMP[family]) for key in there)
            assert sum(value for key, value in there.items() if key[4] != ICMP[family]) == number
            assert sum(flows(b, UDP_FLOWS_RECEIVED, family).values()) == number
