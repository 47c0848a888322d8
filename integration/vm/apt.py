"""Debian packages of any suite, through a private apt root that leaves the machine's own untouched.

The archive is the one the machine itself uses, its packages are verified with the keys the machine trusts.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from integration.vm import tools
from integration.vm.errors import HarnessError, KernelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIRROR_VARIABLE = "DOLPHIN_DEBIAN_MIRROR"
"""Environment variable with the URI of a Debian archive, for machines whose apt sources name none."""

_ETC = Path("/etc/apt")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The private root keeps the machine's settings (proxies, certificates), but not its hooks, which work on the
# machine's own cache, nor its pins. Priority: this file is read last, because it replaces the usual two.
_CONFIGURATION = """\
{includes}
#clear APT::Update;
#clear DPkg;
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
APT::Architecture "{architecture}";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"""


@dataclass(frozen=True, slots=True)
class Archive:
    """A Debian archive."""

    uri: str
    keyring: Path
    """The public keys that sign its suites."""


@dataclass(frozen=True, slots=True)
class _Source:
    uris: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def machine_archive() -> Archive:
    """Return the Debian archive that this machine's apt uses.

    Raises KernelUnavailableError where there is none, or no keyring to verify it with.
    """
    sources = _machine_sources()
    if override := os.environ.get(MIRROR_VARIABLE):
        sources = [_Source((override,), ("main",), "")]
    for source in sources:
        for uri in source.uris:
            # /debian on nearly every mirror; a mirror list is a file called debian.list.
            named_debian = PurePosixPath(urlsplit(uri).path).stem == "debian"
            if "main" in source.components and (named_debian or override):
                keyring = Path(source.signed_by) if source.signed_by.startswith("/") else _KEYRING
                if not keyring.exists():
                    raise KernelUnavailableError(
                        f"no keys to verify {uri} with: {keyring} is missing; install debian-archive-keyring"
                    )
                return Archive(uri, keyring)
    raise KernelUnavailableError(
        f"no Debian archive in {_ETC}/sources.list or {_ETC}/sources.list.d; "
        f"name one in the environment variable {MIRROR_VARIABLE}"
    )


def _machine_sources() -> list[_Source]:
    parts = sorted((_ETC / "sources.list.d").glob("*"))
    sources: list[_Source] = []
    for path in [_ETC / "sources.list", *parts]:
        if path.suffix == ".list" and path.exists():
            sources += _one_line_sources(path.read_text())
        elif path.suffix == ".sources":
            sources += _deb822_sources(path.read_text())
    return sources


def _one_line_sources(text: str) -> Iterator[_Source]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+\S+\s*(?P<components>[^#]*)", line)
        if match:
            signed_by = re.search(r"signed-by=(\S+)", match["options"] or "")
            components = tuple(match["components"].split())
            yield _Source((match["uri"],), components, signed_by[1] if signed_by else "")


def _deb822_sources(text: str) -> Iterator[_Source]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n", "", text)):
        pairs = re.findall(r"(?m)^(\S+):((?:.*)(?:\n[ \t].*)*)", stanza)
        fields = {name.lower(): value.strip() for name, value in pairs}
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
            uris = tuple(fields.get("uris", "").split())
            yield _Source(uris, tuple(fields.get("components", "").split()), fields.get("signed-by", ""))


class PrivateApt:
    """An apt that knows one suite of one archive, for one architecture, with all its state below `root`."""

    def __init__(self, root: Path, archive: Archive, suite: str, architecture: str = "amd64") -> None:
        """Lay the root out; nothing is fetched yet."""
        self._suite = suite
        for directory in ("state/lists/partial", "cache/archives/partial", "sources"):
            (root / directory).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources" / "debian.sources").write_text(
            f"Types: deb\nURIs: {archive.uri}\nSuites: {suite}\nComponents: main\n"
            f"Architectures: {architecture}\nSigned-By: {archive.keyring}\n"
        )
        machine = (path for path in (_ETC / "apt.conf.d", _ETC / "apt.conf") if path.exists())
        includes = "\n".join(f'#include "{path}{"/" if path.is_dir() else ""}";' for path in machine)
        configuration = root / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(includes=includes, root=root, architecture=architecture))
        self._env = os.environ | {"APT_CONFIG": str(configuration), "LC_ALL": "C"}

    def update(self) -> None:
        """Fetch and verify the list of packages; raises KernelUnavailableError."""
        try:
            tools.run(["apt-get", "update", "--quiet"], env=self._env)
        except HarnessError as error:
            hint = ""
            if "NO_PUBKEY" in str(error):
                hint = "\nThe suite's key is newer than this machine's: upgrade debian-archive-keyring."
            raise KernelUnavailableError(f"no package list of {self._suite}: {error}{hint}") from error

    def versions(self, prefix: str) -> dict[str, str]:
        """Return the packages whose names start with `prefix`, with their newest versions."""
        names = tools.run(["apt-cache", "pkgnames", prefix], env=self._env).decode().split()
        if not names:
            return {}
        shown = tools.run(["apt-cache", "show", "--no-all-versions", *names], env=self._env).decode()
        return dict(re.findall(r"(?m)^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", shown))

    def closure(self, *packages: str) -> list[str]:
        """Return packages and, in turn, everything they depend on."""
        shown = tools.run(["apt-cache", "depends", "--recurse", "--important", *packages], env=self._env).decode()
        # Dependencies are indented, virtual packages are in angle brackets.
        return re.findall(r"(?m)^([^\s<]\S*)$", shown)

    def download(self, packages: Iterable[str], directory: Path) -> list[Path]:
        """Fetch and verify packages into `directory` and return their files; raises KernelUnavailableError."""
        try:
            tools.run(["apt-get", "download", "--quiet", *packages], cwd=directory, env=self._env)
        except HarnessError as error:
            raise KernelUnavailableError(f"no kernel package from {self._suite}: {error}") from error
        return sorted(directory.glob("*.deb"))
