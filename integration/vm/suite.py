"""The tests of integration/, in one guest per kernel."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from integration.vm import boot, kernels, report
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from integration.vm.report import Outcome

_T = TypeVar("_T")

_BUILD = boot.PROJECT / "build"
# Only what is in integration/ itself runs in guests: the harness boots them, and the other folders have servers.
_FOLDERS = sorted(path.parent.name for path in (boot.PROJECT / "integration").glob("*/__init__.py"))
_PYTEST = ("-p", "no:cacheprovider", "--color=no", *(f"--ignore=integration/{name}" for name in _FOLDERS))

# The kernel patches its code through a breakpoint. Under QEMU's threads a guest now and then dies of one that is no
# longer there (7.2 in netif_rx_internal, 6.12 in inet6_ehashfn): presumably a stale translation. It is said,
# and tried once more; a second time it is a failure.
EMULATOR_FAULT = "Oops: int3"
_ATTEMPTS = 2


class Options(NamedTuple):
    """How to run the suite."""

    arguments: Sequence[str]
    """For pytest; paths among them replace integration/."""
    timeout: float
    """Seconds that one guest may take."""
    jobs: int | None
    """Guests at a time; None for as many as the machine has processors: a guest rarely keeps two of them busy."""


async def run(chosen: Sequence[kernels.Kernel], options: Options, machine: boot.Machine) -> int:
    """Run the tests on each kernel, print what they print and a total, and return the exit status.

    It is 0 only where every kernel booted, every test passed, none was skipped, and there was one at all.
    """
    compile_sources()
    _BUILD.mkdir(exist_ok=True)
    outcomes = await side_by_side(
        chosen, options.jobs, lambda kernel, write: _run_kernel(kernel, options, machine, write)
    )
    _print(f"\n{report.total(outcomes)}\n".encode())
    return 0 if outcomes and all(outcome.passed for outcome in outcomes) else 1


async def side_by_side(
    chosen: Sequence[kernels.Kernel],
    jobs: int | None,
    run_one: Callable[[kernels.Kernel, Callable[[bytes], object]], Awaitable[_T]],
) -> list[_T]:
    """Do something with a guest of each kernel, which prints by what it is given, so many at a time (Options.jobs)."""
    jobs = min(len(chosen), jobs or os.cpu_count() or 1)
    slots = asyncio.Semaphore(jobs)

    async def guarded(kernel: kernels.Kernel) -> _T:
        async with slots:
            if jobs == 1:
                _print(_heading(kernel).encode())
                return await run_one(kernel, _print)
            printed: list[bytes] = []
            result = await run_one(kernel, printed.append)
            # Whole and in one go: lines of kernels that run side by side do not mix.
            _print(b"".join((_heading(kernel).encode(), *printed)))
            return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(guarded(kernel)) for kernel in chosen]
    return [task.result() for task in tasks]


async def _run_kernel(
    kernel: kernels.Kernel, options: Options, machine: boot.Machine, write: Callable[[bytes], object]
) -> Outcome:
    started = time.monotonic()
    results = _BUILD / f"vm-{kernel.name}.xml"
    results.unlink(missing_ok=True)
    out = _BUILD / f"vm-{kernel.name}"
    shutil.rmtree(out, ignore_errors=True)
    pytest = [sys.executable, "-m", "pytest", *_PYTEST, f"--junitxml={boot.GUEST_OUT}/junit.xml"]
    selection = [] if any(_is_path(argument) for argument in options.arguments) else ["integration"]
    job = boot.Job([*pytest, *selection, *options.arguments], timeout=options.timeout, out=out)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            cached = await asyncio.to_thread(kernels.prepare, kernel)
            status = await boot.run(cached, job, machine, write)
            (out / "junit.xml").rename(results)
            outcome = report.read(kernel.name, results, status)
            break
        except (HarnessError, FileNotFoundError) as error:
            write(f"harness: {error}\n".encode())
            outcome = report.fault(kernel.name, results, error)
            if EMULATOR_FAULT not in str(error) or attempt == _ATTEMPTS:
                break
            write(b"harness: presumably the emulator's fault: once more, from the start\n")
            shutil.rmtree(out, ignore_errors=True)
    write(f"kernel {kernel.name}: {outcome} in {time.monotonic() - started:.0f} s\n".encode())
    return outcome


def _is_path(argument: str) -> bool:
    return (boot.PROJECT / argument.partition("::")[0]).exists()


def compile_sources() -> None:
    """Compile Python's files on the machine: in the guest it takes ten times as long, and cannot be kept."""
    directories = [boot.PROJECT / "src", boot.PROJECT / "integration", sysconfig.get_path("purelib")]
    command = [sys.executable, "-m", "compileall", "-q", *map(str, directories)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


def _heading(kernel: kernels.Kernel) -> str:
    return f"\n======== kernel {kernel.name} ========\n"


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
