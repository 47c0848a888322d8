"""tcpError against InErrs and InCsumErrors."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.bpf.layouts import Kind
from integration.lib import crafted
from integration.lib.counters import FAMILIES
from integration.lib.crafted import ACK, FIN, PSH, RST, SYN, Stranger
from integration.lib.errors import IP_ERRORS, TCP_ERRORS, Bench, bench
from integration.lib.traffic import open_socket
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.lib.counters import Family
    from integration.lib.errors import Outcome

PRIME = 23
PORT = 7800
CLOSED = 7801
BUSY = 400
"""Segments that a socket in use is sent; some of them find it so."""
TIMESTAMPS = bytes((8, 10))
PADDING = bytes((1, 1))


@pytest.fixture(scope="module")
def errors(guest: None) -> Iterator[Bench]:  # noqa: ARG001 - must come first
    """The pods that all tests share; each leaves them as they were."""
    with bench("tcperr") as made:
        yield made


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Both."""
    name: Family = request.param
    return name


@contextmanager
def listener(errors: Bench, family: Family) -> Iterator[socket.socket]:
    """A server in pod B, for the length of a block."""
    with open_socket(errors.pair.b, family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((errors.pair.b.address(family), PORT))
        listening.listen()
        yield listening


_ports = iter(range(20_000, 30_000))


def stranger(errors: Bench, family: Family, *, port: int = PORT) -> Stranger:
    """Somebody new, who may speak to a port of pod B."""
    return Stranger(errors.wire, family, (errors.pair.b.address(family), port), next(_ports))


@contextmanager
def connection(errors: Bench, family: Family, options: bytes = b"") -> Iterator[tuple[Stranger, socket.socket]]:
    """Both ends of a connection, for the length of a block."""
    with listener(errors, family) as listening:
        client = stranger(errors, family)
        client.connect(options)
        accepted, _ = listening.accept()
        with accepted:
            yield client, accepted


def measured(errors: Bench, made: Callable[[], object], *, syns: int = 0) -> Outcome:
    """What pod B counted; both families' numbers are the kernel's, and IP finds nothing wrong.

    Kernels that do not say why they free a packet let nobody count `syns`, those inside a connection.
    """
    result = errors.measured(made)
    result.assert_tcp(missing=0 if errors.is_exact(Kind.TCP_ERROR) else syns)
    assert result.reasons(IP_ERRORS) == {}
    return result


def shown(errors: Bench, syns: int) -> dict[str, int]:
    """What is counted of SYNs inside a connection."""
    return {"syn": syns} if errors.is_exact(Kind.TCP_ERROR) else {}


def many(send: Callable[[], object]) -> Callable[[], None]:
    """A number of times."""

    def made() -> None:
        for _ in range(PRIME):
            send()

    return made


def test_checksum_where_nobody_listens(errors: Bench, family: Family) -> None:
    """With and without payload: longer segments are looked at later."""
    client = stranger(errors, family, port=CLOSED)

    def made() -> None:
        many(lambda: client.send(SYN, wrong_sum=True))()
        many(lambda: client.send(ACK | PSH, payload=bytes(1000), wrong_sum=True))()

    result = measured(errors, made)
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"checksum": 2 * PRIME}


def test_checksum_where_somebody_listens(errors: Bench, family: Family) -> None:
    """A SYN, and one with so many options that it is looked at only by the socket."""
    with listener(errors, family):
        client = stranger(errors, family)

        def made() -> None:
            many(lambda: client.send(SYN, wrong_sum=True))()
            many(lambda: client.send(SYN, payload=bytes(200), wrong_sum=True))()

        result = measured(errors, made)
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"checksum": 2 * PRIME}


def test_checksum_of_a_handshake(errors: Bench, family: Family) -> None:
    """The last segment of it, which is for no socket yet."""
    with listener(errors, family):
        client = stranger(errors, family)
        client.ask()

        def made() -> None:
            many(lambda: client.send(ACK, wrong_sum=True))()
            many(lambda: client.send(ACK, payload=bytes(500), wrong_sum=True))()

        result = measured(errors, made)
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"checksum": 2 * PRIME}


def test_checksum_in_a_connection(errors: Bench, family: Family) -> None:
    """Segments that would be next, ones out of order, and ones that only acknowledge."""
    with connection(errors, family) as (client, _):

        def made() -> None:
            many(lambda: client.send(ACK | PSH, payload=bytes(1000), wrong_sum=True))()
            many(lambda: client.send(ACK | PSH, sequence=client.sequence + 100, payload=bytes(1000), wrong_sum=True))()
            many(lambda: client.send(ACK, wrong_sum=True))()
            many(lambda: client.send(FIN | ACK, payload=bytes(300), wrong_sum=True))()

        result = measured(errors, made)
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"checksum": 4 * PRIME}


def test_checksum_where_the_socket_is_in_use(errors: Bench, family: Family) -> None:
    """A segment then waits in the socket's backlog, and its checksum is looked at before."""
    with connection(errors, family) as (client, accepted), user_of(accepted):

        def made() -> None:
            for _ in range(BUSY):
                client.send(ACK | PSH, payload=bytes(1000), wrong_sum=True)

        result = measured(errors, made)
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"checksum": BUSY}


