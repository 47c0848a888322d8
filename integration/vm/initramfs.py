"""The guest's first file system: a newc cpio archive, made for each boot from the cached modules."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.vm.kernels import CachedKernel

_INIT = Path(__file__).with_name("init.sh")
_DIRECTORIES = ("bin", "dev", "proc", "sys", "modules", "root", "lower", "exchange")


def build(kernel: CachedKernel, busybox: Path) -> bytes:
    """Return an archive with init.sh, a static busybox and the modules that the root file system needs."""
    archive = _Archive()
    for name in _DIRECTORIES:
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("init", stat.S_IFREG | 0o755, _INIT.read_bytes())
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    # The kernel opens it for init's output before init can mount anything.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for module in kernel.root_modules:
        archive.add(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    return archive.finish()


class _Archive:
    """Writes the "new ASCII" cpio format, as Linux's buffer-format.rst describes it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        self._append(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._append(content)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _append(self, data: bytes) -> None:
        self._data += data
        self._data += bytes(-len(self._data) % 4)
