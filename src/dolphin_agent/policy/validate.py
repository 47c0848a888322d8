"""Is this MonitorPolicy right? The work of `dolphin-agent validate FILE...`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dolphin_agent.manifests.fault import Fault
from dolphin_agent.manifests.stream import read_stream
from dolphin_agent.policy.directory import SUFFIXES, manifest_files
from dolphin_agent.policy.parse import policies_of
from dolphin_agent.policy.vocabulary import KIND

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def validate_files(paths: Iterable[Path]) -> tuple[tuple[Fault, ...], int]:
    """Judge files, and the manifests in directories: (every fault, the number of right policies). Never raises."""
    faults: list[Fault] = []
    right = 0
    for path in paths:
        for file in _files(path, faults):
            stream = read_stream(file)
            parsed = policies_of(stream)
            if not stream.documents and not stream.malformed:
                faults.append(_fault(file, f"there is no {KIND} in it"))
            faults += parsed.faults
            right += len(parsed.policies)
    return tuple(faults), right


def _files(path: Path, faults: list[Fault]) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    try:
        names = manifest_files(path)
    except OSError as error:
        faults.append(_fault(path, f"cannot be listed: {error.strerror}"))
        return
    if not names:
        faults.append(_fault(path, f"there is no {', '.join(SUFFIXES)} file in this directory"))
    yield from (path / name for name in names)


def _fault(path: Path, message: str) -> Fault:
    return Fault(str(path), 0, "", None, message)