@contextmanager
def user_of(used: socket.socket) -> Iterator[None]:
    """A process that asks a socket for something all the time, for the length of a block."""
    process = os.fork()
    if not process:
        while True:
            used.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
    try:
        yield
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def state_of(used: socket.socket) -> int:
    """The state of its connection, by the kernel's number."""
    return used.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


ESTABLISHED, FIN_WAIT_2, CLOSE_WAIT = 1, 5, 8


def test_checksum_after_a_connection(errors: Bench, family: Family) -> None:
    """TIME_WAIT: no socket of the application's."""
    with connection(errors, family) as (client, accepted):
        accepted.shutdown(socket.SHUT_WR)
        client.acknowledged += 1
        client.send(ACK)
        client.send(FIN | ACK)
        client.sequence += 1
        wait_until(lambda: state_of(accepted) == 7, deadline=10, what="the connection is over")  # TCP_CLOSE
        result = measured(errors, many(lambda: client.send(ACK, payload=bytes(300), wrong_sum=True)))
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"checksum": PRIME}


def test_header_that_is_too_short(errors: Bench, family: Family) -> None:
    """By its own account: 16 bytes."""
    client = stranger(errors, family, port=CLOSED)
    result = measured(errors, many(lambda: client.send(ACK, size=4)))
    assert result.reasons(TCP_ERRORS, ipfamily=family) == {"header": PRIME}
    assert result.kernel["Tcp.InErrs"] == PRIME


def test_segment_that_ends_in_its_header_is_no_error(errors: Bench, family: Family) -> None:
    """The kernel drops it, and no counter has it."""
    client = stranger(errors, family, port=CLOSED)
    own = (Stranger.ADDRESS[family], 1000)
    other = (errors.pair.b.address(family), CLOSED)
    whole = crafted.tcp(family, own, other, ACK)

    def made() -> None:
        many(lambda: client.send(ACK, size=15))()
        source, destination = own[0], other[0]
        cut = whole[-20:-10]
        packet = (
            crafted.ipv4(source, destination, cut, protocol=socket.IPPROTO_TCP)
            if family == "ipv4"
            else crafted.ipv6(source, destination, cut, protocol=socket.IPPROTO_TCP)
        )
        many(lambda: errors.wire.send(packet, family))()

    result = measured(errors, made)
    assert result.kernel["Tcp.InSegs"] == 2 * PRIME
    assert result.reasons(TCP_ERRORS) == {}


def test_syn_inside_a_connection(errors: Bench, family: Family) -> None:
    """In its window and before it; a reset with SYN is none, and neither is what is not answered."""
    with connection(errors, family) as (client, accepted):

        def made() -> None:
            many(lambda: client.send(SYN))()
            many(lambda: client.send(SYN, sequence=client.sequence - 100_000))()
            many(lambda: client.send(SYN | RST, sequence=client.sequence - 100_000))()
            many(lambda: client.send(0))()

        result = measured(errors, made, syns=2 * PRIME)
        assert state_of(accepted) == ESTABLISHED
    assert result.kernel["Tcp.InErrs"] == 2 * PRIME
    assert result.reasons(TCP_ERRORS, ipfamily=family) == shown(errors, 2 * PRIME)


def test_syn_where_the_socket_is_in_use(errors: Bench, family: Family) -> None:
    """Some wait in the socket's backlog, and are refused by whoever uses it."""
    with connection(errors, family) as (client, accepted), user_of(accepted):

        def made() -> None:
            for _ in range(BUSY):
                client.send(SYN)

        result = measured(errors, made, syns=BUSY)
    assert result.kernel["Tcp.InErrs"] == BUSY
    assert result.reasons(TCP_ERRORS, ipfamily=family) == shown(errors, BUSY)


def test_syn_with_an_old_timestamp(errors: Bench, family: Family) -> None:
    """Whether it is an error depends on the kernel (7.x: yes): ours is what it says."""
    new, old = (PADDING + TIMESTAMPS + (value).to_bytes(4, "big") + bytes(4) for value in (1_000_000, 1_000))
    with connection(errors, family, new) as (client, _):
        result = measured(errors, many(lambda: client.send(SYN, options=old)))
    assert result.kernel["Tcp.InSegs"] == PRIME


def test_syn_in_a_connection_that_ends_is_no_error(errors: Bench, family: Family) -> None:
    """The kernel answers it as any other, and does not count it."""
    with connection(errors, family) as (client, accepted):
        client.send(FIN | ACK)
        client.sequence += 1
        wait_until(lambda: state_of(accepted) == CLOSE_WAIT, deadline=10, what="the other end has closed")
        result = measured(errors, many(lambda: client.send(SYN)))
    assert result.kernel["TcpExt.TCPSYNChallenge"] == PRIME
    assert result.reasons(TCP_ERRORS) == {}
