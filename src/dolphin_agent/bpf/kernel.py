"""What this kernel and this process can do."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent import capabilities
from dolphin_agent.bpf import libbpf
from dolphin_agent.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")

LOCKDOWN = Path("/sys/kernel/security/lockdown")

CAPABILITIES = ("CAP_BPF", "CAP_PERFMON")
"""BPF creates maps and loads programs, PERFMON lets tracing ones attach and read kernel memory; SYS_ADMIN implies both.
Nothing is pinned, so no bpffs is needed; nothing is configured, so no CAP_NET_ADMIN."""


def require_privileges(status: str | None = None) -> None:
    """Raises UnavailableError naming libbpf or the capabilities that are missing. BTF is checked per load."""
    libbpf.load()
    if missing := _missing(status):
        raise UnavailableError(_refusal(missing))


def uncounted(status: str | None = None) -> str:
    """Why this process can count nothing, though it may make health checks; empty where it can count.

    Raises UnavailableError like require_privileges where it can do neither, or has half of what counting takes.
    """
    missing = _missing(status)
    if len(missing) == len(CAPABILITIES) and capabilities.held("CAP_NET_RAW", status):
        return _refusal(missing)
    require_privileges(status)
    return ""


def _missing(status: str | None) -> list[str]:
    if capabilities.held("CAP_SYS_ADMIN", status):
        return []
    return [name for name in CAPABILITIES if not capabilities.held(name, status)]


def _refusal(missing: Sequence[str]) -> str:
    return (
        f"missing {' and '.join(missing)}: run as root, or add the capabilities "
        f"({' '.join(CAPABILITIES)}) to the container's securityContext or the unit's AmbientCapabilities"
    )


def require_btf() -> None:
    """Raises UnavailableError when the kernel does not describe its types, which CO-RE programs need."""
    if not VMLINUX_BTF.exists():
        raise UnavailableError(
            f"{VMLINUX_BTF} is missing: the kernel was built without CONFIG_DEBUG_INFO_BTF, or /sys is not mounted; "
            "use a distribution kernel 5.10 or newer, or mount sysfs"
        )


def charges_maps() -> bool:
    """Whether maps count towards the memory limit of the cgroup (5.11) and not towards RLIMIT_MEMLOCK."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 11)


@cache
def has_rdonly_cast() -> bool:
    """Whether programs may load from any kernel address (bpf_rdonly_cast, 6.2).

    BTF keeps all names in one string section; the function's name is there only where the kernel has it.
    """
    try:
        return b"\0bpf_rdonly_cast\0" in VMLINUX_BTF.read_bytes()
    except OSError:
        return False


def locked_down() -> str:
    """What to add to a refusal where the kernel is locked down for confidentiality; empty elsewhere.

    Programs may then not read kernel memory, and the kernel only says EINVAL (security_locked_down,
    LOCKDOWN_BPF_READ_KERNEL). It cannot be told where securityfs is not mounted.
    """
    try:
        if "[confidentiality]" not in LOCKDOWN.read_text():
            return ""
    except OSError:
        return ""
    return (
        "; the kernel is locked down (confidentiality), so that BPF programs may not read its memory: "
        "boot with lockdown=integrity or without lockdown"
    )
