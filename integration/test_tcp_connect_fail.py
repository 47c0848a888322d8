"""tcpConnectFail against AttemptFails, ListenOverflows and SyncookiesFailed, each reason made on purpose."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.errors import BpfError
from dolphin_agent.probes import ladder
from integration.lib import links, packets, traffic
from integration.lib.counters import FAMILIES, Counters
from integration.lib.topology import joined_pair
from integration.lib.wait import unchanged, wait_until
from integration.lib.watch import watching
from integration.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from dolphin_agent.bpf.tables import Tables
    from dolphin_agent.probes.items import Probe
    from dolphin_agent.probes.ladder import Attached
    from integration.lib.agent import Samples
    from integration.lib.counters import Family
    from integration.lib.topology import Pair, Pod
    from integration.lib.watch import Watch
    from integration.scenarios import Bench, PodResult

FAILURES = "dolphin_tcp_connect_failures_total"
COUNT = 5
ROUNDS = 4
PORT = 9100
CLOSED = 9
HOW = ("blocking", "polled")
ABSENT: dict[Family, str] = {"ipv4": "10.8.0.77", "ipv6": "fd08::77"}
"""In the pods' network, and nobody's."""
ELSEWHERE: dict[Family, str] = {"ipv4": "203.0.113.1", "ipv6": "2001:db8::1"}
"""The pods have no route there."""
SYN, RST, ACK = 2, 4, 16
ISN = 1_000_000
QUIET = 1.5
"""Seconds: a SYN is sent again after one."""
DEADLINE = 60

_SO_SNDTIMEO_NOW = struct.pack("@qq", 0, 50_000)

Failed = dict[tuple[str, str, str], int]
"""(ipfamily, direction, reason) -> how many."""


@dataclass
class End:
    """What happened at one pod."""

    failed: Failed = field(default_factory=dict)
    kernel: Counters = field(default_factory=lambda: Counters({}))

    def total(self, direction: str, *reasons: str) -> int:
        """Of both families."""
        return sum(n for (_, way, why), n in self.failed.items() if way == direction and why in reasons)


@dataclass
class Outcome:
    """What happened while it was counted."""

    a: End = field(default_factory=End)
    b: End = field(default_factory=End)


@pytest.fixture(scope="module")
def pods(guest: None) -> Iterator[Pair]:  # noqa: ARG001 - must come first
    """Two pods for all tests here: most wait for timers of the kernel, so they are long enough."""
    with joined_pair("fail") as pair:
        yield pair


@pytest.fixture(scope="module")
def watch(pods: Pair) -> Iterator[Watch]:
    """Both are counted, by an engine of the test's own."""
    with watched(pods) as made:
        yield made


def watched(pair: Pair) -> AbstractContextManager[Watch]:
    """Nothing but failures is counted."""
    return watching({"a": pair.a.netns.inum, "b": pair.b.netns.inum}, items=["tcpConnectFail"])


@contextmanager
def setting(pod: Pod, name: str, value: object) -> Iterator[None]:
    """Change one of a pod's kernel settings for the length of a block."""
    with pod.netns.entered():
        before = (Path("/proc/sys/net") / name).read_text()
    pod.netns.sysctl(name, value)
    try:
        yield
    finally:
        pod.netns.sysctl(name, before)


@contextmanager
def counted(watch: Watch, pair: Pair) -> Iterator[Outcome]:
    """What agent and kernel count during a block and until both pods are quiet; checked against each other."""
    outcome = Outcome()
    ends = {"a": (pair.a, outcome.a), "b": (pair.b, outcome.b)}
    before = failures(watch.samples())
    kernel = {name: pod.counters() for name, (pod, _) in ends.items()}
    yield outcome
    unchanged(lambda: [pod.counters() for pod in (pair.a, pair.b)], seconds=QUIET, deadline=DEADLINE, what="rest")
    after = failures(watch.samples())
    for name, (pod, end) in ends.items():
        end.kernel = pod.counters() - kernel[name]
        pairs = ((key, value - before.get(key, 0)) for key, value in after.items() if key[0] == f"default/{name}")
        end.failed = {key[1:]: value for key, value in pairs if value}
        judge(end)


