"""The machine's apt sources are understood in both of their formats. Runs on the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.vm import apt
from integration.vm.errors import KernelUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "deb https://packages.example/linux/debian bookworm stable\n"
"""A vendor's repository, not Debian's archive though its path says so: it has no component main."""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /etc/apt, and a keyring."""
    (tmp_path / "sources.list.d").mkdir()
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(apt, "_ETC", tmp_path)
    monkeypatch.setattr(apt, "_KEYRING", keyring)
    monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", "# a comment\ndeb-src http://mirror.example/debian sid main\n{}"),
        ("sources.list.d/debian.list", OTHER + "{}"),
        ("sources.list.d/debian.list", "deb [arch=amd64 signed-by={keys}] http://mirror.example/debian sid main # x\n"),
    ],
)
def test_one_line_format(etc: Path, name: str, text: str) -> None:
    """The archive is found among comments, sources and other repositories."""
    line = "deb http://mirror.example/debian bookworm main contrib\n"
    (etc / name).write_text(text.format(line, keys=etc / "keyring.gpg"))
    assert apt.machine_archive() == apt.Archive("http://mirror.example/debian", etc / "keyring.gpg")


def test_deb822_format(etc: Path) -> None:
    """Stanzas, continued fields, comments, and stanzas that are switched off."""
    keys = etc / "own.gpg"
    keys.touch()
    (etc / "sources.list.d" / "debian.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: sid\nComponents: main\n\n"
        "Types: deb\n# a comment\nURIs:\n http://mirror.example/debian\n"
        f"Suites: bookworm\nComponents: main\nSigned-By: {keys}\n"
    )
    assert apt.machine_archive() == apt.Archive("http://mirror.example/debian", keys)


def test_no_archive(etc: Path) -> None:
    """A machine of another distribution is told how to name an archive."""
    (etc / "sources.list").write_text(OTHER)
    with pytest.raises(KernelUnavailableError, match=apt.MIRROR_VARIABLE):
        apt.machine_archive()


def test_named_archive(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable wins, whatever its path looks like."""
    monkeypatch.setenv(apt.MIRROR_VARIABLE, "http://proxy.example/cache/deb")
    assert apt.machine_archive() == apt.Archive("http://proxy.example/cache/deb", etc / "keyring.gpg")


def test_no_keyring(etc: Path) -> None:
    """Without keys nothing is fetched."""
    (etc / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    (etc / "keyring.gpg").unlink()
    with pytest.raises(KernelUnavailableError, match="install debian-archive-keyring"):
        apt.machine_archive()
