"""Faults of the harness, as distinct from a command that ran and failed.

HarnessError
+-- MissingToolError        a program of this machine that the harness needs is not there
+-- KernelUnavailableError  a kernel is not supported, or its package cannot be had
+-- GuestError              the virtual machine did not bring back an exit status that can be believed
    +-- GuestCrashError     its kernel reported a fault: panic, oops, BUG, hung task, stall
    +-- GuestTimeoutError   it was still running at its deadline, and was killed
    +-- GuestLostError      it ended without an exit status and without a word why
"""

from __future__ import annotations


class HarnessError(Exception):
    """Something went wrong that says nothing about the code under test."""


class MissingToolError(HarnessError):
    """A program of this machine is missing.

    `tool` is what was looked for and `package` the Debian package that has it.
    """

    def __init__(self, tool: str, package: str) -> None:
        super().__init__(f"{tool} is missing; install Debian's package {package}")


class KernelUnavailableError(HarnessError):
    """A kernel is not supported, or its package could not be found, fetched, verified or unpacked."""


class GuestError(HarnessError):
    """A virtual machine gave no usable exit status.

    `reason` is one line and `console` the end of what its kernel printed, which the message quotes.
    """

    def __init__(self, reason: str, console: str) -> None:
        quoted = "\n".join(f"  | {line}" for line in console.splitlines()) or "  (the console is empty)"
        super().__init__(f"{reason}\nend of the guest's console:\n{quoted}")
        self.reason = reason
        self.console = console


class GuestCrashError(GuestError):
    """The guest's kernel reported a fault."""


class GuestTimeoutError(GuestError):
    """The guest was still running at its deadline."""


class GuestLostError(GuestError):
    """The guest ended without writing an exit status."""
