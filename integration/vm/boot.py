"""Boots a kernel under QEMU's emulation and runs one command in it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vm import console, initramfs, kernels, tools
from integration.vm.architectures import AMD64
from integration.vm.errors import GuestCrashError, GuestLostError, GuestTimeoutError, HarnessError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

PROJECT = Path(__file__).resolve().parents[2]
"""The source tree, which the guest sees at the same path."""

OUT_VARIABLE = "DOLPHIN_VM_OUT"
"""Environment variable that tells the guest which directory is brought out to the machine."""

GUEST_OUT = Path("/run/dolphin-vm/exchange/out")
"""That directory's path in the guest."""

_MACHINE_ROOT = Path("/")

_GUEST_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PYTHONUNBUFFERED": "1",  # output goes into a pipe, and is to be seen as it comes
    "PYTHONDONTWRITEBYTECODE": "1",  # the root is read-only
}
_KERNEL_PARAMETERS = (
    "loglevel=5",  # warnings and worse: less to print is faster, and they are what the harness looks for
    "oops=panic",
    "panic=-1",
    # The rest is for speed: nothing to calibrate, to wait for, or to audit under emulation.
    "nokaslr",
    "random.trust_cpu=on",
    "rcupdate.rcu_expedited=1",
    "mitigations=off",
    "apparmor=0",
    "selinux=0",
    "audit=0",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine to emulate."""

    cpus: int = 2
    memory: int = 1024
    """In MiB."""
    append: tuple[str, ...] = ()
    """Further kernel parameters, such as `preempt=full`."""
    counted: bool = False
    """Run one processor at one instruction per nanosecond, so that times are repeatable instruction counts."""
    forward: str = ""
    """`ADDRESS:PORT:LOCAL`: a network device, by which the guest reaches a port of the machine's loopback as an address
    in 10.0.2.0/24, and nothing else. Empty: none."""
    tap: str = ""
    """A tap device of the network namespace that QEMU runs in, as the guest's network device. Empty: none."""
    root: Path = _MACHINE_ROOT
    """What the guest has as root. One that is not this machine's needs a static busybox where this machine has its own,
    what guest.sh runs, and an empty directory for each of the machine's that the guest is to see."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run in the guest."""

    argv: Sequence[str]
    cwd: Path = PROJECT
    timeout: float = 300
    """In seconds, from power on to power off."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the guest's own small environment."""
    out: Path | None = None
    """Directory on the machine to which everything in the guest's `DOLPHIN_VM_OUT` is copied."""
    keep: tuple[Path, ...] = ()
    """More directories of the machine that the guest is to see where its own /tmp, /run and /var/tmp hide them."""


async def run(kernel: kernels.CachedKernel, job: Job, machine: Machine, print_output: Callable[[bytes], object]) -> int:
    """Run a job in a fresh guest, handing on its output as it comes, and return its exit status.

    Cancelling kills the guest. Raises HarnessError and, of its kinds, MissingToolError, GuestCrashError,
    GuestTimeoutError and GuestLostError.
    """
    if kernel.architecture is not AMD64 and machine.root == _MACHINE_ROOT:
        raise HarnessError(
            f"kernel {kernel.name} cannot run this machine's programs: python -m integration.image.guest --kernel "
            f"{kernel.name} runs the image's"
        )
    with tempfile.TemporaryDirectory(prefix="dolphin-vm-") as temporary:
        work = Path(temporary)
        exchange = work / "exchange"
        _fill_exchange(exchange, kernel, job, machine.root)
        (work / "initramfs").write_bytes(initramfs.build(kernel, machine.root / tools.find("busybox").lstrip("/")))
        argv = _qemu(kernel, machine, work)
        timed_out = False
        async with _process(argv, work / "qemu.log") as (process, output):
            try:
                async with asyncio.timeout(job.timeout):
                    while data := await output.read(65536):
                        print_output(data)
                    await process.wait()
            except TimeoutError:
                timed_out = True
        if job.out is not None:
            shutil.copytree(exchange / "out", job.out, dirs_exist_ok=True)
        log = console.read(work / "console.log")
        tail = console.tail(log) + console.tail(console.read(work / "qemu.log"))
        if fault := console.find_fault(log):
            raise GuestCrashError(f"the guest's kernel {kernel.release} reported a fault: {fault}", tail)
        if timed_out:
            raise GuestTimeoutError(f"the guest ran longer than {job.timeout:g} s and was killed", tail)
        try:
            return int((exchange / "status").read_text())
        except (FileNotFoundError, ValueError):
            raise GuestLostError("the guest ended without an exit status", tail) from None


@contextlib.asynccontextmanager
async def _process(
    argv: Sequence[str], errors: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """Run a program for the length of a block, and kill it, by its id, where it outlives that."""
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # a terminal's Ctrl-C is for the harness, which ends the guest itself
        )
    if process.stdout is None:
        raise AssertionError
    try:
        yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _fill_exchange(exchange: Path, kernel: kernels.CachedKernel, job: Job, root: Path) -> None:
    """Write what init.sh and guest.sh read into the directory that the guest shares with the machine."""
    out = exchange / "out"
    out.mkdir(parents=True)
    kept = {PROJECT, job.cwd, kernel.directory, *job.keep}
    if root == _MACHINE_ROOT:
        kept |= {Path(sys.prefix), Path(sys.base_prefix)}  # another root has its own Python
    # In order: a directory before those in it, which come with it.
    (exchange / "keep").write_text("".join(f"{path}\n" for path in sorted({path.resolve() for path in kept})))
    settings = {
        "guest_script": Path(__file__).with_name("guest.sh").resolve(),
        "modules": kernel.directory,
        "busybox": tools.find("busybox"),
        "line": kernel.architecture.job,
    }
    (exchange / "settings").write_text(_assignments(settings))
    environment = {
        **_GUEST_ENVIRONMENT,
        "MODPROBE_OPTIONS": f"-d {kernel.directory}",
        OUT_VARIABLE: GUEST_OUT,
        **job.env,
    }
    exports = "".join(f"export {line}\n" for line in _assignments(environment).splitlines())
    start = f"cd {shlex.quote(str(job.cwd))} && exec {shlex.join(job.argv)}\n"
    (exchange / "job").write_text(exports + start)


def _assignments(values: Mapping[str, object]) -> str:
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


def _qemu(kernel: kernels.CachedKernel, machine: Machine, work: Path) -> list[str]:
    # Emulation always: on some machines KVM hangs although /dev/kvm is there, and results must not differ.
    architecture = kernel.architecture
    parameters = (f"console={architecture.console}", *architecture.parameters, *_KERNEL_PARAMETERS, *machine.append)
    pace = ["-accel", "tcg,thread=multi", "-smp", str(machine.cpus)]
    if machine.counted:
        pace = ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=on"]
    return [
        tools.find(architecture.qemu[0]),
        *(*architecture.qemu[1:], *pace, "-m", f"{machine.memory}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.vmlinux), "-initrd", str(work / "initramfs")),
        *("-append", " ".join(parameters)),
        *("-chardev", f"file,id=console,path={work / 'console.log'}", "-serial", "chardev:console"),
        *("-chardev", "stdio,id=job,signal=off", *architecture.job_device),
        *_read_only("machine", _MACHINE_ROOT),
        *_read_only("root", machine.root),
        *("-fsdev", f"local,id=exchange,path={work / 'exchange'},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=exchange,mount_tag=exchange"),
        *_network(machine),
    ]


def _read_only(tag: str, path: Path) -> list[str]:
    shared = f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"
    return ["-fsdev", shared, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _network(machine: Machine) -> list[str]:
    if machine.tap:
        device = f"tap,id=net,ifname={machine.tap},script=no,downscript=no"
        return ["-netdev", device, "-device", "virtio-net-pci,netdev=net"]
    if not machine.forward:
        return []
    address, port, local = machine.forward.split(":")
    # A process for each connection: QEMU's own forwarding takes one connection in all.
    command = f"{tools.find('busybox')} nc 127.0.0.1 {local}"
    return [
        *("-netdev", f"user,id=net,restrict=on,guestfwd=tcp:{address}:{port}-cmd:{command}"),
        *("-device", "virtio-net-pci,netdev=net"),
    ]
