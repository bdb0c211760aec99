"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere. Owns how it looks, not what is counted."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from tsae import log

PLAIN_INTERVAL_S = 60.0
"""Time between plain lines: a short job says nothing, and a log file of a long one still shows that it is alive."""

JSON_INTERVAL_S = 10.0
"""Time between JSON lines, which machines read: a graph wants more of them."""

WATCH_INTERVAL_S = 0.25
"""Time between looks at what other processes counted."""


class Progress:
    """Counts up to a total, with rate and time left; use it as a context manager."""

    def __init__(self, total: int, label: str, unit: str = "images", stream: TextIO | None = None) -> None:
        """Starts at zero.

        Args:
            total: What the count will reach.
            label: What is being done, one or two words.
            unit: What is counted; of "bytes", millions are shown.
            stream: Where to show it; None is standard error.
        """
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = _is_terminal(self._stream) and not log.is_json()
        is_bytes = unit == "bytes"
        self._bar = tqdm(
            total=total,
            desc=label,
            unit="B" if is_bytes else f" {unit}",
            unit_scale=is_bytes,
            file=self._stream,
            disable=not self._is_terminal,
            dynamic_ncols=True,
            smoothing=0.1,
        )
        self._label, self._unit_name, self._unit, self._total = label, unit, "MB" if is_bytes else unit, total
        self._scale, self._digits = (1e-6, 1) if is_bytes else (1.0, 0)
        self._count, self._facts = 0, dict[str, Any]()
        self._started_s = self._printed_s = time.monotonic()

    def update(self, count: int, **facts: Any) -> None:
        """Adds `count`, and shows `facts` (name=value) beside it; for people, `x_bytes` as "x" in MB."""
        self._count += count
        self._facts = facts or self._facts
        if self._is_terminal:
            self._bar.set_postfix_str(self._shown_facts(), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._printed_s >= (JSON_INTERVAL_S if log.is_json() else PLAIN_INTERVAL_S):
            self._print_line()

    def _print_line(self) -> None:
        self._printed_s = time.monotonic()
        rate = self._count / max(self._printed_s - self._started_s, 1e-9)
        left_s = (self._total - self._count) / rate if 0 < self._count < self._total else None
        if log.is_json():
            facts: dict[str, Any] = {"doing": self._label, "unit": self._unit_name, "done": self._count, "total": self._total}
            facts |= {"rate_per_s": round(rate, 1), "left_s": left_s and round(left_s, 1), **self._facts}
            log.tell("progress", **facts)
            return
        left = "" if left_s is None else f", {left_s:.0f} s left"
        beside = f", {self._shown_facts()}" if self._facts else ""
        count, total, speed = (f"{n * self._scale:.{self._digits}f}" for n in (self._count, self._total, rate))
        line = f"{self._label}: {count}/{total} {self._unit}, {speed} {self._unit}/s{beside}{left}"
        log.write_line(line, self._stream)

    def _shown_facts(self) -> str:
        return ", ".join(_shown(name, value) for name, value in self._facts.items())

    def __enter__(self) -> Progress:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the bar, or prints the last plain line, if there was one before."""
        self._bar.close()
        if not self._is_terminal and self._printed_s > self._started_s:
            self._print_line()


def _shown(name: str, value: Any) -> str:
    short = name.removesuffix("_bytes")
    return f"{name} {value}" if short == name else f"{short} {value / 1e6:.1f} MB"


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn: some pseudo-terminals have no size, where tqdm draws nothing."""
    return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 1


class Tally(NamedTuple):
    """What has been done: images, those of them that failed, and bytes read and written."""

    images: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum of both."""
        return Tally(*map(operator.add, self, other))


@dataclasses.dataclass(frozen=True)
class SharedCount:
    """A tally that several processes of one machine add to and one reads; a plain value, so it travels to workers.

    Each process keeps its own sum in a file of its own: no lock, and a killed worker leaves its last sum.

    Attributes:
        folder: A local folder for nothing else.
    """

    folder: str

    def add(self, images: int = 0, failed: int = 0, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Adds to this process's sum; does nothing if the folder is gone or not on this machine."""
        name = os.path.join(self.folder, f"{os.getpid()}")
        _OWN_SUMS[name] = _OWN_SUMS.get(name, Tally()).plus(Tally(images, failed, bytes_in, bytes_out))
        try:
            with open(name, "wb") as file:
                file.write(_SUM.pack(*_OWN_SUMS[name]))
        except OSError:
            pass  # progress is a courtesy: a job must not end for it

    def total(self) -> Tally:
        """The sum of all processes' sums."""
        total = Tally()
        for entry in os.scandir(self.folder):
            with open(entry.path, "rb") as file:
                data = file.read()
            if len(data) == _SUM.size:  # else it is just being written
                total = total.plus(Tally(*_SUM.unpack(data)))
        return total


_SUM = struct.Struct("<4q")

_OWN_SUMS: dict[str, Tally] = {}


ELSEWHERE_INTERVAL_S = 5.0
"""Time between looks at what other machines left in a store."""

STALLED_S = 600.0
"""How long nothing may come from other machines before a line says so: some engines wait for a lost worker for ever."""


@contextlib.contextmanager
def watch(total: int, label: str, elsewhere: Callable[[], int] | None = None) -> Iterator[SharedCount]:
    """Shows the progress of other processes: yields a count for them, and draws it until the block ends.

    Args:
        total: What the count will reach.
        label: What is being done.
        elsewhere: Tells how many images are done on machines that the count does not reach; it may fail with OSError.
    """
    with tempfile.TemporaryDirectory(prefix="tsae-progress-") as folder, Progress(total, label) as progress:
        count, ended = SharedCount(folder), threading.Event()
        thread = threading.Thread(target=_follow, args=(count, progress, ended, elsewhere), daemon=True)
        thread.start()
        try:
            yield count
        finally:
            ended.set()
            thread.join()


def _follow(count: SharedCount, progress: Progress, ended: threading.Event, elsewhere: Callable[[], int] | None) -> None:
    shown, is_last, far, asked_s = 0, False, 0, time.monotonic()
    came_s = asked_s
    while not is_last:
        is_last = ended.wait(WATCH_INTERVAL_S)
        if elsewhere is not None and (is_last or time.monotonic() - asked_s >= ELSEWHERE_INTERVAL_S):
            with contextlib.suppress(OSError):
                far = elsewhere()
            asked_s = time.monotonic()
        now = count.total()
        facts = {"failed": now.failed, "in_bytes": now.bytes_in, "out_bytes": now.bytes_out}
        done = max(now.images, far)
        if done > shown:
            came_s = time.monotonic()
        elif elsewhere is not None and time.monotonic() - came_s >= STALLED_S:
            _say_stalled()
            came_s = time.monotonic()
        progress.update(max(done - shown, 0), **(facts if now.images or elsewhere is None else {}))
        shown = max(done, shown)


def _say_stalled() -> None:
    remedy = "if the engine waits for a worker that it has lost, interrupt this command and give it again with --resume"
    log.say("stalled", f"nothing was finished for {STALLED_S / 60:.0f} minutes; {remedy}", "warning")
