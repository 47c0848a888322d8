"""Policies from a watched directory of manifests: what stays right keeps running, whatever happens to the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from dolphin_agent.errors import ConfigError
from dolphin_agent.manifests.fault import Problem
from dolphin_agent.manifests.stream import read_stream
from dolphin_agent.manifests.watch import Signature
from dolphin_agent.policy.admission import Admission
from dolphin_agent.policy.parse import policies_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dolphin_agent.policy.model import MonitorPolicy

SUFFIXES = (".yaml", ".yml", ".json")
"""Files of other names are not looked at, nor are hidden ones (an editor's, a ConfigMap volume's `..data`)."""


def manifest_files(directory: Path) -> dict[str, Path]:
    """List the manifests in a directory, by name and sorted; OSError if it cannot be listed."""
    with os.scandir(directory) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(SUFFIXES) and not e.name.startswith("."))
    return {name: directory / name for name in names}


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of one file."""

    signature: Signature | None = None
    policies: Mapping[str, MonitorPolicy] = field(default_factory=dict)
    """By task; each in its last good form."""
    problems: tuple[Problem, ...] = ()


class PolicyDirectory:
    """The policies of a directory. Not thread-safe: one thread polls; what it publishes is immutable."""

    def __init__(self, path: Path) -> None:
        """ConfigError if `path` is not a directory that can be listed. Nothing is read until the first poll."""
        try:
            manifest_files(path)
        except OSError as error:
            raise ConfigError(
                f"policy directory {path}: {error.strerror}; create it, or give another with --policies"
            ) from error
        self._path = path
        self._files: dict[str, _File] = {}
        self._admission = Admission()
        self.policies: Mapping[str, MonitorPolicy] = MappingProxyType({})
        """Task -> policy to run; at most `vocabulary.MAX_TASKS`. Replaced, never changed."""
        self.problems: tuple[Problem, ...] = ()
        """What could not be taken, in the order of the files' names."""

    def poll(self) -> bool:
        """Look at the directory once; True if `policies` or `problems` changed. Cheap while no file changes."""
        before = (self.policies, self.problems)
        try:
            found = manifest_files(self._path)
        except OSError as error:
            message = f"{self._path}: {error.strerror}; its policies keep running in their last good form"
            self.problems = (Problem(str(self._path), message),)
            return before[1] != self.problems
        self._files = {
            name: known
            for name, path in found.items()
            if (known := _refresh(path, self._files.get(name, _File()))) is not None
        }
        policies, refused = self._admission.admit({name: file.policies for name, file in self._files.items()})
        self.policies = MappingProxyType(policies)
        self.problems = (*(problem for file in self._files.values() for problem in file.problems), *refused)
        return before != (self.policies, self.problems)


def _refresh(path: Path, known: _File) -> _File | None:
    """Bring what is known of a file up to date; None once it is gone, or a link to nothing."""
    try:
        signature = Signature.of(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        return replace(known, problems=(Problem(str(path), f"{path}: cannot be read: {error.strerror}"),))
    if signature.still(known.signature):
        return known
    return _read(path, signature, known.policies)


def _read(path: Path, signature: Signature, last_good: Mapping[str, MonitorPolicy]) -> _File:
    """Read a file, keeping of `last_good` what has turned wrong and dropping what was removed."""
    parsed = policies_of(read_stream(path))
    if parsed.malformed:
        kept = _kept(last_good)
        return _File(signature, last_good, (Problem(str(path), f"{parsed.malformed}{kept}"),))
    policies = {policy.task: policy for policy in parsed.policies}
    problems: list[Problem] = []
    for faulty in parsed.faulty:
        # A document that cannot be told may be any that is missed, so none of those is taken away.
        tasks = last_good.keys() if faulty.task not in last_good else {faulty.task}
        policies |= {task: last_good[task] for task in last_good if task in tasks and task not in policies}