def failures(samples: Samples) -> dict[tuple[str, str, str, str], int]:
    """(pod, ipfamily, direction, reason) -> value."""
    labels = ("pod", "ipfamily", "direction", "reason")
    return {
        (one["pod"], one["ipfamily"], one["direction"], one["reason"]): int(
            samples.value(FAILURES, **{name: one[name] for name in labels})
        )
        for one in samples.series(FAILURES)
    }


def judge(end: End) -> None:
    """Whatever was done: the kernel's own counters."""
    tried = end.total("outbound", "refused", "reset", "timeout", "unreachable") + end.total("inbound", "reset")
    assert tried == end.kernel["Tcp.AttemptFails"], end.failed
    assert end.total("inbound", "reset") == end.kernel["TcpExt.EmbryonicRsts"], end.failed
    assert end.total("inbound", "listen_overflow") == end.kernel["TcpExt.ListenOverflows"], end.failed
    assert end.total("inbound", "cookie") == end.kernel["TcpExt.SyncookiesFailed"], end.failed


@contextmanager
def dropped(pod: Pod, rule: str) -> Iterator[None]:
    """Have a pod drop what arrives and matches, for the length of a block."""
    pod.netns.run(["nft", f"table inet t {{ chain c {{ type filter hook input priority 0; {rule} drop; }}; }}"])
    try:
        yield
    finally:
        pod.netns.run(["nft", "delete", "table", "inet", "t"])


def attempts(client: Pod, family: Family, to: tuple[str, int], *, how: str, retries: int = 1) -> list[int]:
    """Try to open COUNT connections at once; returns the error of each, 0 where there is none."""
    with ExitStack() as stack:
        tried = [stack.enter_context(traffic.open_socket(client, family, socket.SOCK_STREAM)) for _ in range(COUNT)]
        for one in tried:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, retries)
        return blocking(tried, to) if how == "blocking" else polled(tried, to)


def blocking(tried: list[socket.socket], to: tuple[str, int]) -> list[int]:
    """A thread waits in each connect()."""
    errors: list[int] = []

    def connect(one: socket.socket) -> None:
        one.setblocking(True)  # noqa: FBT003 - the standard library's
        errors.append(one.connect_ex(to))

    threads = [threading.Thread(target=connect, args=(one,)) for one in tried]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return errors


def polled(tried: list[socket.socket], to: tuple[str, int]) -> list[int]:
    """One thread waits for all."""
    errors = []
    for one in tried:
        one.setblocking(False)  # noqa: FBT003 - the standard library's
        error = one.connect_ex(to)
        if error == errno.EINPROGRESS:
            poller = select.poll()
            poller.register(one, select.POLLOUT)
            assert poller.poll(DEADLINE * 1000)
            error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        errors.append(error)
    return errors


@contextmanager
def listening(server: Pod, family: Family, backlog: int) -> Iterator[socket.socket]:
    """A listener that accepts nothing by itself."""
    with traffic.open_socket(server, family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server.address(family), PORT))
        listener.listen(backlog)
        yield listener


@contextmanager
def opening(client: Pod, server: Pod, family: Family, count: int) -> Iterator[list[socket.socket]]:
    """Connections that begin to open, closed after the block."""
    with ExitStack() as stack:
        tried = [stack.enter_context(traffic.open_socket(client, family, socket.SOCK_STREAM)) for _ in range(count)]
        for one in tried:
            one.setblocking(False)  # noqa: FBT003 - the standard library's
            assert one.connect_ex((server.address(family), PORT)) == errno.EINPROGRESS
        yield tried


