"""From Debian's kernel packages to the files a virtual machine boots from."""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import zlib
from typing import TYPE_CHECKING

from integration.vm import tools
from integration.vm.errors import KernelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
"""Modules that must be loaded before the root file system can be mounted."""

_ARM64_MAGIC = b"ARM\x64"
_ARM64_MAGIC_OFFSET = 56
_ELF = b"\x7fELF"
_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ"
_ZSTD = b"\x28\xb5\x2f\xfd"


def unpack(packages: Iterable[Path], release: str, directory: Path) -> None:
    """Unpack the packages of kernel `release` into `directory`.

    It then holds `vmlinux` (what QEMU starts), `lib/modules/<release>` with its indexes, and `root-modules`: what
    ROOT_MODULES needs, uncompressed, named in the order of loading. Raises KernelUnavailableError.
    """
    files = directory / "packages"
    for package in packages:
        tools.run(["dpkg-deb", "-x", str(package), str(files)])
    image = _first(files / "boot" / f"vmlinuz-{release}", files / "usr/lib/modules" / release / "vmlinuz")
    modules = _first(files / "lib/modules" / release, files / "usr/lib/modules" / release)
    (directory / "vmlinux").write_bytes(vmlinux(image.read_bytes()))
    kept = directory / "lib/modules" / release
    kept.parent.mkdir(parents=True)
    modules.rename(kept)
    # kmod looks below lib or below usr/lib, as it was built.
    (directory / "usr").symlink_to(".")
    shutil.rmtree(files)
    tools.run(["depmod", "-b", str(directory), release])
    _collect_root_modules(kept, directory / "root-modules")


def _first(*candidates: Path) -> Path:
    for path in candidates:
        if path.exists():
            return path
    raise KernelUnavailableError(f"the packages have none of {', '.join(map(str, candidates))}")


def vmlinux(image: bytes) -> bytes:
    """Return the ELF file inside a bzImage, which QEMU starts at once: nothing is decompressed under emulation.

    The offsets are those of Linux's x86 boot protocol (2.08 and later). An arm64 kernel is such a file as it is, though
    not in ELF. Raises KernelUnavailableError.
    """
    if image.startswith(_ARM64_MAGIC, _ARM64_MAGIC_OFFSET):
        return image
    setup_sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # Its last four bytes are the length of the unpacked file, which zstd would take for a broken frame.
    elf = _decompress(image[start : start + length - 4])
    if not elf.startswith(_ELF):
        raise KernelUnavailableError("the kernel image holds no ELF file")
    return elf


def _decompress(data: bytes) -> bytes:
    """Decompress gzip, xz or zstd; anything else is returned as it is."""
    if data.startswith(_GZIP):
        return zlib.decompressobj(wbits=31).decompress(data)
    if data.startswith(_XZ):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(_ZSTD):
        return tools.run(["zstd", "--decompress", "--stdout", "--quiet"], stdin=data)
    return data


def _collect_root_modules(modules: Path, target: Path) -> None:
    paths = {}
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, dependencies = line.partition(":")
        paths[_module_name(path)] = path
        needs[path] = dependencies.split()
    builtin = {_module_name(path) for path in (modules / "modules.builtin").read_text().split()}
    order: list[str] = []
    for name in ROOT_MODULES:
        if name in builtin:
            continue
        if name not in paths:
            raise KernelUnavailableError(f"the kernel has no module {name}: is it a cloud flavour?")
        path = paths[name]
        # modules.dep names what is needed last first.
        order += [module for module in (*reversed(needs[path]), path) if module not in order]
    target.mkdir()
    for index, path in enumerate(order):
        content = _decompress((modules / path).read_bytes())
        (target / f"{index:02}-{_module_name(path)}.ko").write_bytes(content)


def _module_name(path: str) -> str:
    return re.sub(r"\.ko.*", "", path.rpartition("/")[2]).replace("-", "_")
