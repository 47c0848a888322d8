"""Faults of a guest come back as the right error. Runs on the machine: it boots guests of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from integration.vm import apt, boot, console, kernels, report, tools
from integration.vm.errors import (
    GuestCrashError,
    GuestLostError,
    GuestTimeoutError,
    KernelUnavailableError,
    MissingToolError,
)

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = os.environ.get("DOLPHIN_VM_KERNEL", "6.1")
"""The kernel to provoke; faults are handled alike on all."""


@pytest.fixture(scope="module")
def kernel() -> kernels.CachedKernel:
    """A kernel that boots."""
    return kernels.prepare(kernels.find(KERNEL))


def run(kernel: kernels.CachedKernel, script: str, timeout: float = 60, out: Path | None = None) -> tuple[int, str]:
    """Run a shell script in a guest and return (exit status, output)."""
    printed: list[bytes] = []
    job = boot.Job(["sh", "-c", script], timeout=timeout, out=out)
    status = asyncio.run(boot.run(kernel, job, boot.Machine(), printed.append))
    return status, b"".join(printed).decode()


def test_status_output_and_files_come_back(kernel: kernels.CachedKernel, tmp_path: Path) -> None:
    """A failing command is no fault of the harness: its status, output and files come back."""
    status, output = run(kernel, 'uname -r; pwd; echo kept >"$DOLPHIN_VM_OUT/file"; exit 23', out=tmp_path)
    assert status == 23
    assert output == f"{kernel.release}\n{boot.PROJECT}\n"
    assert (tmp_path / "file").read_text() == "kept\n"


def test_machine_is_read_only(kernel: kernels.CachedKernel) -> None:
    """A guest cannot change the machine's files, but has scratch space."""
    status, output = run(kernel, f"touch {boot.PROJECT}/pyproject.toml; touch /tmp/x /run/x /var/tmp/x /dev/shm/x")
    assert status == 0
    assert "Read-only file system" in output


def test_words_of_a_command_are_not_the_kernels(kernel: kernels.CachedKernel) -> None:
    """A command may print what a crashing kernel prints."""
    assert run(kernel, "echo Kernel panic - not syncing: BUG: Oops")[0] == 0


def test_panic(kernel: kernels.CachedKernel) -> None:
    """A panic is a crash, told with the console's end, and does not wait for the deadline."""
    with pytest.raises(GuestCrashError, match=r"Kernel panic|sysrq triggered crash") as caught:
        run(kernel, "echo c >/proc/sysrq-trigger")
    assert "Call Trace" in caught.value.console


def test_fault_that_the_kernel_survives(kernel: kernels.CachedKernel) -> None:
    """A kernel's report counts although the command succeeded."""
    with pytest.raises(GuestCrashError, match="BUG: soft lockup"):
        run(kernel, "echo '<2>BUG: soft lockup - CPU#0 stuck for 23s!' >/dev/kmsg")


def test_hang(kernel: kernels.CachedKernel) -> None:
    """A guest that does not end is killed at its deadline."""
    started = time.monotonic()
    with pytest.raises(GuestTimeoutError, match="longer than 8 s"):
        run(kernel, "sleep 1000", timeout=8)
    assert time.monotonic() - started < 12


def test_guest_that_ends_without_a_status(kernel: kernels.CachedKernel) -> None:
    """A guest that is switched off brings no status back: it is lost, not passed."""
    with pytest.raises(GuestLostError):
        run(kernel, "echo b >/proc/sysrq-trigger; sleep 100")


def test_unsupported_kernel() -> None:
    """An unknown name is answered with those that are known."""
    with pytest.raises(KernelUnavailableError, match=r"'2\.6' is not supported; there are 5\.10, 6\.1"):
        kernels.find("2.6")


def test_kernel_that_its_suite_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series that a suite does not have is an error that lists what it has; nothing half-made stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KernelUnavailableError, match=r"bookworm has no kernel 4\.0 for amd64; it has .*6\.1\."):
        kernels.prepare(kernels.Kernel("4.0", "bookworm"))
    assert [path.name for path in kernels.cache_root().iterdir()] == ["4.0.lock"]


def test_unreachable_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that does not answer is an error, not a kernel left out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(apt.MIRROR_VARIABLE, f"file:{tmp_path}/no-such-archive")
    with pytest.raises(KernelUnavailableError, match="no package list of bookworm"):
        kernels.prepare(kernels.Kernel("6.1", "bookworm"))


def test_missing_emulator(kernel: kernels.CachedKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without QEMU is told which package to install."""
    (tmp_path / "busybox").symlink_to(tools.find("busybox"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="qemu-system-x86"):
        run(kernel, "true")


def test_command_line_tells_faults_from_failures() -> None:
    """`run` exits with the command's status, and with 125 for a fault of its own."""
    command = [sys.executable, "-m", "integration.vm", "run", "--kernel"]
    failing = [*command, KERNEL, "--", "sh", "-c", "exit 7"]
    assert subprocess.run(failing, cwd=boot.PROJECT, check=False).returncode == 7
    missing = subprocess.run([*command, "2.6", "--", "true"], cwd=boot.PROJECT, check=False, capture_output=True)
    assert missing.returncode == 125
    assert b"not supported" in missing.stderr


@pytest.mark.parametrize(
    "line",
    [
        "[    9.1] Kernel panic - not syncing: Fatal exception",
        "[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[    9.1] INFO: task python:99 blocked for more than 120 seconds.",
        "[    9.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "[    9.1] rcu: INFO: rcu_sched self-detected stall on CPU",
        "[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 23s! [python:99]",
        "[    9.1] WARNING: CPU: 0 PID: 1 at kernel/bpf/core.c:1 f+0x0/0x1",
        "[    9.1] Out of memory: Killed process 99 (python)",
    ],
)
def test_faults_are_recognised(line: str) -> None:
    """Each way in which a kernel says that it is unwell."""
    assert console.find_fault(f"[    0.1] Linux version\n{line}\n") == line


def test_lost_guest_is_a_failed_test(tmp_path: Path) -> None:
    """Readers of JUnit XML see an error with the console, although pytest wrote nothing."""
    path = tmp_path / "vm.xml"
    outcome = report.fault("6.1", path, GuestLostError("the guest ended", "dying \x1b[31mwords"))
    assert not outcome.passed
    assert "dying" in path.read_text()
    assert report.read("6.1", path, 1) == report.Outcome("6.1", 1, 1, 0)


@pytest.mark.parametrize(
    ("cases", "status", "passed"),
    [
        ("<testcase/>", 0, True),
        ("", 0, False),
        ("<testcase/><testcase><skipped/></testcase>", 0, False),
        ("<testcase><failure/></testcase>", 1, False),
        ("<testcase><error/></testcase>", 1, False),
        ("<testcase/>", 2, False),
    ],
)
def test_only_green_tests_pass(tmp_path: Path, cases: str, status: int, *, passed: bool) -> None:
    """No test, a skipped one, a failed one, or a pytest that ended badly: none of them is a pass."""
    path = tmp_path / "vm.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert report.read("6.1", path, status).passed is passed
