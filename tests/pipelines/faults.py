"""Runs `tsae` commands that meet with an accident: killed, stopped, out of room, or with files that cannot be read.

A command is a fork of one process that has imported everything, as torch and Beam take longer to import than the jobs
of these tests take to run. `Runner` is the tests' side of that process; `serve` is what runs in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHANGING = ("replace", "unlink", "mkdir", "rmdir")
"""The functions of `os` with which a job changes what a killed process leaves behind, the bytes of a new file excepted."""

SYNCED = (*CHANGING, "fsync")
"""The same, and what makes it last; here the disk can say no as well."""

BAD_FILE = "/proc/self/mem"
"""A regular file, to the system, whose first byte can be neither read nor written: EIO."""

MET = "the fault was met"
"""A line on standard error of a command whose call failed."""

TIMEOUT_S = 120


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to a command; without anything, it runs undisturbed.

    Attributes:
        calls: Which functions of `os` are counted.
        at: Which of their calls `how` applies to, from 1 on.
        how: "kill" and "stop" (by a signal) before that call, "error" in its place, or "snapshot" before each call.
        code: The number of the error.
        folder: For snapshots: where they go, numbered by the call; states that are equal are kept once.
        archive: Only calls for files of it are counted; snapshots are copies of it.
        bad_path: The end of the path of a file that gives EIO ...
        bad_write: ... when it is written, or else when it is read.
        file_bytes: No file can grow beyond this; None is no limit.
        start_s: Time (monotonic) to start at.
        lock_wait_s: How long to wait for another command's lock.
    """

    calls: Sequence[str] = CHANGING
    at: int = 0
    how: str = ""
    code: int = 0
    folder: str = ""
    archive: str = ""
    bad_path: str = ""
    bad_write: bool = False
    file_bytes: int | None = None
    start_s: float = 0.0
    lock_wait_s: float = 10.0


NO_FAULT = Fault()


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; negative for a signal.
        err: What it wrote on standard error.
        seconds: How long it took.
    """

    code: int
    err: str
    seconds: float

    @property
    def refusal(self) -> str:
        """The one line in which it said why it refused."""
        assert self.code == 2, (self.code, self.err)
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("tsae: error: ")]
        assert errors == lines[-1:], self.err
        assert "Traceback" not in self.err, self.err
        return errors[0]


class Command:
    """A running command."""

    def __init__(self, runner: Runner, pid: int, log: Path) -> None:
        self._runner, self.pid, self._log = runner, pid, log

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs; its process is not waited for before `end`, so its number stays its own."""
        os.kill(self.pid, number)

    def wait_for_stop(self) -> bool:
        """Waits until it has stopped itself, and says whether it has; or else it has ended."""
        return bool(self._runner.ask(op="wait_for_stop", pid=self.pid)["stopped"])

    def end(self, after_s: float | None = None) -> Ended:
        """Waits for its end; after `after_s` it is killed."""
        answer = self._runner.ask(op="wait", pid=self.pid, after_s=TIMEOUT_S if after_s is None else after_s)
        assert after_s is not None or not answer["killed"], f"hangs: {self._log.read_text()}"
        return Ended(answer["code"], self._log.read_text(errors="replace"), answer["seconds"])


class Runner:
    """A process to fork commands from.

    Attributes:
        shard_images: Most images of a shard, in commands that are started from now on.
    """

    def __init__(self, folder: Path) -> None:
        """Starts it.

        Args:
            folder: For logs and what killed commands leave in the folder for temporary files.
        """
        self._folder, self._logs, self.shard_images = folder, itertools.count(), 4096
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.ask(op="ready")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        answer = self._process.stdout.readline()
        assert answer, "the process that commands are forked from has ended"
        return dict(json.loads(answer))

    def start(self, argv: Sequence[str | Path], fault: Fault = NO_FAULT) -> Command:
        """Starts `tsae` with some arguments."""
        log = self._folder / f"{next(self._logs)}.log"
        facts = {"argv": [str(x) for x in argv], "log": str(log), "shard_images": self.shard_images}
        return Command(self, self.ask(op="start", fault=dataclasses.asdict(fault), **facts)["pid"], log)

    def run(self, argv: Sequence[str | Path], fault: Fault = NO_FAULT) -> Ended:
        """Runs `tsae` to its end."""
        return self.start(argv, fault).end()

    def close(self) -> None:
        """Ends the process; commands that still run end too."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def serve(folder: str) -> None:
    """Answers requests, a JSON object a line, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _import_all(folder)
    started: dict[int, float] = {}
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if request["op"] == "start":
            pid = os.fork()
            if pid == 0:
                answers.close()
                _run(request, folder)
            started[pid] = time.monotonic()
            answer["pid"] = pid
        elif request["op"] == "wait_for_stop":
            # Not reaped: it is `wait` that tells how it ended.
            found = os.waitid(os.P_PID, request["pid"], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            answer["stopped"] = found is not None and found.si_code == os.CLD_STOPPED
        elif request["op"] == "wait":
            answer = _wait(request["pid"], started.pop(request["pid"]), request["after_s"])
        answers.write(json.dumps(answer) + "\n")
    for pid in started:
        os.kill(pid, signal.SIGKILL)


def _wait(pid: int, started_s: float, after_s: float) -> dict[str, Any]:
    descriptor = os.pidfd_open(pid)
    is_killed = not select.select([descriptor], [], [], after_s)[0]
    os.close(descriptor)
    if is_killed:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "killed": is_killed, "seconds": time.monotonic() - started_s}


