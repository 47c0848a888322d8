"""The Helm chart: rendered, and its values described.

`make chart-readme` writes the table of values in the chart's README anew, from values.yaml.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from integration.kube import binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parents[2] / "helm" / "dolphin-agent"
README = CHART / "README.md"
EARLIER = Path(__file__).with_name("dolphin-agent-0.1.0.tgz")
"""The version before: `git archive --format=tar.gz --prefix=dolphin-agent/ 2abcbed:helm/dolphin-agent`."""
RELEASE = "dolphin-agent"
_MARK = "<!-- From values.yaml, by make chart-readme. -->\n"


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run helm; AssertionError with its complaints where it fails and `check` is set."""
    command = [str(binaries.find("helm")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise AssertionError(f"helm {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done


def render(*options: str, namespace: str = "kube-system", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Render the chart, CRDs excepted."""
    version = ["--kube-version", binaries.KUBERNETES]  # its own is what it was linked with
    return helm("template", RELEASE, str(CHART), "-n", namespace, *version, *options, check=check)


@dataclass(frozen=True)
class Value:
    """One that users can set."""

    key: str
    """With its path, `image.tag`."""
    default: Any
    text: str
    """The comment above it."""


def values(text: str) -> Iterator[Value]:
    """What values.yaml documents: every key with a comment right above it, with all that is below the key."""
    defaults = yaml.safe_load(text)
    comment: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        if found := re.match(r"( *)(\w+):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment:
                yield Value(".".join(path), _at(defaults, path), " ".join(comment))
        comment = []


def _at(tree: Any, path: list[str]) -> Any:  # noqa: ANN401 - YAML
    for key in path:
        tree = tree[key]
    return tree


def readme(present: str, text: str) -> str:
    """The README with the table of values that values.yaml gives."""
    rows = [f"| `{one.key}` | `{json.dumps(one.default)}` | {one.text} |" for one in values(text)]
    table = "\n".join(["| value | default | |", "|---|---|---|", *rows])
    return f"{present.partition(_MARK)[0]}{_MARK}\n{table}\n"


if __name__ == "__main__":
    README.write_text(readme(README.read_text(), (CHART / "values.yaml").read_text()))
