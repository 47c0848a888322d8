"""One BPF object file: open, give it the shared maps, load some of its programs, attach, close."""

from __future__ import annotations

import contextlib
import ctypes
import errno
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dolphin_agent.bpf import kernel, libbpf, log
from dolphin_agent.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any


ARRAY = 2
"""BPF_MAP_TYPE_ARRAY (linux/bpf.h)."""

LOG_TAIL = 12
"""Lines of libbpf's and the verifier's log kept in an error: the refused instruction and its reason are last."""


def objects_directory() -> Path:
    """Where the package keeps its BPF objects."""
    return Path(str(files("dolphin_agent.bpf") / "objects"))


class Object:
    """struct bpf_object and the links of its programs. Closing detaches; so does the death of the process.

    Every method raises BpfError with errno and what libbpf said.
    """

    def __init__(self, path: Path) -> None:
        self._lib = libbpf.load()
        self.path = path
        self._links: list[Any] = []
        with _explained(f"open {path}"):
            self._handle = self._lib.object_open(str(path).encode(), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def maps(self) -> Iterator[Map]:
        """The object's maps, before or after load."""
        handle = None
        while handle := self._lib.object_next_map(self._handle, handle):
            yield Map(self._lib, handle)

    def reuse(self, shared: Mapping[str, int]) -> None:
        """Uses existing maps, name -> file descriptor, instead of creating its own. Before load."""
        for bpf_map in self.maps():
            if (fd := shared.get(bpf_map.role)) is not None:
                self._lib.map_reuse_fd(bpf_map.handle, fd)

    def configure(self, role: str, value: ctypes.Structure) -> None:
        """Sets what a read-only section holds, if the object has it. Before load.

        Raises BpfError when the object's section is of another size: it is of another version than this package.
        """
        for bpf_map in self.maps():
            if bpf_map.role == role:
                bpf_map.initialise(bytes(value))

    def load(self, programs: Iterable[str]) -> None:
        """Creates the maps and has the kernel verify just these programs."""
        wanted = set(programs)
        for name, handle in self._programs().items():
            self._lib.program_set_autoload(handle, name in wanted)
        with _explained("load"):
            self._lib.object_load(self._handle)

    def attach(self, program: str) -> Program:
        """Attaches a loaded program to the hook that its section names."""
        handle = self._programs()[program]
        with _explained("attach"):
            self._links.append(self._lib.program_attach(handle))
        return Program(program, self._lib.program_fd(handle))

    def read(self, program: str) -> str:
        """Runs a loaded iterator once, and returns what it printed."""
        handle = self._programs()[program]
        with _explained("attach"):
            link = self._lib.program_attach(handle)
            self._links.append(link)
            descriptor = self._lib.iter_create(self._lib.link_fd(link))
        with open(descriptor, encoding="utf-8") as printed:  # noqa: PTH123 - there is no path
            return printed.read()

    def close(self) -> None:
        """Detaches in reverse order and frees everything; twice is harmless."""
        while self._links:
            self._lib.link_destroy(self._links.pop())
        if self._handle:
            self._lib.object_close(self._handle)
            self._handle = None

    def _programs(self) -> dict[str, Any]:
        programs = {}
        handle = None
        while handle := self._lib.object_next_program(self._handle, handle):
            programs[self._lib.program_name(handle).decode()] = handle
        return programs


class Map:
    """struct bpf_map, valid as long as its Object."""

    def __init__(self, lib: libbpf.Libbpf, handle: Any) -> None:  # noqa: ANN401 - a ctypes pointer
        self._lib = lib
        self.handle = handle

    @property
    def role(self) -> str:
        """The declared name; for compiler-made maps (`<object>.bss`) the section alone, alike in all objects."""
        name: str = self._lib.map_name(self.handle).decode()
        return name[name.index(".") :] if "." in name else name

    @property
    def fd(self) -> int:
        """The file descriptor, after load."""
        return int(self._lib.map_fd(self.handle))

    @property
    def is_array(self) -> bool:
        """Whether `size` is what it takes."""
        return int(self._lib.map_type(self.handle)) == ARRAY

    @property
    def entries(self) -> int:
        """How many it has, or may have."""
        return int(self._lib.map_max_entries(self.handle))

    @property
    def size(self) -> int:
        """Bytes of all values of an array map, each rounded up to 8 as the kernel lays them out."""
        value = int(self._lib.map_value_size(self.handle))
        return (value + 7) // 8 * 8 * self.entries

    def resize(self, max_entries: int, value_size: int | None = None) -> None:
        """Sets the number of entries and, if given, the bytes of each value; before load."""
        self._lib.map_set_max_entries(self.handle, max_entries)
        if value_size is not None:
            self._lib.map_set_value_size(self.handle, value_size)

    def initialise(self, value: bytes) -> None:
        """Writes the initial value of a section, before load."""
        size = ctypes.c_size_t()
        memory = self._lib.map_initial_value(self.handle, ctypes.byref(size))
        if size.value != len(value):
            raise BpfError(f"{self.role} has {size.value} bytes, expected {len(value)}", errno=errno.EINVAL)
        ctypes.memmove(memory, value, len(value))


class Program:
    """A loaded and attached program, valid as long as its Object."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd

    def recursion_misses(self) -> int:
        """Runs that the kernel skipped because the program was already running on that CPU, since it was loaded.

        Kernel 5.12 and newer; 0 before. It needs no bpf_stats_enabled.
        """
        info = libbpf.ProgramInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        libbpf.load().obj_get_info(self._fd, ctypes.byref(info), ctypes.byref(size))
        return int(info.recursion_misses)


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Adds the tail of libbpf's log to what fails inside."""
    with log.recording() as lines:
        try:
            yield
        except BpfError as fault:
            tail = "\n".join(list(lines)[-LOG_TAIL:])
            # Before the kernel is asked, libbpf looks the hook up in the kernel's BTF.
            reason = "this kernel has no such hook" if fault.errno == errno.ESRCH else libbpf.describe(fault.errno)
            raise BpfError(f"{doing}: {reason}{kernel.locked_down()}", errno=fault.errno, log=tail) from fault
