"""Progress: plain lines where there is no terminal, a bar where there is one, counts from other processes."""

from __future__ import annotations

import io
import os
import pty
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tsae import progress
from tsae.progress import Progress, SharedCount, Tally, watch


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_short_job_is_silent_where_nobody_looks(now: list[float]) -> None:
    stream = io.StringIO()
    with Progress(10, "doing", stream=stream) as bar:
        bar.update(4)
        now[0] += 59
        bar.update(6)
    assert stream.getvalue() == ""


def test_plain_lines_tell_count_rate_and_facts(now: list[float]) -> None:
    stream = io.StringIO()
    with Progress(10, "doing", "things", stream) as bar:
        bar.update(4, loss="0.5")
        now[0] += 100
        bar.update(6)
    lines = stream.getvalue().splitlines()
    assert lines == ["doing: 10/10 things, 0 things/s, loss 0.5"] * 2


def test_bytes_are_shown_in_millions(now: list[float]) -> None:
    stream = io.StringIO()
    with Progress(18_866_663_300, "verifying", "bytes", stream) as bar:
        now[0] += 200
        bar.update(4_000_000_000)
    assert stream.getvalue().splitlines()[0] == "verifying: 4000.0/18866.7 MB, 20.0 MB/s, 743 s left"


def test_plain_lines_come_now_and_then(now: list[float]) -> None:
    stream = io.StringIO()
    with Progress(100, "doing", stream=stream) as bar:
        for _ in range(5):
            now[0] += 36
            bar.update(10)
    lines = stream.getvalue().splitlines()
    assert [line.split(" images")[0] for line in lines] == ["doing: 20/100", "doing: 40/100", "doing: 50/100"]
    assert "288 s left" in lines[0]


@pytest.mark.parametrize(("size", "has_bar"), [((40, 100), True), ((0, 0), False)])
def test_a_bar_is_drawn_on_a_terminal_that_has_a_size(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], has_bar: bool
) -> None:
    import fcntl
    import termios

    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with os.fdopen(theirs, "w") as stream, Progress(10, "doing", stream=stream) as bar:
        bar.update(10)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "doing" in shown
    assert ("%|" in shown) == has_bar


def test_counts_of_several_processes_add_up(tmp_path: Path) -> None:
    count = SharedCount(str(tmp_path))
    count.add(5, failed=1)
    count.add(7, bytes_in=2**40)
    code = (
        f"from tsae.progress import SharedCount; c = SharedCount({str(tmp_path)!r}); c.add(100, failed=3); c.add(bytes_out=20)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert count.total() == Tally(112, 4, 2**40, 20)


def test_a_count_whose_folder_is_gone_is_no_error(tmp_path: Path) -> None:
    SharedCount(str(tmp_path / "none")).add(1)


def test_watching_shows_the_final_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0)
    with watch(30, "doing") as count:
        count.add(10, bytes_in=1_200_000)
        count.add(20, failed=2, bytes_out=340_000)
    line = stream.getvalue().splitlines()[-1]
    assert line.startswith("doing: 30/30 images, ")
    assert line.endswith(" images/s, failed 2, in 1.2 MB, out 0.3 MB")
    assert not os.path.exists(count.folder)


def test_what_is_done_elsewhere_is_shown_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, told = io.StringIO(), iter([0, 12, OSError("gone")])
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0)
    monkeypatch.setattr(progress, "ELSEWHERE_INTERVAL_S", 0)
    monkeypatch.setattr(progress, "WATCH_INTERVAL_S", 0.01)
    asked = threading.Event()

    def elsewhere() -> int:
        value = next(told, 30)
        asked.set() if value == 30 else None
        if isinstance(value, Exception):
            raise value
        return value

    with watch(30, "doing", elsewhere):
        assert asked.wait(30)
    lines = stream.getvalue().splitlines()
    assert [line.split(" images")[0] for line in lines][:3] == ["doing: 0/30", "doing: 12/30", "doing: 12/30"]
    assert lines[-1].startswith("doing: 30/30 images, ")
    assert "failed" not in lines[-1]


def test_where_nothing_comes_from_elsewhere_a_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, asked = io.StringIO(), threading.Event()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "ELSEWHERE_INTERVAL_S", 0)
    monkeypatch.setattr(progress, "WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(progress, "STALLED_S", 0.0)
    told = iter([5, 5, 5])

    def elsewhere() -> int:
        value = next(told, 9)
        asked.set() if value == 9 else None
        return value

    with watch(9, "doing", elsewhere):
        assert asked.wait(30)
    assert stream.getvalue().count("nothing was finished for 0 minutes; ") >= 2
    assert "--resume" in stream.getvalue()


def test_work_on_this_machine_never_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(progress, "STALLED_S", 0.0)
    with watch(9, "doing") as count:
        count.add(9)
    assert stream.getvalue() == ""
