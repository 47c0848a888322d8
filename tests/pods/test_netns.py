"""Paths and the network namespaces behind them."""

import os
from pathlib import Path

import pytest

from dolphin_agent.errors import PodError
from dolphin_agent.pods.netns import NetnsId, own_netns, resolve

OWN = Path("/proc/self/ns/net")


def test_network_namespace():
    """A network namespace is known by its inode; nothing stays open."""
    opened = len(list(Path("/proc/self/fd").iterdir()))
    status = OWN.stat()

    assert resolve(str(OWN)) == NetnsId(status.st_dev, status.st_ino)
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_link(tmp_path):
    """A symbolic link to a namespace is as good."""
    (tmp_path / "web").symlink_to(OWN)

    assert resolve(str(tmp_path / "web")) == resolve(str(OWN))


def test_own():
    """The node's own namespace can be told by every user."""
    assert own_netns().inode > 0


@pytest.mark.parametrize(
    ("kind", "expected"), [("mnt", "mount"), ("uts", "UTS"), ("pid", "PID"), ("user", "user"), ("ipc", "IPC")]
)
def test_another_kind(kind, expected):
    """A namespace of another kind is refused by its kind."""
    with pytest.raises(PodError, match=f"^/proc/self/ns/{kind}: not a network namespace but a {expected} namespace;"):
        resolve(f"/proc/self/ns/{kind}")


def test_ordinary_file(tmp_path):
    """What is left of an unmounted namespace is an ordinary file; the remedy is told."""
    path = tmp_path / "web"
    path.touch()

    with pytest.raises(PodError, match=f"^{path}: not a network namespace but an ordinary file; give the path"):
        resolve(str(path))


def test_other_things(tmp_path):
    """Directories, pipes and devices are refused without being opened, which could block."""
    os.mkfifo(tmp_path / "pipe")

    for path, what in ((tmp_path, "directory"), (tmp_path / "pipe", "pipe"), (Path("/dev/null"), "device")):
        with pytest.raises(PodError, match=f"not a network namespace but a {what};"):
            resolve(str(path))


def test_missing(tmp_path):
    """A path that is not there is named."""
    with pytest.raises(PodError, match="/nowhere: no such network namespace; is the path right"):
        resolve(str(tmp_path / "nowhere"))


def test_path_that_cannot_be(tmp_path):
    """A path that the system refuses is a fault of the pod, whatever the reason."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)

    for path, reason in ((loop, "Too many levels"), (tmp_path / ("x" * 300), "File name too long")):
        with pytest.raises(PodError, match=reason):
            resolve(str(path))
