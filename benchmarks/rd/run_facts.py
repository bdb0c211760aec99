"""Where and when a result came about: machine, versions, commit, command. No path of the machine is among them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_facts(packages: Sequence[str]) -> dict[str, Any]:
    """Facts for the head of a result."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_without_folder, sys.argv[1:])]),
        "machine": f"{os.cpu_count()} cores {_processor()}, {_memory_gib()} GiB",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def _without_folder(argument: str) -> str:
    """An argument with the folders of an absolute path left out."""
    label, _, path = argument.rpartition("=")
    return "=".join(filter(None, [label, Path(path).name])) if Path(path).is_absolute() else argument


def _commit() -> str:
    """The commit, with a plus where the code that runs is not quite that."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"], cwd=ROOT, capture_output=True, text=True
    )
    return described.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
