"""The chart's capabilities are all that the agent needs on each kernel, and each of them is needed."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from dolphin_agent.bpf import kernel
from integration.lib.agent import COMMAND
from integration.vm.boot import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.lib.manifests import Manifests

_TEMPLATE = (PROJECT / "helm/dolphin-agent/templates/daemonset.yaml").read_text()
CHART = re.findall(r"^ +- ([A-Z_]+)$", _TEMPLATE, re.MULTILINE)
"""Every one that the chart can add."""
NEEDED = [name for name in CHART if name != "SYS_RESOURCE" or not kernel.charges_maps()]
"""Those that this kernel asks for."""
MEMLOCK = 64 << 10
"""What containers have, where nobody raises the limit."""


def only(names: Sequence[str], *command: str) -> tuple[int, str]:
    """Run the agent as root with these capabilities alone, as a container does: (status, all it printed)."""
    allowed = ",".join(["-all", *(f"+{name.lower()}" for name in names)])
    privileges = ["prlimit", f"--memlock={MEMLOCK}", "setpriv", f"--bounding-set={allowed}", f"--inh-caps={allowed}"]
    done = subprocess.run([*privileges, COMMAND, *command], capture_output=True, text=True, timeout=240, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def refused(text: str) -> dict[str, str]:
    """What the rows of `check` say is refused: item and hooks -> the row."""
    rows = [line for line in text.splitlines() if " refused " in line]
    return {" ".join(line.split(" refused ")[0].split()): line for line in rows}


@pytest.mark.usefixtures("guest")
def test_enough() -> None:
    """With the chart's, everything that this kernel lets root do."""
    root = subprocess.run([COMMAND, "check"], capture_output=True, text=True, timeout=240, check=False)
    assert {"BPF", "PERFMON", "SYS_PTRACE", "NET_RAW"} <= set(NEEDED)
    assert only(NEEDED, "check") == (root.returncode, root.stdout) == (0, root.stdout)


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("missing", NEEDED)
def test_each_is_needed(missing: str) -> None:
    """Without it, `check` names it."""
    _, text = only([name for name in NEEDED if name != missing], "check")
    assert re.search(rf"\b(CAP_|capability ){missing}\b", text), text


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("rest", [[], ["PERFMON"], ["BPF"]], ids=lambda rest: "+".join(rest) or "none")
def test_missing_is_named_at_start(manifests: Manifests, rest: list[str]) -> None:
    """The agent says which it needs, and where to add them, before anything is attached."""
    files = ["--policies", str(manifests.policies), "--pods", str(manifests.pods)]
    status, text = only(rest, "run", "--standalone", *files)
    assert status == 1
    missing = [f"CAP_{name}" for name in ("BPF", "PERFMON") if name not in rest]
    assert f"missing {' and '.join(missing)}:" in text
    assert "securityContext" in text


@pytest.mark.usefixtures("guest")
def test_bpf_and_perfmon_count_everything() -> None:
    """Every item attaches without any other; what Kubernetes's pods, ping and arping need besides is named."""
    counting = [name for name in NEEDED if name not in ("SYS_PTRACE", "NET_RAW")]
    by_kernel = refused(only(NEEDED, "check")[1])
    status, text = only(counting, "check")
    assert status == 0, text
    pods_row, *health = (line for what, line in refused(text).items() if what not in by_kernel)
    assert pods_row.startswith("(pods)"), text
    assert "CAP_SYS_PTRACE is missing" in pods_row
    assert [line.split()[:4] for line in health] == [
        ["healthCheck", command, "refused", command] for command in ("ping", "arping")
    ], text
    assert all("needs the capability NET_RAW" in line for line in health)
