"""`dolphin-agent check`: can this node run each item? Tried by really attaching every rung."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dolphin_agent import capabilities
from dolphin_agent.bpf import drops, kernel, symbols
from dolphin_agent.bpf.flow_tables import Limits
from dolphin_agent.bpf.memory import MIB
from dolphin_agent.bpf.object import objects_directory
from dolphin_agent.bpf.tables import Tables
from dolphin_agent.errors import BpfError, ProbeError
from dolphin_agent.health.arping import open_arp
from dolphin_agent.health.ping import REPLY, open_icmp
from dolphin_agent.policy.vocabulary import IPFamily
from dolphin_agent.probes import ladder
from dolphin_agent.probes.items import ITEMS, NETNS_EXIT, SERVICE_PORTS, Rung

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dolphin_agent.probes.items import Probe


WIDEST = 110
"""Characters that a column is aligned to: a rung of a dozen hooks takes its own line out, not all the others."""


@dataclass(frozen=True)
class Row:
    """One rung of one item on this kernel."""

    item: str
    hooks: str
    verdict: str
    """`used`; `spare` for a rung below the one used; `refused`; `fits` for memory and for what pods and checks need."""
    reason: str


def check() -> tuple[list[Row], bool]:
    """A row per rung, and whether every item can be counted; health checks are told apart. Nothing stays attached.

    Raises UnavailableError when the machine lacks what every program needs.
    """
    kernel.require_privileges()
    kernel.require_btf()
    limits = Limits()
    tables = Tables(objects_directory(), limits)
    size = f"{tables.memory_bytes / MIB:.1f} MiB"
    try:
        reasons = dict(_try_all(tables))
    finally:
        tables.close()
    rows: list[Row] = []
    able = True
    ways = [(item.name, way) for item in ITEMS for way in item.ladders] + [("", SERVICE_PORTS)]
    for item, way in ways:
        found = [_refused(rung, reasons) for rung in way.rungs]
        used = next((index for index, reason in enumerate(found) if not reason), None)
        able = able and used is not None
        name = f"{item} {way.name}".strip()
        for index, (rung, reason) in enumerate(zip(way.rungs, found, strict=True)):
            verdict = "refused" if reason else "used" if index == used else "spare"
            hooks = ", ".join(probe.hooks for probe in rung.probes)
            rows.append(Row(name, hooks, verdict, reason or _quality(rung)))
    guard = reasons[NETNS_EXIT]
    rows.append(Row("(namespace guard)", NETNS_EXIT.hooks, "refused" if guard else "used", guard))
    rows.append(_functions_row())
    flows4, flows6 = tables.entries["flows4"], tables.entries["flows6"]
    room = f"{flows4} IPv4 and {flows6} IPv6 entries per CPU; {size} of kernel memory in all, with any policy"
    rows.append(Row("(flow tables)", f"--max-flows {limits.max_flows}", "fits", room))
    rows.append(_pods_row())
    rows.extend(_health_rows())
    return rows, able


def table(rows: Sequence[Row]) -> str:
    """The rows as text, columns aligned."""
    header = Row("ITEM", "HOOK", "VERDICT", "REASON")
    cells = [(row.item, row.hooks, row.verdict, row.reason) for row in (header, *rows)]
    widths = [min(WIDEST, max(len(cell[column]) for cell in cells)) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell[column].ljust(widths[column]) for column in range(3)), cell[3]]).rstrip() for cell in cells
    )


def _try_all(tables: Tables) -> Iterator[tuple[Probe, str]]:
    """Attaches each probe alone and detaches it again; the kernel's reason where it refuses, else empty."""
    support = (probe for rung in SERVICE_PORTS.rungs for probe in rung.probes)
    probes = dict.fromkeys((*(probe for item in ITEMS for probe in item.probes), *support))
    for probe in (*probes, NETNS_EXIT):
        try:
            ladder.attach(probe, tables).detach()
        except BpfError as fault:
            yield probe, str(fault)
        else:
            yield probe, ""


def _functions_row() -> Row:
    """Whether the kernel tells the function that drops a packet without a reason; nothing else needs it."""
    try:
        symbols.resolve([])
    except BpfError as fault:
        reason = f"{fault}; a drop without a reason has the reason `{drops.UNKNOWN}`"
        return Row("(functions that drop)", symbols.HOOK, "refused", reason)
    return Row("(functions that drop)", symbols.HOOK, "used", "")


def _pods_row() -> Row:
    """Whether the namespaces of Kubernetes' pods can be found; `run --standalone` is told where they are."""
    if capabilities.held("CAP_SYS_PTRACE"):
        return Row("(pods)", "/proc/PID/ns/net", "fits", "")
    reason = "CAP_SYS_PTRACE is missing: without it, whose network namespace is whose is not seen in Kubernetes"
    return Row("(pods)", "/proc/PID/ns/net", "refused", reason)


def _health_rows() -> Iterator[Row]:
    """Whether the sockets of health checks can be had: no policy needs them that does not ask for ping or arping."""
    for command, opened in (
        ("ping", partial(open_icmp, "ping", IPFamily.IPV4, REPLY[IPFamily.IPV4])),
        ("arping", open_arp),
    ):
        try:
            opened().close()
        except ProbeError as fault:
            yield Row("healthCheck", command, "refused", str(fault))
        else:
            yield Row("healthCheck", command, "fits", "")


def _refused(rung: Rung, reasons: dict[Probe, str]) -> str:
    return "; ".join(reasons[probe] for probe in rung.probes if reasons[probe])


def _quality(rung: Rung) -> str:
    return f"not exact: {rung.inexact}" if rung.inexact else "exact"
