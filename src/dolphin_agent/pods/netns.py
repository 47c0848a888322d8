"""Path -> network namespace. A namespace is opened only to be identified, and never held: it can always die."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dolphin_agent.errors import PodError

_NS_GET_NSTYPE = 0xB703  # _IO(0xb7, 3) of <linux/nsfs.h>; Python's fcntl has no name for it
_CLONE_NEWNET = 0x40000000
_KINDS = {
    0x00000080: "time",
    0x00020000: "mount",
    0x02000000: "cgroup",
    0x04000000: "UTS",
    0x08000000: "IPC",
    0x10000000: "user",
    0x20000000: "PID",
}


@dataclass(frozen=True, slots=True)
class NetnsId:
    """A network namespace, as the kernel tells them apart while they live."""

    device: int
    """Of the nsfs file system; the same for every namespace of a node."""
    inode: int
    """Can be given to another namespace once this one is dead."""


def resolve(path: str) -> NetnsId:
    """Identify the network namespace at `path`; PodError names what is there instead, and the remedy."""
    try:
        # A namespace looks like a regular file; anything else is not even opened, as that could set a device off.
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise PodError(_refusal(path, f"a {_file_type(mode)}"))
        found, kind = _identify(path)
    except FileNotFoundError as error:
        message = f"{path}: no such network namespace; is the path right, and does the pod still run?"
        raise PodError(message) from error
    except PermissionError as error:
        message = f"{path}: permission denied; run the agent as root, or with the capability SYS_PTRACE for /proc"
        raise PodError(message) from error
    except OSError as error:
        raise PodError(f"{path}: {error.strerror}") from error
    if kind != _CLONE_NEWNET:
        raise PodError(_refusal(path, "an ordinary file" if kind is None else f"a {_KINDS.get(kind, kind)} namespace"))
    return found


def own_netns() -> NetnsId:
    """Identify the network namespace of the node, or as near to it as this process may look."""
    try:
        return resolve("/proc/1/ns/net")
    except PodError:
        return resolve("/proc/self/ns/net")


def _identify(path: str) -> tuple[NetnsId, int | None]:
    """Look at a regular file: (its identity, the CLONE_NEW* flag of its kind of namespace; None: not one)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        kind = None
    finally:
        os.close(descriptor)
    return NetnsId(status.st_dev, status.st_ino), kind


def _refusal(path: str, what: str) -> str:
    return (
        f"{path}: not a network namespace but {what}; give the path of one, such as /run/netns/web "
        "(`ip netns add web` makes it) or /proc/<pid>/ns/net"
    )


def _file_type(mode: int) -> str:
    types = ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((name for is_type, name in types if is_type(mode)), "device")
