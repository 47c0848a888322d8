"""Commands of the harness: `python -m integration.vm --help`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vm import boot, kernels, suite
from integration.vm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Coroutine

EXIT_HARNESS = 125
"""Exit status for a fault of the harness: a command's own statuses end at 124 in common use."""


def main() -> int:
    """Run one command and return the exit status."""
    return finish(_run(_parser().parse_args()))


def finish(command: Coroutine[object, object, int]) -> int:
    """Run it until it ends or is ended by SIGINT or SIGTERM, its guests with it, and return the exit status."""

    async def cancelled_by_sigterm() -> int:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await command

    try:
        return asyncio.run(cancelled_by_sigterm())
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        return EXIT_HARNESS
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


async def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "prepare":
        return _prepare(arguments)
    machine = boot.Machine(
        arguments.cpus,
        arguments.memory,
        tuple(arguments.append),
        counted=arguments.counted,
        forward=arguments.forward,
        tap=arguments.tap,
    )
    if arguments.command == "run":
        return await _run_one(arguments, machine)
    options = suite.Options(arguments.pytest_arguments, arguments.timeout, arguments.jobs)
    return await suite.run([kernels.find(name) for name in arguments.kernels.split()], options, machine)


def _prepare(arguments: argparse.Namespace) -> int:
    for name in arguments.kernels.split():
        started = time.monotonic()
        cached = kernels.prepare(kernels.find(name))
        spent = time.monotonic() - started
        sys.stdout.write(f"{name}: {cached.release} ({cached.version}) in {cached.directory}, {spent:.1f} s\n")
    return 0


async def _run_one(arguments: argparse.Namespace, machine: boot.Machine) -> int:
    cached = kernels.prepare(kernels.find(arguments.kernel))
    job = boot.Job(arguments.argv, timeout=arguments.timeout, out=arguments.out, keep=tuple(arguments.keep))
    return await boot.run(cached, job, machine, write_through)


def write_through(data: bytes) -> None:
    """Print a guest's output at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(kernel.name for kernel in kernels.SUPPORTED)
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--cpus", type=int, default=2, help="processors of the guest (default 2)")
    machine.add_argument("--memory", type=int, default=1024, metavar="MIB", help="memory (default 1024 MiB)")
    machine.add_argument("--append", action="append", default=[], metavar="PARAMETER", help="kernel parameter")
    forwarded = "an address by which the guest reaches a port of this machine's loopback"
    machine.add_argument("--forward", default="", metavar="ADDRESS:PORT:LOCAL", help=forwarded)
    machine.add_argument("--tap", default="", metavar="DEVICE", help="a tap device as the guest's network device")
    machine.add_argument("--counted", action="store_true", help="repeatable time: 1 instruction takes 1 ns")

    parser = argparse.ArgumentParser(prog="python -m integration.vm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    prepare = commands.add_parser("prepare", help="fetch kernels into the cache")
    prepare.add_argument("--kernels", required=True, help=f"space-separated; there are {known}")

    run = commands.add_parser("run", parents=[machine], help="run a command in a guest, exit with its status")
    run.add_argument("--kernel", required=True, help=f"one of {known}")
    run.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds until it is killed (300)")
    run.add_argument("--out", type=Path, metavar="DIR", help="where the guest's $DOLPHIN_VM_OUT is copied to")
    kept = "a directory below /tmp, /run or /var/tmp that the guest is to see"
    run.add_argument("--keep", action="append", default=[], type=Path, metavar="DIR", help=kept)
    run.add_argument("argv", nargs="+", metavar="CMD", help="the command and its arguments, after --")

    pytest = commands.add_parser("pytest", parents=[machine], help="run the tests in a guest per kernel")
    pytest.add_argument("--kernels", required=True, help=f"space-separated; there are {known}")
    pytest.add_argument("--timeout", type=float, default=2700, metavar="S", help="seconds per guest (2700)")
    pytest.add_argument("--jobs", type=int, metavar="N", help="guests at a time (default: one a processor)")
    pytest.add_argument("pytest_arguments", nargs="*", metavar="ARG", help="arguments of pytest, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
