"""What the agent's own side costs: flows decoded and added up, and a snapshot encoded. `make bench-userspace`.

The drained tables are made here, as the kernel would have filled them; all else is the agent's own code, on this
machine's kernel and in one thread.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent.agent import relax_collector
from dolphin_agent.bpf.flow_tables import DrainedTable, Limits
from dolphin_agent.bpf.layouts import Flow4, Record
from dolphin_agent.export import prometheus
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.pods.backend import Backend
from dolphin_agent.pods.model import Pod
from dolphin_agent.policy.model import MonitorPolicy
from dolphin_agent.policy.vocabulary import Granularity
from dolphin_agent.probes.engine import Drain
from dolphin_agent.probes.plan import make_plan
from dolphin_agent.snapshot.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

SLOT = 1
CHUNK = 64
BACKEND = Backend(Pod("default", "web", "uid", FrozenMap({}), "/run/netns/web"), 4026532000)
ITEMS = {"ipReceive": Granularity.FLOW, "tcpReceive": Granularity.FLOW}


def table(flows: int) -> DrainedTable:
    """A table with this many flows of one pod; as half of a table is empty, so is every other entry."""
    drained = DrainedTable("flows4")
    entries = bytearray()
    for number in range(flows):
        entry = Flow4()
        entry.key[0] = 6 | Record.RECEIVED << 8 | SLOT << 16 | (number & 0x7FFF) + 1 << 32
        entry.key[1] = 0x0100000A | number << 32
        entry.traffic.packets, entry.traffic.bytes = 10, 10_000
        entry.traffic.segments, entry.traffic.payload = 10, 9_600
        entries += bytes(entry) + bytes(len(bytes(entry)))
    step = CHUNK * (len(entries) // flows // 2)
    drained.chunks = [bytes(entries[start : start + step]) for start in range(0, len(entries), step)]
    return drained


def resident() -> int:
    """Resident memory now, in bytes (statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def timed(title: str, work: Callable[[], object]) -> None:
    """Do it and print its CPU time."""
    started = time.process_time()
    work()
    print(f"{title:44} {(time.process_time() - started) * 1000:8.0f} ms")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=100_000, metavar="N", help="flows in one drain (100000)")
    flows = parser.parse_args().flows
    policy = MonitorPolicy("kube-system", "bench", monitor=FrozenMap(ITEMS))
    ledger = Ledger(Limits(max_flows=flows), idle_seconds=300.0)
    ledger.follow(make_plan([policy], [BACKEND]).series, 1.0)
    drain = Drain({}, {SLOT: BACKEND.key}, (table(flows),))
    relax_collector()
    before = resident()
    print(f"{flows} flows")
    timed("decode and add up, all new", lambda: ledger.credit(drain, 2.0))
    timed("decode and add up, all known", lambda: ledger.credit(drain, 3.0))
    print(f"{'resident memory of the records':44} {(resident() - before) / 2**20:8.1f} MiB")
    timed("snapshot, labels made", lambda: ledger.snapshot(4.0))
    snapshot = ledger.snapshot(5.0)
    timed("snapshot, labels known", lambda: ledger.snapshot(5.0))
    timed(f"Prometheus text, {snapshot.series} series", lambda: prometheus.encode(snapshot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
