"""Network namespaces with names, as `ip netns` makes them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import IPRoute  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_COMMAND_TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Netns:
    """A network namespace."""

    name: str

    @property
    def path(self) -> Path:
        """The file that stands for the namespace and keeps it alive."""
        return Path("/run/netns") / self.name

    @property
    def inum(self) -> int:
        """The inode number, by which the kernel tells namespaces apart."""
        return self.path.stat().st_ino

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace for the length of a block.

        Sockets made inside stay in the namespace. Files are read there below /proc/thread-self/net and
        /proc/sys/net: /proc/net follows the process's first thread. Raises OSError.
        """
        with Path("/proc/thread-self/ns/net").open() as before, self.path.open() as there:
            _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    @contextmanager
    def routes(self) -> Iterator[IPRoute]:
        """Open a netlink route socket in the namespace."""
        with self.entered():
            socket = IPRoute()
        try:
            yield socket
        finally:
            socket.close()

    def sysctl(self, name: str, value: object) -> None:
        """Set a kernel setting below net, such as `ipv6/conf/all/forwarding`; raises OSError."""
        with self.entered():
            (Path("/proc/sys/net") / name).write_text(f"{value}\n")

    @contextmanager
    def setting(self, name: str, value: object) -> Iterator[None]:
        """Change a kernel setting below net for the length of a block; raises OSError."""
        with self.entered():
            before = (Path("/proc/sys/net") / name).read_text().strip()
        self.sysctl(name, value)
        try:
            yield
        finally:
            self.sysctl(name, before)

    def run(self, argv: Sequence[str], *, timeout: float = _COMMAND_TIMEOUT, check: bool = True) -> str:
        """Run a command in the namespace and return its standard output.

        Raises AssertionError with its output where it fails (unless `check` is off) and
        subprocess.TimeoutExpired after `timeout` seconds, when it has been killed.
        """
        done = subprocess.run(self._command(argv), capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise AssertionError(f"in {self.name}: {' '.join(argv)}: status {done.returncode}\n{said}")
        return done.stdout

    @contextmanager
    def popen(self, argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Run a command in the namespace for the length of a block, then kill it where it still runs."""
        command = self._command(argv)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def _command(self, argv: Sequence[str]) -> list[str]:
        # nsenter becomes the command: its process id is the command's.
        return ["nsenter", f"--net={self.path}", "--", *argv]


@dataclass(frozen=True, slots=True)
class NodeNetns(Netns):
    """That of the machine, or of the guest."""

    @property
    def path(self) -> Path:
        """Of the first process."""
        return Path("/proc/1/ns/net")


NODE = NodeNetns("node")


def _set_namespace(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextmanager
def new_netns(name: str) -> Iterator[Netns]:
    """Make a namespace, with its loopback device up, for the length of a block; removing it removes its devices."""
    # Not pyroute2's netns.create: it forks the whole test process and leaves two sockets open.
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=_COMMAND_TIMEOUT)
    try:
        created = Netns(name)
        with created.routes() as routes:
            routes.link("set", index=1, state="up")
        yield created
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=_COMMAND_TIMEOUT)


@contextmanager
def many_netns(count: int, prefix: str = "many") -> Iterator[list[Netns]]:
    """Make namespaces by one command, for the length of a block; they have no device that is up."""

    def batch(verb: str) -> None:
        lines = "".join(f"netns {verb} {one.name}\n" for one in made)
        subprocess.run(["ip", "-force", "-batch", "-"], input=lines, text=True, check=True, timeout=120)

    made = [Netns(f"{prefix}-{number}") for number in range(count)]
    batch("add")
    try:
        yield made
    finally:
        batch("delete")
