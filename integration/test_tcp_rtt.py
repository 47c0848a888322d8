"""tcpRtt against `ss -ti` and the delay that netem adds."""

from __future__ import annotations

import json
import re
import statistics
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.snapshot.buckets import MICROSECONDS
from integration.lib import links, traffic
from integration.lib.counters import FAMILIES
from integration.lib.manifests import PodManifest
from integration.lib.watch import watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dolphin_agent.snapshot.model import Distribution
    from integration.conftest import StartAgent
    from integration.lib.counters import Family
    from integration.lib.manifests import Manifests
    from integration.lib.topology import Pair, Pod
    from integration.lib.watch import Watch

METRIC = "dolphin_flow_tcp_rtt_microseconds"
EXCHANGES = 40
PAUSE = 0.05
"""Seconds between exchanges, so that ss can look on."""


@pytest.fixture
def watch(pods: Pair) -> Iterator[Watch]:
    """Pod A is sampled."""
    with watching({"a": pods.a.netns.path.stat().st_ino}) as made:
        yield made


def median_bucket(value: Distribution) -> int:
    """The bucket that the median sample is in."""
    rest = value.count / 2
    for bucket, count in sorted(value.counts.items()):
        rest -= count
        if rest <= 0:
            return bucket
    raise AssertionError("no samples")


def bucket_of(us: float) -> int:
    """The bucket that a value belongs to, by its bounds."""
    return next(bucket for bucket in range(MICROSECONDS.last + 1) if us <= MICROSECONDS.upper_bound(bucket))


class Shown:
    """What `ss -ti` shows of a pod's connections to a port, asked again and again.

    srtt: the round-trip times, in microseconds.
    """

    def __init__(self, pod: Pod, port: int) -> None:
        self.srtt: list[int] = []
        self._pod, self._port = pod, port
        self._seen, self._stop = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Wait for the first answer: a guest under emulation can take seconds to start ss."""
        assert self._seen.wait(30), "ss shows no connection"

    @contextmanager
    def polling(self) -> Iterator[Shown]:
        """Ask while the block runs."""
        thread = threading.Thread(target=self._poll)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _poll(self) -> None:
        while not self._stop.is_set():
            text = self._pod.netns.run(["ss", "-tinH", "state", "established", f"( dport = :{self._port} )"])
            self.srtt.extend(round(float(ms) * 1000) for ms in re.findall(r"\brtt:([\d.]+)/", text))
            if self.srtt:
                self._seen.set()
            self._stop.wait(0.05)


@pytest.mark.parametrize("delay", [1, 10, 100])
@pytest.mark.parametrize("family", FAMILIES)
def test_median_is_that_of_ss(pods: Pair, watch: Watch, family: Family, delay: float) -> None:
    """Exchanges over a delayed path: one sample each, the median within one bucket of what the kernel shows.

    `ss -ti` shows now and then what the client's own TCP_INFO says after each exchange. The median is also at least the
    delay, and the samples' sum lies within their buckets.
    """
    with links.netem(pods.a, delay=delay), Shown(pods.a, 8080).polling() as shown:
        read = traffic.exchanges(pods.a, pods.b, family, count=EXCHANGES, pause=PAUSE, before_closing=shown.wait)
    value = watch.distributions()[family, "ephemeral", "8080"]
    assert set(shown.srtt) <= set(read)
    assert EXCHANGES * 0.8 <= value.count + watch.lost_samples() <= EXCHANGES + 3
    assert abs(median_bucket(value) - bucket_of(statistics.median(read))) <= 1
    assert median_bucket(value) >= bucket_of(delay * 1000)
    bounds = [
        (MICROSECONDS.upper_bound(bucket - 1), MICROSECONDS.upper_bound(bucket), n)
        for bucket, n in value.counts.items()
    ]
    assert sum(low * n for low, _, n in bounds) <= value.sum <= sum(high * n for _, high, n in bounds)


def test_bulk_is_sampled_once_per_round_trip(pods: Pair, watch: Watch) -> None:
    """A connection that moves data does not outvote others: a sample per round trip, not per segment."""
    seconds = 3
    with links.netem(pods.a, delay=10):
        report = traffic.iperf3(pods.a, pods.b, "ipv4", "--time", str(seconds), size=0)
    value = watch.distributions()["ipv4", "ephemeral", "5201"]
    round_trips = seconds * 1_000_000 / (value.sum / value.count)
    segments = report["end"]["sum_sent"]["bytes"] / 1448
    assert round_trips * 0.3 < value.count < round_trips * 1.5
    assert value.count < segments / 4


def test_receiver_is_not_sampled(pods: Pair, watch: Watch) -> None:
    """A pod that only receives acknowledges segments, but its own acknowledgements tell no round trip."""
    traffic.iperf3(pods.b, pods.a, "ipv4", size=3_000_000)
    samples = sum(value.count for value in watch.distributions().values())
    assert 0 < samples < 30, "the control connection's"


def test_histogram_leaves_through_prometheus(pods: Pair, manifests: Manifests, start_agent: StartAgent) -> None:
    """Pod as source; bounds cumulate to the count; the mean is at least the delay."""
    manifests.write_policy("rtt", ["tcpRtt"], granularity="flow")
    manifests.write_pods(PodManifest("a", pods.a.netns.path))
    agent = start_agent()
    with links.netem(pods.a, delay=10):
        traffic.exchanges(pods.a, pods.b, "ipv4", count=EXCHANGES)
    flow = {"pod": "default/a", "srcip": pods.a.ipv4, "dstip": pods.b.ipv4, "srcport": "ephemeral", "dstport": "8080"}
    samples = agent.metrics()
    count = samples.value(f"{METRIC}_count", **flow)
    assert count >= EXCHANGES * 0.8
    assert samples.value(f"{METRIC}_bucket", **flow, le="+Inf") == count
    assert samples.value(f"{METRIC}_bucket", **flow, le="4096") == 0
    assert samples.value(f"{METRIC}_sum", **flow) / count >= 10_000
    assert not json.loads(agent.get("/readyz")[1])["problems"]
