"""How much memory this process's cgroup has left for the kernel's maps.

Asked before they are made: while they are, the limit can be used up to the brim, and whatever else the process
touches then gets it killed.
"""

from __future__ import annotations

import re
from pathlib import Path

MIB = 2**20

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def headroom(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int | None:
    """Bytes left below the tightest memory limit that holds for this process; None if there is none that can be read.

    Cgroup v2 only. File cache counts as left: the kernel gives it up before it refuses anything. In a container the
    own cgroup is the root of what is mounted.
    """
    try:
        found = re.search(r"^0::/(.*)$", own.read_text(), re.MULTILINE)
    except OSError:
        return None
    if not found:
        return None
    directory = cgroups / found[1]
    rooms = [room for path in (directory, *directory.parents) if (room := _room(path)) is not None]
    return min(rooms, default=None)


def _room(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        cache = int(stat["active_file"]) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + cache)