def _import_all(folder: str) -> None:
    """Imports what a command imports, as a first one tells, but in this process, which so stays without threads."""
    import PIL.Image

    import tsae.cli

    source, archive, names = (os.path.join(folder, name) for name in ("warm-in", "warm-out", "names"))
    os.mkdir(source)
    PIL.Image.new("RGB", (40, 40)).save(os.path.join(source, "a.png"))
    Path(source, "bad.png").write_bytes(b"no image")  # so that Pillow loads all that it has
    if (pid := os.fork()) == 0:
        before = set(sys.modules)
        _redirect(os.path.join(folder, "warm.log"))
        code = tsae.cli.main(["compress", source, archive])
        Path(names).write_text("\n".join(sorted(set(sys.modules) - before)))
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, Path(folder, "warm.log").read_text()
    for name in Path(names).read_text().split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _redirect(log: str) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _run(request: dict[str, Any], folder: str) -> None:
    """The life of a command."""
    code = 70
    try:
        _redirect(request["log"])
        import tsae.cli
        import tsae.jobs.plan
        import tsae.paths.disk

        tsae.jobs.plan.SHARD_IMAGES = request["shard_images"]
        tempfile.tempdir = folder
        os.environ["TMPDIR"] = folder  # worker processes too
        fault = Fault(**request["fault"])
        tsae.paths.disk.LOCK_WAIT_S = fault.lock_wait_s
        _prepare(fault)
        time.sleep(max(0.0, fault.start_s - time.monotonic()))
        code = tsae.cli.main(request["argv"])
        sys.stdout.flush()
        if fault.how == "snapshot":
            _snapshot(fault, 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _prepare(fault: Fault) -> None:
    if fault.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_bytes, fault.file_bytes))
    if fault.bad_path:
        os.open = _open_bad(os.open, fault.bad_path, fault.bad_write)
    if fault.how:
        numbers, lock = itertools.count(1), threading.RLock()
        for name in fault.calls:
            setattr(os, name, _counted(getattr(os, name), fault, numbers, lock))


def _open_bad(original: Callable[..., int], end: str, bad_write: bool) -> Any:
    def replacement(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        is_write = bool(flags & (os.O_WRONLY | os.O_RDWR))
        if is_write == bad_write and os.fspath(path).endswith(end):
            return original(BAD_FILE, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        return original(path, flags, *args, **kwargs)

    return replacement


def _counted(original: Callable[..., Any], fault: Fault, numbers: Any, lock: Any) -> Any:
    def replacement(path: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_of_the_archive(path, fault.archive, kwargs.get("dir_fd", kwargs.get("src_dir_fd"))):
            return original(path, *args, **kwargs)
        with lock:
            number = next(numbers)
            if fault.how == "snapshot":
                _snapshot(fault, number)
            elif number == fault.at and fault.how == "error":
                os.write(2, f"{MET}\n".encode())
                raise OSError(fault.code, os.strerror(fault.code))
            elif number == fault.at:
                os.kill(os.getpid(), signal.SIGKILL if fault.how == "kill" else signal.SIGSTOP)
        return original(path, *args, **kwargs)

    return replacement


def _is_of_the_archive(path: Any, archive: str, folder: int | None) -> bool:
    """Whether a call is about a file of an archive; a path may be relative to the descriptor of a folder, or a descriptor."""
    here = os.readlink(f"/proc/self/fd/{path if isinstance(path, int) else folder}") if folder or isinstance(path, int) else ""
    place = os.path.join(here, "" if isinstance(path, int) else path)
    return place.startswith(archive)


def _snapshot(fault: Fault, number: int) -> None:
    """Copies the archive as it is now, and so as a kill would leave it, unless there is such a copy already."""
    state = sorted((str(path.relative_to(fault.archive)), _content(path)) for path in Path(fault.archive).rglob("*"))
    # All else in the names of temporary files is random.
    named = [(os.path.dirname(name) if ".tmp" in name else name, content) for name, content in state]
    target = Path(fault.folder, f"{number:04d}")
    mark = Path(fault.folder, hashlib.sha256(repr(named).encode()).hexdigest())
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
        Path(fault.archive).exists() and _copy(fault.archive, target)


def _copy(archive: str, target: Path) -> None:
    # Through functions that are counted: this is not the command's doing. `shutil` makes folders with `os.mkdir`.
    subprocess.run(["cp", "-a", archive, str(target)], check=True)


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def copy_archive(source: Path | None, target: Path) -> Path:
    """A copy to do harm to; where there is no archive, nothing."""
    if source is not None:
        shutil.copytree(source, target)
    return target


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name; folders are there as well, with a `/` at the end."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name + "/"] = b""
        else:
            with contextlib.suppress(FileNotFoundError):
                found[name] = path.read_bytes()
    return found


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    serve(sys.argv[1])
