"""What is left below a memory limit."""

import pytest

from dolphin_agent.bpf.memory import headroom

MIB = 2**20


@pytest.fixture
def cgroups(tmp_path):
    """Makes cgroups: path, limit in MiB or None, MiB in use, MiB of them file cache."""

    def make(path, limit, used, cache=0):
        directory = tmp_path / "cgroup" / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.max").write_text(f"{limit * MIB if limit is not None else 'max'}\n")
        (directory / "memory.current").write_text(f"{used * MIB}\n")
        stat = f"anon {(used - cache) * MIB}\nactive_file {cache * MIB}\ninactive_file 0\n"
        (directory / "memory.stat").write_text(stat)

    return make


def left(tmp_path, own):
    """MiB that are left for a process in the cgroup."""
    (tmp_path / "own").write_text(own)
    found = headroom(tmp_path / "cgroup", tmp_path / "own")
    return None if found is None else found / MIB


def test_cache_counts_as_left(tmp_path, cgroups):
    cgroups("kubepods/pod1/agent", 100, 60, cache=20)
    assert left(tmp_path, "0::/kubepods/pod1/agent\n") == 60


def test_tightest_ancestor_decides(tmp_path, cgroups):
    cgroups("kubepods", 200, 190)
    cgroups("kubepods/agent", 100, 20)
    assert left(tmp_path, "0::/kubepods/agent\n") == 10


def test_own_cgroup_is_the_root_in_a_container(tmp_path, cgroups):
    cgroups("", 100, 30)
    assert left(tmp_path, "0::/\n") == 70


def test_no_limit(tmp_path, cgroups):
    cgroups("agent", None, 30)
    assert left(tmp_path, "0::/agent\n") is None


@pytest.mark.parametrize("own", ["", "4:memory:/agent\n", "0::/gone\n"])
def test_unknown(tmp_path, own):
    assert left(tmp_path, own) is None


def test_overdrawn_is_nothing(tmp_path, cgroups):
    cgroups("agent", 10, 12)
    assert left(tmp_path, "0::/agent\n") == 0
