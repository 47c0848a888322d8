"""What the numbers of dropped packets mean."""

import pytest

from dolphin_agent.bpf import drops
from dolphin_agent.bpf.btf import enumerators
from dolphin_agent.bpf.layouts import Family, Kind
from dolphin_agent.bpf.object import objects_directory
from dolphin_agent.errors import BpfError

CODE = 0xFFFFFFFF81234567
NO_FIN = 1 << 62


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """A kernel with three reasons and one function."""
    monkeypatch.setattr(drops, "_names", lambda: {3: "no_socket", (3 << 16) + 2: "qdisc_drop_overlimit"})
    monkeypatch.setattr(drops, "_subsystems", lambda: {2: "openvswitch"})
    functions = {}
    drops._function.cache_clear()
    monkeypatch.setattr(drops.symbols, "resolve", lambda addresses: [functions.get(a, "") for a in addresses])
    yield functions
    drops._function.cache_clear()


def test_reasons_have_the_kernels_names():
    """Those of a subsystem too, where the kernel's own BTF has them."""
    assert drops.reason(3) == "no_socket"
    assert drops.reason((3 << 16) + 2) == "qdisc_drop_overlimit"


def test_reasons_without_a_name_are_numbered():
    """Those of modules, and of a kernel whose BTF could not be read."""
    assert drops.reason(77) == "reason_77"
    assert drops.reason((2 << 16) + 5) == "openvswitch_5"
    assert drops.reason((9 << 16) + 5) == "subsystem_9_5"


def test_without_a_reason_the_function_is_shown(kernel):
    """By the address that the tracepoint has."""
    kernel[CODE] = "ip_forward"
    assert drops.reason(CODE) == "ip_forward"


def test_function_that_cannot_be_told_is_unknown(monkeypatch):
    """No symbol there, or the kernel refuses the program that asks."""
    assert drops.reason(CODE) == drops.UNKNOWN

    def refuse(_):
        raise BpfError("load: no", errno=1)

    monkeypatch.setattr(drops.symbols, "resolve", refuse)
    assert drops.reason(CODE + 1) == drops.UNKNOWN


@pytest.mark.parametrize("function", sorted(drops.NOT_DROPS))
def test_what_was_not_dropped_has_no_reason(kernel, function):
    """Parts of merged packets, copies for packet sockets, neighbour discovery."""
    kernel[CODE] = function
    assert drops.reason(CODE) == ""


def test_fin_in_time_wait_was_not_dropped(kernel):
    """Nothing else that TCP frees without a reason is a FIN; other segments are dropped there."""
    kernel[CODE] = "tcp_v4_rcv"
    assert drops.reason(CODE & ~NO_FIN) == ""
    assert drops.reason(CODE) == "tcp_v4_rcv"
    kernel[CODE + 1] = "nf_hook_slow"
    assert drops.reason(CODE + 1 & ~NO_FIN) == "nf_hook_slow"


def test_enumerators_are_read_from_btf():
    """As the compiler wrote them into an object; an enum that is not there has none."""
    path = objects_directory() / "state.bpf.o"
    assert enumerators("kind", path) == {kind.value: f"KIND_{kind.name}" for kind in Kind}
    assert enumerators("family", path) == {family.value: f"FAMILY_{family.name}" for family in Family}
    assert enumerators("no_such_enum", path) == {}


def test_file_without_btf_is_refused(tmp_path):
    """The error has libbpf's reason."""
    with pytest.raises(BpfError):
        enumerators("kind", tmp_path / "none")
