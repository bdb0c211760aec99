"""Where the time of a job goes, by step: a sampling profile (py-spy) of all its processes.

    python benchmarks/where_time_goes.py DATA [--images N] [--tree CHECKOUT] [--models NAME ...] [--out DIR]

DATA holds PNG files, in folders or not; the input is N links to them, in turn. With --tree, the code of another checkout is
profiled, such as one of an older commit; without, the one that this file is in. Each job runs once to warm up, and then under
py-spy, which takes a few percent itself. A sample counts for the innermost function of a stack that belongs to a step; threads
that wait do not count. Writes `where_time_goes.json` and `.md`. Needs `pip install '.[bench]'` and the right to trace.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from peers.contest import spread
from rd.report import number, table
from rd.run_facts import run_facts

RATE_HZ = 200

STEPS = {
    "imports": ("_find_and_load (", "_find_and_load_unlocked ("),
    "decode image": ("(tsae/images.py", "decode_plain (tsae/png.py", "_has_plain_chunks (tsae/png.py"),
    "scale": ("resize (tsae/images.py",),
    "write PNG": ("(tsae/png.py", "encode_image (tsae/images.py", "_add_tag (tsae/images.py"),
    "network": ("(tsae/backends/", "(tsae/model.py", "(tsae/fixed_point.py"),
    "entropy coding": ("(tsae/entropy/",),
    "rest of codec": ("(tsae/codec.py", "(tsae/coding/", "(tsae/quantize.py", "(tsae/metrics.py"),
    "write files": (
        "write_images (",
        "_write_image (",
        "write_shard (tsae/jobs",
        "write_shard (tsae/archive",
        "provenance_to_bytes (",
    ),
    "read files": ("(tsae/inputs/", "read_images (", "_read_image (", "read_records (", "Origin.of ("),
    "list and plan": ("list_inputs (", "plan (tsae/jobs", "cut (tsae/jobs"),
}
"""Functions, or files, that belong to a step; of a frame, the longest that matches."""

REST = "the rest"

FLAGS = {"compress": ["--no-verify"], "decompress": []}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=25_260, help="default: %(default)s")
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--models", nargs="+", default=["seed-8x8x8", "tsae"])
    parser.add_argument("--work", help="where inputs and outputs are for the time being (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def step_of(stack: Iterable[str]) -> str:
    """The step of a stack of frames, `function (file:line)` from the outermost inwards."""
    for frame in reversed(list(stack)):
        matches = [(len(mark), step) for step, marks in STEPS.items() for mark in marks if mark in frame]
        if matches:
            return max(matches)[1]
    return REST


def count_steps(profile: str) -> collections.Counter[str]:
    """Samples of each step, from lines of `frame;frame;... samples`."""
    counts: collections.Counter[str] = collections.Counter()
    for line in profile.splitlines():
        stack, _, samples = line.rpartition(" ")
        counts[step_of(stack.split(";"))] += int(samples)
    return counts


def profile_job(job: list[str], target: Path, args: argparse.Namespace, work: Path) -> dict[str, float]:
    """Microseconds of a core an image for each step of a job."""
    environ = {**os.environ, "PYTHONPATH": str(args.tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tsae", *job]
    raw = work / "profile.txt"
    spy = [shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))]
    spy += ["record", "--subprocesses", "--format", "raw", "--rate", str(RATE_HZ), "--output", str(raw), "--"]
    for prefix in ([], spy):
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([*prefix, *command], check=True, capture_output=True, env=environ, cwd=work)
    counts = count_steps(raw.read_text())
    return {step: counts[step] / RATE_HZ / args.images * 1e6 for step in (*STEPS, REST)}


def measure(args: argparse.Namespace, work: Path) -> dict[str, dict[str, float]]:
    """Profiles all jobs."""
    sources = sorted(args.data.rglob("*.png"))
    assert sources, f"{args.data}: no PNG files"
    images = spread(sources, work / "images", args.images)
    results = {}
    for model in args.models:
        archive, back = work / f"archive-{model}", work / "back"
        places = {"compress": (images, archive), "decompress": (archive, back)}
        for direction, (source, target) in places.items():
            options = ["--model", model, *FLAGS[direction]] if direction == "compress" else []
            results[f"{direction}, {model}"] = profile_job([direction, str(source), str(target), *options], target, args, work)
    return results


def markdown(facts: dict[str, Any], results: dict[str, dict[str, float]]) -> str:
    """The report."""
    steps = [step for step in (*STEPS, REST) if any(row[step] for row in results.values())]
    rows = [[step, *(number(row[step], 0) for row in results.values())] for step in steps]
    rows.append(["sum", *(number(sum(row.values()), 0) for row in results.values())])
    about = (
        f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, Python {facts['python']}; {facts['images']:,} images. "
        f"Microseconds of a core an image, start-up included, by samples ({RATE_HZ} a second) of all processes."
    )
    return "\n\n".join(["# Where the time goes", about, table(("step", *results), rows)]) + "\n"


def main() -> None:
    """Measures, prints, and writes the files."""
    args = parse()
    args.tree = args.tree.resolve()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        results = measure(args, Path(work).resolve())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=args.tree, capture_output=True, text=True
    ).stdout.strip()
    facts = {**run_facts(()), "commit": commit, "images": args.images}
    args.out.mkdir(parents=True, exist_ok=True)
    content = {**facts, "us_an_image": results}
    (args.out / "where_time_goes.json").write_text(json.dumps(content, indent=1) + "\n")
    (args.out / "where_time_goes.md").write_text(markdown(facts, results))
    print(markdown(facts, results))


if __name__ == "__main__":
    main()
