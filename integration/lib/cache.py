"""What is made once and kept outside the source tree."""

from __future__ import annotations

import fcntl
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vm.kernels import cache_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def once(kind: str, name: str, files: Sequence[str], make: Callable[[Path, Path], None], what: str) -> Path:
    """Return the directory of `kind` in the cache that has `files`, after making it anew where one is missing.

    `make` gets an empty directory to work in, and the one to fill; `what` says on stderr what takes so long. Safe to
    call from several processes at once.
    """
    target = cache_root().with_name(kind) / name
    with _locked(target):
        if not all((target / file).exists() for file in files):
            shutil.rmtree(target, ignore_errors=True)
            print(f"{what}, which takes minutes", file=sys.stderr, flush=True)
            _make(target, make)
    return target


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(target: Path, make: Callable[[Path, Path], None]) -> None:
    prefix = f"build-{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)  # of one that was killed: gigabytes
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as directory:
        work, made = Path(directory, "work"), Path(directory, "made")
        work.mkdir()
        made.mkdir()
        make(work, made)
        made.rename(target)
