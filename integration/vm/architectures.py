"""The architectures that guests may have, and how QEMU and Linux name what is in such a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of machine."""

    name: str
    """Debian's name for it."""
    qemu: tuple[str, ...]
    """The program that emulates it, with the machine's type and processor."""
    console: str
    """The kernel's serial line, QEMU's first."""
    job: str
    """The serial line of the job's output."""
    job_device: tuple[str, ...]
    """QEMU's options for that line, whose character device is `job`."""
    parameters: tuple[str, ...] = ()
    """Kernel parameters that only this architecture has."""


AMD64 = Architecture(
    "amd64",
    ("qemu-system-x86_64", "-M", "q35", "-cpu", "max"),
    console="ttyS0",
    job="ttyS1",
    job_device=("-serial", "chardev:job"),
    parameters=("8250.nr_uarts=2", "reboot=t", "tsc=reliable", "no_timer_check"),
)
ARM64 = Architecture(
    "arm64",
    # Pointers are signed by a fast function of QEMU's own: the architected one takes most of the time.
    ("qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on"),
    console="ttyAMA0",
    job="ttyS0",
    job_device=("-device", "pci-serial,chardev=job"),
)
