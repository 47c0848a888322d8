"""The tests, with a node of one kernel after the other: `python -m integration.cluster KERNEL...`."""

from __future__ import annotations

import subprocess
import sys

from integration.vm.boot import PROJECT
from integration.vm.suite import EMULATOR_FAULT, compile_sources


def main() -> int:
    """Return 0 if all pass on every kernel; the first one that they do not pass on is the last."""
    compile_sources()
    return 0 if all(_passes(kernel) for kernel in sys.argv[1:]) else 1


def _passes(kernel: str) -> bool:
    """As integration.vm does it, once more after the emulator's fault, and after nothing else."""
    work = PROJECT / "build" / f"cluster-{kernel}"
    work.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "integration/cluster", f"--node-kernel={kernel}", f"--basetemp={work}"]
    for _ in range(2):
        print(f"======== node with kernel {kernel} ========", flush=True)
        if subprocess.run(command, cwd=PROJECT, check=False).returncode == 0:
            return True
        if not any(EMULATOR_FAULT in log.read_text(errors="replace") for log in work.glob("*/guest.log")):
            return False
        print("presumably the emulator's fault: once more, from the start", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
