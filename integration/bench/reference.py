"""The programs that the agent's are compared with: built on the machine, loaded in the guest."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dolphin_agent.bpf import libbpf
from dolphin_agent.bpf.object import Object
from integration.vm.boot import PROJECT
from integration.vm.errors import HarnessError, MissingToolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from integration.lib.topology import Pod

BUILD = PROJECT / "build" / "bench"
"""Everything that the bench makes."""

_SOURCE = Path(__file__).with_name("reference.bpf.c")
_OBJECT = BUILD / "reference.bpf.o"
# Those of ebpf/Makefile, for the guests' architecture.
_FLAGS = (
    *("-g", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
    *("-target", "bpf", "-mcpu=v3", "-D__TARGET_ARCH_x86", f"-I{PROJECT / 'vmlinux' / 'x86_64'}"),
)


def build() -> None:
    """Compile the programs; raises MissingToolError, and HarnessError with what clang said."""
    if shutil.which("clang") is None:
        raise MissingToolError("clang", "clang")
    BUILD.mkdir(parents=True, exist_ok=True)
    command = ["clang", *_FLAGS, "-c", str(_SOURCE), "-o", str(_OBJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HarnessError(f"{_SOURCE.name} does not compile:\n{done.stderr.strip()}")


@contextmanager
def attached(programs: Sequence[str], pods: Sequence[Pod]) -> Iterator[None]:
    """Attach some of the programs for the length of a block, with pods to count; raises BpfError."""
    with Object(_OBJECT) as built:
        built.load(programs)
        # Old kernels refuse what libbpf tries first. The errno stays, and would be taken for that of a list's end.
        ctypes.set_errno(0)
        (known,) = (found for found in built.maps() if found.role == "pods")
        for pod in pods:
            number = ctypes.c_uint32(pod.netns.inum)
            libbpf.load().map_update(known.fd, ctypes.byref(number), ctypes.byref(number), 0)
        for program in programs:
            built.attach(program)
            ctypes.set_errno(0)
        yield
