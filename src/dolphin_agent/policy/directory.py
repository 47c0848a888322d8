"""The policies of a watched directory: what is right runs, whatever happens to the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dolphin_agent.errors import ConfigError
from dolphin_agent.frozen import FrozenMap
from dolphin_agent.manifests.fault import Problem
from dolphin_agent.policy.admission import Admission
from dolphin_agent.policy.file import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dolphin_agent.policy.model import MonitorPolicy

SUFFIXES = (".yaml", ".yml", ".json")
"""Other files are not looked at, nor are hidden ones (an editor's, a ConfigMap volume's `..data`)."""


def manifest_files(directory: Path) -> list[str]:
    """List the names of the manifests in a directory, sorted; OSError if it cannot be listed."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.name.endswith(SUFFIXES) and not e.name.startswith("."))


class PolicyDirectory:
    """A source of policies. One thread polls; what it publishes is immutable and may be read by any."""

    def __init__(self, path: Path) -> None:
        """Take a directory; ConfigError if it cannot be listed. Nothing is read until the first poll."""
        try:
            manifest_files(path)
        except OSError as error:
            raise ConfigError(
                f"policy directory {path}: {error.strerror}; create it, or name another with --policies"
            ) from error
        self._path = path
        self._files: dict[str, PolicyFile] = {}
        self._admission = Admission()
        self.policies: Mapping[str, MonitorPolicy] = FrozenMap()
        """Task -> policy to run; at most `vocabulary.MAX_TASKS`."""
        self.problems: tuple[Problem, ...] = ()
        """What could not be taken: file by file, then what concerns several."""

    def poll(self) -> bool:
        """Look at the directory once; True if `policies` or `problems` changed. Cheap while no file does."""
        before = (self.policies, self.problems)
        try:
            names = manifest_files(self._path)
        except OSError as error:
            message = f"{self._path}: {error.strerror}; its policies keep running in their last good form"
            self.problems = (Problem(str(self._path), message),)
        else:
            self._refresh({*names, *self._files})
        return before != (self.policies, self.problems)

    def _refresh(self, names: set[str]) -> None:
        known = {name: self._files.get(name) or PolicyFile(self._path / name) for name in sorted(names)}
        self._files = {name: file for name, file in known.items() if file.refresh()}
        policies, conflicts = self._admission.admit(
            {str(self._path / name): file.policies for name, file in self._files.items()}
        )
        self.policies = FrozenMap(policies)
        self.problems = (*(p for file in self._files.values() for p in file.problems), *conflicts)
