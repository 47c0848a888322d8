"""The three error checks of the bindings, and what is asked of the machine."""

import ctypes
import errno
from types import SimpleNamespace

import pytest

from dolphin_agent.bpf import kernel, libbpf
from dolphin_agent.errors import BpfError, UnavailableError

Func = SimpleNamespace(__name__="bpf_thing")
"""Stands for the foreign function in a message."""


def test_negative_int_becomes_an_error_with_errno():
    """-ENOENT is raised with the function's name and the C library's text."""
    with pytest.raises(BpfError, match="bpf_thing: No such file or directory") as caught:
        libbpf.negative_errno(-errno.ENOENT, Func, ())
    assert caught.value.errno == errno.ENOENT


def test_non_negative_int_passes():
    """File descriptors and zero are results."""
    assert libbpf.negative_errno(7, Func, ()) == 7


def test_null_takes_the_reason_from_errno():
    """NULL is raised with what errno says at that moment."""
    ctypes.set_errno(errno.EPERM)
    with pytest.raises(BpfError, match="Operation not permitted"):
        libbpf.null_errno(None, Func, ())


def test_end_of_an_iteration_is_none_whatever_errno_says():
    """An earlier call's fault must not end a walk with an error."""
    ctypes.set_errno(errno.EINVAL)
    assert libbpf.null_end(None, Func, ()) is None


def test_lookup_without_entry_is_none():
    """-ENOENT of a lookup is an answer."""
    assert libbpf.absent_errno(-errno.ENOENT, Func, ()) is None


def test_libbpf_codes_have_a_text():
    """libbpf's own numbers start at 4000 and are unknown to strerror."""
    with pytest.raises(BpfError, match="libbpf error 4001"):
        libbpf.negative_errno(-4001, Func, ())


def test_opts_carry_their_size():
    """libbpf reads as many fields as `sz` covers."""
    assert libbpf.MapCreateOpts(inner_map_fd=3).sz == ctypes.sizeof(libbpf.MapCreateOpts)


def test_wrong_handle_is_refused_by_ctypes():
    """A map passed for a program never reaches C."""
    with pytest.raises(ctypes.ArgumentError):
        libbpf.load().program_fd(ctypes.POINTER(libbpf.BpfMap)())


def test_missing_library_names_the_package(monkeypatch):
    """Without libbpf.so.1 the error says what to install."""
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf-not-there.so.1")
    with pytest.raises(UnavailableError, match=r"install libbpf 1\.0 or newer"):
        libbpf.load.__wrapped__()


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        ("0000000000000000", "missing CAP_BPF and CAP_PERFMON"),
        ("0000008000000000", "missing CAP_PERFMON"),
        ("0000004000000000", "missing CAP_BPF:"),
    ],
)
def test_missing_capability_is_named(effective, missing):
    """The error lists just the capabilities that are not there, and where to add them."""
    with pytest.raises(UnavailableError, match=missing):
        kernel.require_privileges(f"Name:\tx\nCapEff:\t{effective}\n")


@pytest.mark.parametrize("effective", ["000000c000000000", "0000000000200000"])
def test_both_capabilities_or_sys_admin_suffice(effective):
    """CAP_BPF with CAP_PERFMON, or CAP_SYS_ADMIN, is enough."""
    kernel.require_privileges(f"CapEff:\t{effective}\n")


NET_RAW = "0000000000002000"


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        (NET_RAW, "missing CAP_BPF and CAP_PERFMON: run as root"),
        ("000000c000000000", ""),
        ("000000c000002000", ""),
        ("0000000000202000", ""),
    ],
)
def test_health_checks_alone(effective, expected):
    """NET_RAW without anything that counting takes is a choice; the reason is kept for who asks for items."""
    assert kernel.uncounted(f"CapEff:\t{effective}\n").startswith(expected)
    assert bool(kernel.uncounted(f"CapEff:\t{effective}\n")) == bool(expected)


@pytest.mark.parametrize("effective", ["0000000000000000", "0000008000002000", "0000004000002000"])
def test_half_of_what_counting_takes_is_a_mistake(effective):
    """As is nothing at all."""
    with pytest.raises(UnavailableError, match="missing CAP_"):
        kernel.uncounted(f"CapEff:\t{effective}\n")


def test_kernel_without_btf_is_named(monkeypatch, tmp_path):
    """Without BTF the error says which kernel option or mount is missing."""
    monkeypatch.setattr(kernel, "VMLINUX_BTF", tmp_path / "vmlinux")
    with pytest.raises(UnavailableError, match="CONFIG_DEBUG_INFO_BTF"):
        kernel.require_btf()
