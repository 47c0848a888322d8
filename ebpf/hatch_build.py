"""Compiles the BPF objects while the package is built, so that no node ever needs a compiler.

For this machine's architecture, or for the one that the environment variable ARCH names (x86_64, aarch64).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TOOLS = {"make": "make", "clang": "clang", "llvm-strip": "llvm"}
HEADERS = Path("/usr/include/bpf/bpf_helpers.h")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling does not export its type argument
    """Runs ebpf/Makefile before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the objects in place; they are `artifacts`, so git ignores them and the wheel takes them."""
        if self.target_name != "wheel":
            return
        missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
        if not HEADERS.exists():
            missing.append("libbpf-dev")
        if missing:
            message = f"building the BPF objects needs: apt-get install {' '.join(missing)}"
            raise RuntimeError(message)
        arch = os.environ.get("ARCH", platform.machine())
        make = ["make", "-C", str(Path(self.root) / "ebpf"), f"ARCH={arch}"]
        if arch != platform.machine():
            # Elsewhere: those in place are what runs here.
            objects = Path(self.root) / "build" / f"objects-{arch}"
            make.append(f"OUT={objects}")
            build_data["force_include"][str(objects)] = "dolphin_agent/bpf/objects"
        subprocess.run(make, check=True)
        build_data["tag"] = f"py3-none-linux_{arch}"
