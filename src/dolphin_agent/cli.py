"""The commands. Exit status 0: done; 1: the answer is no, or it could not be done; 2: wrong usage."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent import check, config, log
from dolphin_agent.agent import Agent
from dolphin_agent.errors import BpfError, DolphinError
from dolphin_agent.policy.validate import validate_files

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except DolphinError as fault:
        print(f"dolphin-agent: {fault}", file=sys.stderr)  # noqa: T201 - this is the user interface
        if isinstance(fault, BpfError) and fault.log:
            print(fault.log, file=sys.stderr)  # noqa: T201
        return 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dolphin-agent", description=__doc__)
    parser.add_argument("--version", action="version", version=version("dolphin-agent"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="monitor what the policies ask for")
    config.add_arguments(run)
    run.set_defaults(command=_run)

    able = commands.add_parser("check", help="can this node run each item? tried by attaching every hook")
    able.set_defaults(command=_check)

    valid = commands.add_parser("validate", help="are these MonitorPolicy files right?")
    valid.add_argument("files", nargs="+", metavar="FILE", type=Path)
    valid.set_defaults(command=_validate)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    settings = config.load(vars(arguments))
    log.configure(settings.log_level, settings.log_format)
    Agent(settings).run()
    return 0


def _check(_: argparse.Namespace) -> int:
    log.configure("error", "console")
    rows, able = check.check()
    print(check.table(rows))  # noqa: T201
    return 0 if able else 1


def _validate(arguments: argparse.Namespace) -> int:
    faults, good = validate_files(arguments.files)
    for fault in faults:
        print(fault)  # noqa: T201
    if not faults:
        print(f"{good} MonitorPolicy object(s), all right")  # noqa: T201
    return 1 if faults else 0
