"""Measures what the agent costs on each kernel, and compares: `python -m integration.bench --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from integration.bench import reference, report
from integration.vm import boot, kernels, suite
from integration.vm.__main__ import finish
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable

BASELINE = Path(__file__).with_name("baseline.json")
OVERHEAD = reference.BUILD / "overhead.md"
"""The table for documents."""


def main() -> int:
    """Run the guests and return the exit status: 1 where a cost rose or a program did not run."""
    return finish(_run(_parser().parse_args()))


async def _run(arguments: argparse.Namespace) -> int:
    """As many guests at a time as there are processors: other load changes how long they take, not what they count."""
    reference.build()
    suite.compile_sources()
    chosen = [kernels.find(name) for name in arguments.kernels.split()]
    measured = await suite.side_by_side(chosen, None, partial(_measure, arguments.timeout))
    return _conclude(
        {kernel.name: found for kernel, found in zip(chosen, measured, strict=True)}, rewrite=arguments.rewrite
    )


async def _measure(seconds: float, kernel: kernels.Kernel, write: Callable[[bytes], object]) -> report.Measured:
    """Run one guest; one that fails has an error in place of results."""
    out = reference.BUILD / kernel.name
    shutil.rmtree(out, ignore_errors=True)
    job = boot.Job([sys.executable, "-m", "integration.bench.guest"], timeout=seconds, out=out)
    machine = boot.Machine(counted=True)
    try:
        cached = await asyncio.to_thread(kernels.prepare, kernel)
        status = await boot.run(cached, job, machine, write)
    except HarnessError as error:
        write(f"harness: {error}\n".encode())
        return report.Measured(errors=[str(error).partition("\n")[0]])
    if status != 0:
        return report.Measured(errors=[f"the guest's part ended with status {status}"])
    return report.parse((out / report.RESULTS).read_text())


def _conclude(measured: dict[str, report.Measured], *, rewrite: bool) -> int:
    baseline: report.Baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if rewrite:
        # A guest that failed has nothing to put in place of the old figures.
        baseline = report.updated(baseline, {name: found for name, found in measured.items() if found.rows})
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
    cells = report.table(measured)
    OVERHEAD.write_text(report.markdown(cells))
    comparison = report.compare(measured, baseline)
    print(f"\n{report.text(cells)}", *comparison.lines(), sep="\n", flush=True)
    return 1 if comparison.failures else 0


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(kernel.name for kernel in kernels.SUPPORTED)
    parser = argparse.ArgumentParser(prog="python -m integration.bench", description=__doc__)
    parser.add_argument("--kernels", required=True, help=f"space-separated; there are {known}")
    parser.add_argument("--timeout", type=float, default=1200, metavar="S", help="seconds per guest (1200)")
    parser.add_argument("--rewrite", action="store_true", help="make what is measured the new baseline")
    return parser


if __name__ == "__main__":
    sys.exit(main())
