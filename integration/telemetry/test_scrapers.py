"""Scrapers that are many, rude, slow or silent: nobody else notices, and the agent grows by nothing."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.export.http import UNSENT_BYTES
from dolphin_agent.readings import SHARED_SECONDS
from integration.bench.agent import spray
from integration.lib.agent import running
from integration.lib.manifests import Manifests, PodManifest
from integration.lib.topology import joined_pair
from integration.lib.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from integration.lib.agent import Agent
    from integration.telemetry.faulty import Faulty

FLOWS = 10_000
INTERVAL = 3.0
JITTER = 0.1
PUSHES = 4
"""Intervals that are measured."""
SCRAPERS = 20
IDLE = 200
RATE = 1024
"""Bytes per second that a slow scraper reads."""
SMALL = 4096
"""Of its receive buffer, so that it is the agent that waits."""
GROWTH = 16 << 20
"""Of the agent's memory: a body of 4 MB or two, 64 threads, and what malloc keeps of them."""
SLOW_GROWTH = GROWTH + UNSENT_BYTES
MOST_THREADS = 90
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n"


@pytest.fixture
def agent(tmp_path: Path, faulty: Faulty) -> Iterator[Agent]:
    """An agent with thousands of flows, that has pushed and been scraped."""
    with joined_pair("scraped") as pods:
        manifests = Manifests(tmp_path)
        manifests.write_policy("flow", ["ipSend"], granularity="flow")
        manifests.write_pods(PodManifest("a", pods.a.netns.path))
        options = ["--collect-interval", f"{INTERVAL}s", "--otlp-endpoint", faulty.url]
        with running(manifests, tmp_path, options=options) as made:
            made.wait_ready(30)
            wait_until(lambda: made.metrics().monitored(), deadline=10, what="the policy runs")
            spray(pods, FLOWS)
            wait_until(lambda: made.value("dolphin_agent_flows") >= FLOWS, deadline=10, what="the flows are there")
            scrape_all(made)
            yield made


def connect(agent: Agent) -> socket.socket:
    """A connection that is not used yet; its receive buffer is small."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    made.settimeout(10)
    made.connect(("127.0.0.1", agent.port))
    return made


@contextmanager
def repeated(work: Callable[[], None], count: int = SCRAPERS, apart: float = 0) -> Iterator[None]:
    """Many threads do it again and again, each beginning a little later; what one raises is raised at the end."""
    over = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            while not over.is_set():
                work()
        except Exception as fault:  # noqa: BLE001 - the test's thread raises it
            raised.append(fault)

    threads = [threading.Thread(target=run) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
            time.sleep(apart)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if raised:
        raise raised[0]


def scrape_all(agent: Agent) -> None:
    """So many at the same moment."""
    with repeated(lambda: scrape(agent)):
        pass


def scrape(agent: Agent) -> None:
    """Read all of it."""
    status, text = agent.get("/metrics")
    assert status == 200
    assert text.count("\ndolphin_flow_ip_send_packets_total{") > FLOWS


def hang_up(agent: Agent) -> None:
    """Read a little and reset the connection."""
    with connect(agent) as made:
        made.sendall(REQUEST)
        made.recv(100)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def parallel(agent: Agent) -> AbstractContextManager[None]:
    """All of them at once, all the time."""
    return repeated(lambda: scrape(agent))


def rude(agent: Agent) -> AbstractContextManager[None]:
    """They hang up in the middle."""
    return repeated(lambda: hang_up(agent))


def slow(agent: Agent) -> AbstractContextManager[None]:
    """They read 1 KB/s, for as long as they may, each an answer of its own."""

    def read() -> None:
        with connect(agent) as made, suppress(ConnectionResetError):
            made.sendall(REQUEST)
            began = time.monotonic()
            while made.recv(RATE):
                time.sleep(1)
                assert time.monotonic() - began < 30, "it may read for ever"

    return repeated(read, 2 * SCRAPERS, SHARED_SECONDS / 2)


@contextmanager
def silent(agent: Agent) -> Iterator[None]:
    """Far more connections than it serves at once, and not a word."""
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(connect(agent))
        yield


def threads(agent: Agent) -> int:
    """How many the agent has."""
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(status.partition("Threads:")[2].split()[0])


def pushes(faulty: Faulty) -> list[float]:
    """When the first request of each push arrived."""
    first: dict[int, float] = {}
    for received in faulty.received:
        point = received.message.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points[0]
        first.setdefault(point.time_unix_nano, received.at)
    return sorted(first.values())


@pytest.mark.parametrize(
    ("scrapers", "most"), [(parallel, GROWTH), (rude, GROWTH), (slow, SLOW_GROWTH), (silent, GROWTH)]
)
def test_scrapers_disturb_nobody(
    scrapers: Callable[[Agent], AbstractContextManager[None]], most: int, agent: Agent, faulty: Faulty
) -> None:
    """Pushes stay punctual, memory flat, the log quiet, and a scrape beside them is answered."""
    settled, lines = agent.rss(), agent.log.count("\n")
    with scrapers(agent):
        began = time.monotonic()
        time.sleep(INTERVAL)
        while time.monotonic() - began < (PUSHES + 1) * INTERVAL + 1:
            asked = time.monotonic()
            scrape(agent)
            assert time.monotonic() - asked < INTERVAL, "a scrape beside them waits"
            assert threads(agent) <= MOST_THREADS
            time.sleep(1)
        ended = time.monotonic()
        grown = agent.rss() - settled
    intervals = [later - earlier for earlier, later in pairwise(pushes(faulty)) if began <= earlier and later <= ended]
    print(f"intervals {intervals}, grown by {grown / 2**20:.1f} MiB")
    assert len(intervals) >= PUSHES - 1
    assert max(abs(one - INTERVAL) for one in intervals) < JITTER * INTERVAL
    assert grown < most
    assert agent.log.count("\n") == lines, agent.log
    assert "Traceback" not in agent.log
