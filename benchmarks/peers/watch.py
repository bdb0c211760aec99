"""Runs a command and watches it: wall time, and the resident memory of its processes, five times a second."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

import psutil

PERIOD_S = 0.2


@dataclasses.dataclass(frozen=True)
class Watched:
    """How a command went.

    Attributes:
        wall_s: From its start to its end.
        code: Its exit code; None if it ran past its time and was ended.
        output: What it printed to standard output.
        errors: What it printed to standard error.
        peak_mb: The greatest sum over the process and all below it; pages that they share count for each.
        parent_mb: The greatest of the process itself.
        children_mb: The greatest of each process below it, largest first.
    """

    wall_s: float
    code: int | None
    output: str
    errors: str
    peak_mb: float
    parent_mb: float
    children_mb: list[float]

    @property
    def complaint(self) -> str:
        """The last line of the errors of a command that failed."""
        if self.code == 0:
            return ""
        lines = self.errors.strip().splitlines() or [f"exit code {self.code}"]
        return "ran too long" if self.code is None else lines[-1]


class Memory:
    """The peaks of a tree of processes."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)
        self.peak_bytes = 0
        self.by_process: dict[int, int] = {}

    def sample(self) -> None:
        """Looks once; a process may end meanwhile."""
        sizes = {process.pid: _resident_bytes(process) for process in [self._parent, *descendants(self._parent)]}
        self.peak_bytes = max(self.peak_bytes, sum(sizes.values()))
        for pid, size in sizes.items():
            self.by_process[pid] = max(size, self.by_process.get(pid, 0))


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All processes below one; none if it has ended."""
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def watch(command: Sequence[str], environ: Mapping[str, str], limit_s: float) -> Watched:
    """Runs a command to its end, or ends it with all its processes after a time."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started_s = time.perf_counter()
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        memory = Memory(process.pid)
        try:
            code = _wait(process, memory, started_s + limit_s)
            wall_s = time.perf_counter() - started_s
        finally:
            _end(process)
        sizes_mb = {pid: round(size / 1e6, 1) for pid, size in memory.by_process.items()}
        parent_mb = sizes_mb.pop(process.pid, 0.0)
        peak_mb, children_mb = round(memory.peak_bytes / 1e6, 1), sorted(sizes_mb.values(), reverse=True)
        return Watched(wall_s, code, _text(output), _text(errors), peak_mb, parent_mb, children_mb)


def _wait(process: subprocess.Popen[bytes], memory: Memory, until_s: float) -> int | None:
    """The exit code, at the moment when the process ends; None at the time limit."""
    while time.perf_counter() < until_s:
        memory.sample()
        try:
            return process.wait(PERIOD_S)
        except subprocess.TimeoutExpired:
            continue
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that still runs, and those below it."""
    if process.poll() is None:
        for child in [*descendants(psutil.Process(process.pid)), process]:
            child.kill()
        process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
