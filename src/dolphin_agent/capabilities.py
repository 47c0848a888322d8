"""What this process is privileged to do (capabilities(7))."""

from __future__ import annotations

import re
from pathlib import Path

STATUS = Path("/proc/self/status")

BITS = {"CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""Of linux/capability.h; those that the agent has a use for."""


def held(name: str, status: str | None = None) -> bool:
    """Whether a capability is in the effective set; `status` stands for /proc/self/status."""
    text = STATUS.read_text() if status is None else status
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> BITS[name] & 1)