def established(tried: list[socket.socket]) -> None:
    """Wait until all of them are, as far as their own end knows."""
    poller = select.poll()
    for one in tried:
        poller.register(one, select.POLLOUT)
    wait_until(lambda: len(poller.poll(0)) == len(tried), deadline=DEADLINE, what="connections are open")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_attempts(bench: Bench, scenario: str, mode: str) -> None:
    """Under the traffic that every item is judged by."""
    for end in bench.result(scenario, mode).ends:
        outbound = [of(end, "outbound", reason) for reason in ("refused", "reset", "timeout", "unreachable")]
        assert sum(outbound) + of(end, "inbound", "reset") == end.kernel["Tcp.AttemptFails"]
        assert of(end, "inbound", "listen_overflow") == end.kernel["TcpExt.ListenOverflows"]
        assert of(end, "inbound", "cookie") == end.kernel["TcpExt.SyncookiesFailed"]
        assert of(end, "outbound", "local") == 0


def of(end: PodResult, direction: str, reason: str) -> int:
    return end.agent(FAILURES, direction=direction, reason=reason)


def test_refusals_took_place(bench: Bench, mode: str) -> None:
    """Else the test above proves nothing."""
    assert of(bench.result("short_connections", mode).a, "outbound", "refused") == 2 * 7


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_refused(pods: Pair, watch: Watch, family: Family, how: str) -> None:
    """Nobody listens there."""
    with counted(watch, pods) as outcome:
        assert attempts(pods.a, family, (pods.b.address(family), CLOSED), how=how) == COUNT * [errno.ECONNREFUSED]
    assert outcome.a.failed == {(family, "outbound", "refused"): COUNT}
    assert outcome.b.failed == {}
    assert outcome.a.kernel["Tcp.AttemptFails"] == COUNT


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_timeout(pods: Pair, watch: Watch, family: Family, how: str) -> None:
    """Nothing is answered."""
    with dropped(pods.b, f"tcp dport {PORT}"), counted(watch, pods) as outcome:
        assert attempts(pods.a, family, (pods.b.address(family), PORT), how=how) == COUNT * [errno.ETIMEDOUT]
    assert outcome.a.failed == {(family, "outbound", "timeout"): COUNT}
    assert outcome.a.kernel["Tcp.AttemptFails"] == COUNT


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_neighbour(pods: Pair, watch: Watch, family: Family, how: str) -> None:
    """The pod's own kernel says that nobody has the address."""
    with counted(watch, pods) as outcome:
        errors = attempts(pods.a, family, (ABSENT[family], PORT), how=how, retries=6)
        assert errors == COUNT * [errno.EHOSTUNREACH]
    assert outcome.a.failed == {(family, "outbound", "unreachable"): COUNT}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_unreachable(routed_pods: Pair, family: Family, how: str) -> None:
    """A router says so, once connect() has left the socket alone: until then its word is a hint that may pass."""
    assert routed_pods.router is not None
    for setting in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
        routed_pods.router.sysctl(setting, 0)
    with links.netem(routed_pods.a, delay=100), watched(routed_pods) as watch, counted(watch, routed_pods) as outcome:
        errors = attempts(routed_pods.a, family, (ELSEWHERE[family], PORT), how=how, retries=6)
        assert set(errors) <= {errno.EHOSTUNREACH, errno.ENETUNREACH}
    assert outcome.a.failed == {(family, "outbound", "unreachable"): COUNT}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_route(pods: Pair, watch: Watch, family: Family, how: str) -> None:
    """Nothing is sent."""
    with counted(watch, pods) as outcome:
        assert attempts(pods.a, family, (ELSEWHERE[family], PORT), how=how) == COUNT * [errno.ENETUNREACH]
    assert outcome.a.failed == {(family, "outbound", "local"): COUNT}
    assert outcome.a.kernel["Tcp.AttemptFails"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_port(pods: Pair, watch: Watch, family: Family) -> None:
    """Every port that the kernel may pick is in use with that peer."""
    to = (pods.b.address(family), PORT)
    with (
        setting(pods.a, "ipv4/ip_local_port_range", "40000\t40001"),
        listening(pods.b, family, backlog=8),
        counted(watch, pods) as outcome,
        opening(pods.a, pods.b, family, 2),
    ):
        assert attempts(pods.a, family, to, how="blocking") == COUNT * [errno.EADDRNOTAVAIL]
    assert outcome.a.failed == {(family, "outbound", "local"): COUNT}


@pytest.mark.parametrize("how", HOW)
def test_mapped_addresses_are_ipv4(pods: Pair, watch: Watch, how: str) -> None:
    """An AF_INET6 socket that talks IPv4: each failure counts once."""
    with counted(watch, pods) as outcome:
        for to in (pods.b.ipv4, ELSEWHERE["ipv4"]):
            attempts(pods.a, "ipv6", (f"::ffff:{to}", CLOSED), how=how)
    assert outcome.a.failed == {("ipv4", "outbound", "refused"): COUNT, ("ipv4", "outbound", "local"): COUNT}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_aborted(pods: Pair, watch: Watch, family: Family, how: str) -> None:
    """The program gives up before the kernel does; AttemptFails has none of it."""
    to = (pods.b.address(family), PORT)
    with dropped(pods.b, f"tcp dport {PORT}"), counted(watch, pods) as outcome:
        for _ in range(COUNT):
            with traffic.open_socket(pods.a, family, socket.SOCK_STREAM) as one:
                one.setblocking(how == "blocking")
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SO_SNDTIMEO_NOW)
                assert one.connect_ex(to) == errno.EINPROGRESS
    assert outcome.a.failed == {(family, "outbound", "aborted"): COUNT}
    assert outcome.a.kernel["Tcp.AttemptFails"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_error_of_a_stranger(routed_pods: Pair, family: Family) -> None:
    """A new socket may lie where one of a pod that nobody watches has failed, whose error is not its own."""
    stranger, own = routed_pods.a, routed_pods.b
    assert routed_pods.router is not None
    for setting in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
        routed_pods.router.sysctl(setting, 0)
    with (
        one_processor(),
        links.netem(stranger, delay=100),
        dropped(stranger, f"tcp dport {PORT}"),
        watching({"b": own.netns.inum}, items=["tcpConnectFail"]) as watch,
    ):
        for _ in range(ROUNDS):
            failed = attempts(stranger, family, (ELSEWHERE[family], PORT), how="polled", retries=6)
            assert set(failed) <= {errno.EHOSTUNREACH, errno.ENETUNREACH}
            with opening(own, stranger, family, COUNT):
                pass
        assert failures(watch.samples()) == {("default/b", family, "outbound", "aborted"): ROUNDS * COUNT}


@contextmanager
def one_processor() -> Iterator[None]:
    """Stay on it for the length of a block, so that memory is used again at once."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("family", FAMILIES)
def test_reset_of_crossed_opens(pods: Pair, watch: Watch, family: Family) -> None:
    """Both ends open at once, and the other one resets."""
    with dropped(pods.b, f"tcp dport {PORT}"), counted(watch, pods) as outcome:
        for number in range(COUNT):
            port = 20_000 + number
            with traffic.open_socket(pods.a, family, socket.SOCK_STREAM) as one:
                one.bind((pods.a.address(family), port))
                one.setblocking(False)  # noqa: FBT003 - the standard library's
                assert one.connect_ex((pods.b.address(family), PORT)) == errno.EINPROGRESS
                packets.tcp(pods.b, pods.a, family, ports=(PORT, port), flags=SYN, sequence=ISN)
                packets.tcp(pods.b, pods.a, family, ports=(PORT, port), flags=RST, sequence=ISN + 1)
                poller = select.poll()
                poller.register(one, select.POLLERR)
                assert poller.poll(DEADLINE * 1000)
                assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert outcome.a.failed == {(family, "outbound", "reset"): COUNT}


@pytest.mark.parametrize("family", FAMILIES)
def test_half_open_is_reset(pods: Pair, watch: Watch, family: Family) -> None:
    """The client's kernel knows nothing of a SYN made by hand, and resets what is answered."""
    with listening(pods.b, family, backlog=8), counted(watch, pods) as outcome:
        for number in range(COUNT):
            packets.tcp(pods.a, pods.b, family, ports=(21_000 + number, PORT), flags=SYN, sequence=ISN)
    assert outcome.b.failed == {(family, "inbound", "reset"): COUNT}
    assert outcome.a.failed == {}
    assert outcome.b.kernel["Tcp.AttemptFails"] == COUNT


@pytest.mark.parametrize("family", FAMILIES)
def test_half_open_times_out(pods: Pair, watch: Watch, family: Family) -> None:
    """The client never acknowledges."""
    with (
        setting(pods.b, "ipv4/tcp_synack_retries", 1),
        dropped(pods.a, f"tcp sport {PORT}"),
        listening(pods.b, family, backlog=8),
        counted(watch, pods) as outcome,
    ):
        for number in range(COUNT):
            packets.tcp(pods.a, pods.b, family, ports=(22_000 + number, PORT), flags=SYN, sequence=ISN)
        wait_half_open(pods.b, 0)
    assert outcome.b.failed == {(family, "inbound", "timeout"): COUNT}


def test_half_open_of_a_closed_listener_is_no_timeout(pods: Pair, watch: Watch) -> None:
    """Nobody could have answered any more."""
    with dropped(pods.a, f"tcp sport {PORT}"), counted(watch, pods) as outcome:
        with listening(pods.b, "ipv4", backlog=8):
            packets.tcp(pods.a, pods.b, "ipv4", ports=(23_000, PORT), flags=SYN, sequence=ISN)
            wait_half_open(pods.b, 1)
        wait_half_open(pods.b, 0)
    assert outcome.b.failed == {}


def wait_half_open(pod: Pod, count: int) -> None:
    """Wait until so many requests wait in a pod."""

    def waiting() -> int:
        return pod.netns.run(["ss", "-tanH", "state", "syn-recv"]).count("\n")

    wait_until(lambda: waiting() == count, deadline=DEADLINE, what=f"{count} half-open connections")


@pytest.mark.parametrize("family", FAMILIES)
def test_listen_overflow(pods: Pair, watch: Watch, family: Family) -> None:
    """The accept queue has room for one: SYNs are dropped, and sent again."""
    with (
        counted(watch, pods) as outcome,
        listening(pods.b, family, backlog=0),
        opening(pods.a, pods.b, family, 1) as first,
    ):
        established(first)
        before = pods.b.counters()
        with opening(pods.a, pods.b, family, COUNT):
            wait_until(lambda: overflows(pods.b, before) >= 2 * COUNT, deadline=DEADLINE, what="SYNs are sent again")
    assert outcome.b.failed.keys() == {(family, "inbound", "listen_overflow")}
    assert outcome.a.failed == {(family, "outbound", "aborted"): COUNT}


def overflows(pod: Pod, before: Counters) -> int:
    """How often the accept queue was full."""
    return (pod.counters() - before)["TcpExt.ListenOverflows"]


@pytest.mark.parametrize("cookies", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_listen_overflow_at_the_last_acknowledgement(pods: Pair, watch: Watch, family: Family, cookies: int) -> None:
    """SYNs found room for requests, and their acknowledgements none in the accept queue."""
    overflow_at_the_last_acknowledgement(pods, watch, family, cookies)


def overflow_at_the_last_acknowledgement(pods: Pair, watch: Watch, family: Family, cookies: int) -> None:
    """With SYN cookies (2) or without (0)."""
    with (
        setting(pods.b, "ipv4/tcp_syncookies", cookies),
        counted(watch, pods) as outcome,
        listening(pods.b, family, backlog=3),
        opening(pods.a, pods.b, family, 3) as first,
    ):
        established(first)
        wait_until(lambda: accepted(pods.b) == 3, deadline=DEADLINE, what="three wait to be accepted")
        before = pods.b.counters()
        with links.netem(pods.a, delay=500), opening(pods.a, pods.b, family, 3) as more:
            established(more)
            wait_until(lambda: overflows(pods.b, before) > 0, deadline=DEADLINE, what="no room for all")
    assert outcome.b.failed.keys() == {(family, "inbound", "listen_overflow")}
    assert bool(outcome.b.kernel["TcpExt.SyncookiesRecv"]) == bool(cookies)


def accepted(pod: Pod) -> int:
    """Connections that wait in the accept queue."""
    return int(pod.netns.run(["ss", "-tlnH", f"( sport = :{PORT} )"]).split()[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_cookie(pods: Pair, watch: Watch, family: Family) -> None:
    """Acknowledgements of a cookie that was never sent; right ones are not counted."""
    with (
        setting(pods.b, "ipv4/tcp_syncookies", 2),
        counted(watch, pods) as outcome,
        listening(pods.b, family, backlog=8),
        opening(pods.a, pods.b, family, 3) as first,
    ):
        established(first)
        wait_until(lambda: accepted(pods.b) == 3, deadline=DEADLINE, what="cookies are right")
        for number in range(COUNT):
            ports = (24_000 + number, PORT)
            packets.tcp(pods.a, pods.b, family, ports=ports, flags=ACK, sequence=ISN, acknowledgement=number)
    assert outcome.b.failed == {(family, "inbound", "cookie"): COUNT}
    assert outcome.b.kernel["TcpExt.SyncookiesRecv"] == 3


def refuse(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Have the kernel refuse every hook that has one of these words in it."""
    attach = ladder.attach

    def refusing(probe: Probe, tables: Tables) -> Attached:
        if any(word in probe.hooks for word in words):
            raise BpfError("attach: Operation not supported by this kernel", errno=errno.EOPNOTSUPP)
        return attach(probe, tables)

    monkeypatch.setattr(ladder, "attach", refusing)


@pytest.mark.parametrize("cookies", [0, 2])
def test_overflow_where_the_last_acknowledgement_has_no_hook(
    pods: Pair, monkeypatch: pytest.MonkeyPatch, cookies: int
) -> None:
    """Some kernels' functions there have more arguments than they can pass on; every other reason is as before."""
    refuse(monkeypatch, "syn_recv_sock")
    with watched(pods) as watch:
        (choice,) = watch.status.choices
        assert choice.rung
        assert "would not have taken" in choice.rung.inexact
        for family in FAMILIES:
            overflow_at_the_last_acknowledgement(pods, watch, family, cookies)


def test_without_fentry_the_outbound_ones_remain(pods: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent in vain, and what found no free port; nothing of what others tried."""
    refuse(monkeypatch, "fexit", "fentry")
    with watched(pods) as watch:
        (choice,) = watch.status.choices
        assert choice.rung
        assert "inbound connections are missing" in choice.rung.inexact
        with counted(watch, pods) as outcome:
            attempts(pods.a, "ipv4", (pods.b.ipv4, CLOSED), how="polled")
            attempts(pods.a, "ipv4", (ELSEWHERE["ipv4"], CLOSED), how="polled")
        assert outcome.a.failed == {("ipv4", "outbound", "refused"): COUNT}
        with (
            setting(pods.a, "ipv4/ip_local_port_range", "40000\t40001"),
            listening(pods.b, "ipv4", backlog=8),
            counted(watch, pods) as outcome,
            opening(pods.a, pods.b, "ipv4", 2),
        ):
            attempts(pods.a, "ipv4", (pods.b.ipv4, PORT), how="polled")
        assert outcome.a.failed == {("ipv4", "outbound", "local"): COUNT}


def test_pods_that_nobody_asks_for_cost_nothing(pods: Pair) -> None:
    """Neither of two others is counted."""
    with watching({"a": pods.a.netns.inum}, items=["tcpConnectFail"]) as watch:
        attempts(pods.b, "ipv4", (pods.a.ipv4, CLOSED), how="polled")
        attempts(pods.b, "ipv4", (ELSEWHERE["ipv4"], CLOSED), how="polled")
        assert failures(watch.samples()) == {}


def test_many_at_once(pods: Pair, watch: Watch) -> None:
    """Every CPU counts the same event."""

    def many() -> None:
        for _ in range(20):
            attempts(pods.a, "ipv4", (pods.b.ipv4, CLOSED), how="polled")

    with counted(watch, pods) as outcome:
        at_once(many, 4)
    assert outcome.a.failed == {("ipv4", "outbound", "refused"): 4 * 20 * COUNT}


def at_once(work: Callable[[], None], threads: int) -> None:
    """Do it in several threads."""
    started = [threading.Thread(target=work) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(DEADLINE)
        assert not thread.is_alive()
