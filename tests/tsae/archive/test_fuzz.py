"""The fuzz runner: a few seconds of what it runs for minutes elsewhere, and that it sees what it is there for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tsae.archive import fuzz

ROOT = Path(__file__).parents[3]


def run(*arguments: str, code: str = "sys.exit(fuzz.main())") -> subprocess.CompletedProcess[str]:
    """In a process of its own: a fork takes only one thread along, and other tests have more."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.tsae.archive import fuzz\n"
    return subprocess.run([sys.executable, "-c", start + code, *arguments], capture_output=True, text=True, timeout=570)


def test_no_damage_and_no_lie_breaks_the_promise() -> None:
    result = run("--cases", "200", "--minutes", "5")
    assert result.returncode == 0, result.stdout + result.stderr
    counts = {name: int(count.replace(",", "")) for count, name in re.findall(r"([\d,]+) (\w+: \w+)", result.stdout)}
    assert sum(counts.values()) == 200
    assert {name.partition(":")[0] for name in counts} == {mutation.__name__ for mutation in fuzz.BY_CHANCE + fuzz.LIES}
    assert sum(count for name, count in counts.items() if "detected" in name) > 100
    assert sum(count for name, count in counts.items() if "harmless" in name) > 5


BREAKS = {
    "os.abort()": "the process ended",
    "signal.pause()": "it hangs",
    "bytearray(2**40)": "the process ended",
    "bytearray(b'x') * 2**29": "bytes of memory",
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_case_is_found(what: str) -> None:
    code = f"""
import os, signal
fuzz.CHILD_SECONDS = 5
fuzz.shared_truth = lambda: None
def run_case(truth, seed, number):
    if number == 42:
        {what}
    return "case", fuzz.Look()
fuzz.run_case = run_case
sys.exit(fuzz.main())
"""
    result = run("--cases", "200", "--seed", "7", code=code)
    assert result.returncode == 1, result.stderr
    (violation,) = re.findall("^seed .*", result.stdout, re.MULTILINE)
    assert violation.startswith("seed 7 case 42")
    assert BREAKS[what] in violation


READER = """
import pyarrow as pa
truth = fuzz.shared_truth()

def wrong(archive):
    table = archive._files.to_table()
    return table.set_column(4, "psnr_db", [pa.array([1.0] * len(table), pa.float32())])

def raising(error):
    def to_table(archive):
        raise error
    return to_table

texts = ["somewhere", "shards/0.parquet:\\n broken", "shards/0.parquet: broken"]
errors = [KeyError("x"), ValueError("y"), *map(fuzz.TsaeError, texts)]
for broken in [wrong, *map(raising, errors)]:
    class Archive(fuzz.Archive):
        to_table = broken
    fuzz.Archive, whole = Archive, fuzz.Archive
    print(fuzz.look(truth, truth.files, {"shards/0.parquet"}).violations)
    fuzz.Archive = whole
"""


def test_a_reader_that_breaks_the_promise_is_found() -> None:
    result = run(code=READER)
    assert result.returncode == 0, result.stderr
    *lines, right = result.stdout.splitlines()
    reasons = [
        "table: wrong data",
        "table: KeyError: 'x'",
        "table: ValueError: y",
        "table: names none of",
        "table: not one line",
    ]
    assert len(lines) == len(reasons)
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True)), lines
    assert right == "[]"
