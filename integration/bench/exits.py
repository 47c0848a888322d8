"""What an exit costs with many flows: ours, the SDK's PrometheusMetricReader, and a plain prometheus_client collector.

Each is a process of its own that has the same flows, counts them anew before a scrape, and is scraped from here; then
by many at once while a thread collects every second. Last, what OTLP costs, ours and the SDK's encoder.
`make bench-userspace`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from dolphin_agent.agent import relax_collector
from dolphin_agent.export.otlp_data import batches
from dolphin_agent.export.otlp_request import make_envelope, requests
from dolphin_agent.log import configure
from dolphin_agent.readings import SHARED_SECONDS
from integration.bench.servers import SERVE, Collected
from integration.bench.userspace import resident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


SCRAPES = 100
PARALLEL = 20
PARALLEL_SECONDS = 10.0
TICK = 0.001


class Gaps(threading.Thread):
    """Wakes each millisecond; the longest time that it could not is how long one step kept all threads waiting.

    By the clock or in processor time of this process, whichever is less: neither other processes nor what threads do
    side by side, such as sending, makes it longer.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.start()

    def run(self) -> None:
        """Measure for ever."""
        before = time.monotonic(), time.process_time()
        while True:
            time.sleep(TICK)
            now = time.monotonic(), time.process_time()
            self.longest = max(self.longest, min(b - a for a, b in zip(before, now, strict=True)))
            before = now


def child(kind: str, series: int) -> None:
    """Serve, and answer each line of standard input with what there is to say."""
    relax_collector()
    configure("error", "console")
    empty = resident()
    collected = Collected(series)
    port = SERVE[kind](collected)
    gaps, late = Gaps(), 0.0

    def collect() -> None:
        nonlocal late
        due = time.monotonic()
        while True:
            due += 1
            time.sleep(max(0.0, due - time.monotonic()))
            collected.collect()
            late = max(late, time.monotonic() - due)

    for line in sys.stdin:
        if line.strip() == "collect":
            threading.Thread(target=collect, daemon=True).start()
        used = resource.getrusage(resource.RUSAGE_SELF)
        said = {
            "port": port,
            "grown": resident() - empty,
            "cpu": used.ru_utime + used.ru_stime,
            "gap": gaps.longest,
            "late": late,
        }
        gaps.longest = 0.0
        print(json.dumps(said), flush=True)


def scrape(port: int) -> tuple[float, int]:
    """Seconds, and lines of series."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    began = time.monotonic()
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    taken = time.monotonic() - began
    connection.close()
    return taken, body.count(b"\ndolphin_flow_")


def measure(kind: str, series: int, scrapes: int) -> None:
    """Print a row."""
    command = [sys.executable, "-m", __spec__.name, "--series", str(series), "--child", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def ask(what: str = "") -> dict[str, float]:
            print(what, file=process.stdin, flush=True)
            assert process.stdout
            answer: dict[str, float] = json.loads(process.stdout.readline())
            return answer

        port = int(ask()["port"])
        assert scrape(port)[1] >= series, "not all series are there"
        before = ask()
        times = []
        for _ in range(scrapes):
            time.sleep(SHARED_SECONDS)
            times.append(scrape(port)[0])
        alone = ask()
        ask("collect")
        end = time.monotonic() + PARALLEL_SECONDS

        def repeat() -> None:
            while time.monotonic() < end:
                scrape(port)

        threads = [threading.Thread(target=repeat) for _ in range(PARALLEL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = ask()
        process.kill()
    cpu = (alone["cpu"] - before["cpu"]) / scrapes
    centiles = statistics.quantiles(times, n=100)
    print(
        f"{kind:24}{centiles[49]:8.3f}{centiles[98]:8.3f}{cpu:8.3f}{alone['gap'] * 1000:8.0f}"
        f"{alone['grown'] / 2**20:8.1f}{together['late']:10.3f}{together['gap'] * 1000:8.0f}"
        f"{together['grown'] / 2**20:8.1f}",
        flush=True,
    )


def timed(title: str, make: Callable[[], Iterable[bytes]]) -> None:
    """Do it and print its processor time, the longest step for other threads, and the size."""
    gaps, started = Gaps(), time.process_time()
    size = sum(len(one) for one in make())
    taken = time.process_time() - started
    print(f"{title:36}{taken:8.3f}{gaps.longest * 1000:8.0f}{size / 2**20:8.1f}", flush=True)


def otlp(series: int) -> None:
    """Print what building and encoding all requests costs."""
    collected = Collected(series)
    relax_collector()
    resource_, scope = Resource({"service.name": "bench"}), InstrumentationScope("bench")
    envelope = make_envelope(resource_, scope)

    def ours() -> Iterator[bytes]:
        return (one.SerializeToString() for one in requests(collected.collect(), envelope))

    def sdk() -> Iterator[bytes]:
        made = batches(collected.collect(), resource_, scope)
        return (encode_metrics(one).SerializeToString() for one in made)

    timed("collecting alone", lambda: (b"" for _ in [collected.collect()]))
    timed("OTLP, attributes written down", ours)
    timed("OTLP, attributes known", ours)
    timed("OTLP, by the SDK's encoder", sdk)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=50_000, metavar="N", help="flow series (50000)")
    parser.add_argument("--scrapes", type=int, default=SCRAPES, metavar="N", help=f"one by one ({SCRAPES})")
    parser.add_argument("--child", choices=SERVE, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.series)
        return 0
    print(f"{options.series} flow series    one scraper: seconds        GIL   grown   {PARALLEL} at once: GIL   grown")
    print(f"{'':24}{'median':>8}{'p99':>8}{'CPU':>8}{'ms':>8}{'MiB':>8}{'late, s':>10}{'ms':>8}{'MiB':>8}")
    for kind in SERVE:
        measure(kind, options.series, options.scrapes)
    print(f"\n{'':36}{'CPU, s':>8}{'GIL, ms':>8}{'MiB':>8}")
    otlp(options.series)
    return 0


if __name__ == "__main__":
    sys.exit(main())
