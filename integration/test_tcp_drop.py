"""tcpDrop against what the kernel says of segments that it dropped on purpose."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from integration.lib import traffic
from integration.lib.counters import FAMILIES
from integration.lib.drops import (
    IP,
    TCP,
    dropping,
    forged_segments,
    has_reasons,
    only,
    overflowed,
    stalled_reader,
)
from integration.lib.links import netem
from integration.lib.netns import NODE
from integration.scenarios import PRIME

if TYPE_CHECKING:
    from integration.lib.counters import Family
    from integration.lib.drops import Watch

PORT = 8070
DELAY = 100
SIZE = 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_rule_on_the_node(drop_watch: Watch, family: Family) -> None:
    """SYNs, each sent again while nothing answers: the rule's counter."""
    pair = drop_watch.pair

    def connect() -> None:
        with traffic.open_socket(pair.a, family, socket.SOCK_STREAM) as connection:
            connection.settimeout(4)
            with pytest.raises(TimeoutError):
                connection.connect((pair.b.address(family), PORT))

    with dropping(NODE, "forward", f"tcp dport {PORT}") as rule:
        found = drop_watch.measured(connect)
        for metric in (IP, TCP):
            for pod, direction in ((pair.a, "send"), (pair.b, "receive")):
                packets = only(found.drops(pod, family, metric), direction, ("netfilter_drop",), ("nf_hook_slow",))
                assert packets == rule.packets() > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_refused(drop_watch: Watch, family: Family) -> None:
    """SYNs to a port where nobody listens: OutRsts."""
    pair = drop_watch.pair
    found = drop_watch.measured(lambda: traffic.refused(pair.a, pair.b, family, count=PRIME))
    resets = found.kernel[pair.b.netns.name]["Tcp.OutRsts"]
    functions = ("tcp_v4_rcv", "tcp_v6_rcv")
    assert only(found.drops(pair.b, family, TCP), "receive", ("no_socket",), functions) == resets == PRIME


def test_listener_that_is_full(drop_watch: Watch) -> None:
    """The last segment of a handshake: ListenDrops. (A SYN that finds no room is not dropped, but consumed.)"""
    pair = drop_watch.pair
    with netem(pair.a, delay=DELAY), ExitStack() as stack:
        found = drop_watch.measured(lambda: stack.enter_context(overflowed(pair, room=4, beyond=4)))
    listen_drops = found.kernel[pair.b.netns.name]["TcpExt.ListenDrops"]
    drops = found.drops(pair.b, "ipv4", TCP)
    assert only(drops, "receive", ("tcp_listen_overflow", "tcp_v4_rcv"), ("tcp_v4_rcv",)) == listen_drops > 0


def test_backlog(drop_watch: Watch) -> None:
    """Segments for a socket that a reader holds: TCPBacklogDrop."""
    pair = drop_watch.pair
    with (
        traffic.open_socket(pair.b, "ipv4", socket.SOCK_STREAM) as listening,
        traffic.open_socket(pair.a, "ipv4", socket.SOCK_STREAM) as client,
    ):
        listening.bind((pair.b.ipv4, PORT))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listening.listen()
        client.connect((pair.b.ipv4, PORT))
        server, _ = listening.accept()
        with server:
            client.sendall(b"1")

            def flood() -> None:
                with stalled_reader(server):
                    ports = (client.getsockname()[1], PORT)
                    forged_segments(pair.a, pair.b, ports, count=20 * PRIME, size=SIZE)

            found = drop_watch.measured(flood)
    drops = found.drops(pair.b, "ipv4", TCP)
    backlog = found.kernel[pair.b.netns.name]["TcpExt.TCPBacklogDrop"]
    reason = "socket_backlog" if has_reasons() else "tcp_v4_rcv"
    assert drops["receive", reason] == backlog > 0
