"""The contestants: what each is called, how its command line looks, and what it must leave behind."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from peers.watch import Watched, watch

BENCHMARKS = Path(__file__).resolve().parents[1]

COMPRESS, DECOMPRESS = "compress", "decompress"
DIRECTIONS = (COMPRESS, DECOMPRESS)

OURS, PEER, BARE, FLOOR = "ours", "peer", "bare", "floor"

LATENTS = "latents"
"""Name of the Parquet files that peers bring back to images; those of ours are named by model."""

FOLDER_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Someone who does the job.

    Attributes:
        name: For tables and `--only`.
        group: Ours, a peer, the bare loop or the floor.
        program: Model and flags of `tsae`, or a module of this package.
        needs: Package without which it is left out.
        directions: What it can do.
        source: Which of the prepared inputs it decompresses.
        workers: Its processes; 0 for as many as the others have.
        is_extra: Whether it runs only where it is named.
    """

    name: str
    group: str
    program: tuple[str, ...]
    needs: str = ""
    directions: tuple[str, ...] = DIRECTIONS
    source: str = LATENTS
    workers: int = 0
    is_extra: bool = False


def _ours(model: str) -> list[Contestant]:
    quick = Contestant(f"{model}, no verify", OURS, (model, "--no-verify"), directions=(COMPRESS,))
    return [Contestant(model, OURS, (model,), source=model), quick]


CONTESTANTS = [
    *_ours("seed-8x8x8"),
    *_ours("tsae"),
    Contestant("datasets", PEER, ("hf_datasets",), "datasets"),
    Contestant("DataLoader", PEER, ("dataloader",), "torch"),
    Contestant("Ray Data", PEER, ("ray_data",), "ray", (COMPRESS,)),
    Contestant("Beam", PEER, ("beam",), "apache_beam", (COMPRESS,)),
    Contestant("bare loop", BARE, ("bare",)),
    Contestant(
        "seed-8x8x8, no verify, 1 worker", OURS, ("seed-8x8x8", "--no-verify"), directions=(COMPRESS,), workers=1, is_extra=True
    ),
    Contestant("bare loop, 1 worker", BARE, ("bare",), directions=(COMPRESS,), workers=1, is_extra=True),
    Contestant("floor", FLOOR, ("floor",)),
    Contestant("floor, our tools", FLOOR, ("own_floor",)),
]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What holds for all runs.

    Attributes:
        work: An empty folder for inputs and outputs.
        peer_python: Interpreter that has the peers' packages.
        workers: Processes of each contestant.
        limit_s: Time after which a run is ended.
    """

    work: Path
    peer_python: str
    workers: int
    limit_s: float

    def environ(self) -> dict[str, str]:
        """One torch thread a process, our packages in reach, no cache that outlives the run, nothing sent home.

        Ray's workers are "nice" by default: any other process on the machine would stop them.
        """
        return {
            **os.environ,
            "PYTHONPATH": f"{BENCHMARKS.parent}{os.pathsep}{BENCHMARKS}",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(self.work / "cache"),
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }


@dataclasses.dataclass(frozen=True)
class Run:
    """One contestant's run on one input.

    Attributes:
        name: The contestant.
        direction: Compress or decompress.
        round: From 0, which warms up.
        images: How many it was given.
        returned: How many rows or files it left.
        wall_s: Start-up included.
        peak_mb: Of all its processes.
        figures: What it said of itself.
        error: Why it failed; empty if it did not.
    """

    name: str
    direction: str
    round: int
    images: int
    returned: int
    wall_s: float
    peak_mb: float
    figures: dict[str, Any]
    error: str


def command(contestant: Contestant, direction: str, source: Path, target: Path, settings: Settings) -> list[str]:
    """How a contestant is started."""
    workers = str(contestant.workers or settings.workers)
    if contestant.group == OURS:
        model, *flags = contestant.program
        options = ["--model", model, *flags] if direction == COMPRESS else []
        return [sys.executable, "-m", "tsae", direction, str(source), str(target), "--workers", workers, *options]
    python = settings.peer_python if contestant.group == PEER else sys.executable
    return [python, "-m", f"peers.{contestant.program[0]}", direction, str(source), str(target), workers]


def run(contestant: Contestant, direction: str, source: Path, images: int, number: int, settings: Settings) -> Run:
    """Lets a contestant do its job, counts what it left, and removes that."""
    target = settings.work / "output"
    watched = watch(command(contestant, direction, source, target, settings), settings.environ(), settings.limit_s)
    returned = images if contestant.group == FLOOR else count_outputs(target, direction)
    for leftover in (target, settings.work / "cache"):
        shutil.rmtree(leftover, ignore_errors=True)
    figures = {} if contestant.group == OURS else _figures(watched)
    return Run(
        contestant.name, direction, number, images, returned, watched.wall_s, watched.peak_mb, figures, watched.complaint
    )


def _figures(watched: Watched) -> dict[str, Any]:
    """The JSON object of the last line, if there is one."""
    lines = watched.output.splitlines()
    return dict(json.loads(lines[-1])) if watched.code == 0 and lines else {}


def count_outputs(target: Path, direction: str) -> int:
    """Rows of Parquet files, of an archive those of its shards; or PNG files."""
    if direction == DECOMPRESS:
        return sum(1 for _ in target.rglob("*.png"))
    folder = target / "shards" if (target / "shards").is_dir() else target
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def split_missing(contestants: Iterable[Contestant], python: str) -> tuple[list[Contestant], list[Contestant]]:
    """Contestants that can run, and those whose package an interpreter lacks."""
    contestants = list(contestants)
    needs = sorted({contestant.needs for contestant in contestants if contestant.needs})
    code = "import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if not u.find_spec(name)])"
    found = subprocess.run([python, "-c", code, *needs], check=True, capture_output=True, text=True).stdout.split()
    missing = [contestant for contestant in contestants if contestant.needs in found]
    return [contestant for contestant in contestants if contestant not in missing], missing


def spread(sources: Sequence[Path], folder: Path, count: int) -> Path:
    """A folder of so many files, links to the sources in turn, a thousand in each folder below it.

    A file system may forbid hard links, or allow only so many to one file (65,000 on ext4): then links are symbolic.
    """
    for number in range(count):
        link = folder / f"{number // FOLDER_IMAGES:05d}" / f"{number:07d}.png"
        if number % FOLDER_IMAGES == 0:
            link.parent.mkdir(parents=True)
        source = sources[number % len(sources)].resolve()
        try:
            os.link(source, link)
        except OSError:
            link.symlink_to(source)
    return folder


def prepare(sources: Sequence[Path], images: int, contestants: Iterable[Contestant], settings: Settings) -> dict[str, Path]:
    """Inputs of one size: PNG files, and for those who decompress what ours and the bare loop made of them."""
    folder = settings.work / f"input-{images}"
    inputs = {COMPRESS: spread(sources, folder / "png", images)}
    makers = {
        LATENTS: Contestant("", BARE, ("bare",)),
        **{name: Contestant("", OURS, (name,)) for name in ("seed-8x8x8", "tsae")},
    }
    for name in sorted({contestant.source for contestant in contestants if DECOMPRESS in contestant.directions}):
        inputs[name] = folder / name
        arguments = command(makers[name], COMPRESS, inputs[COMPRESS], inputs[name], settings)
        watched = watch(arguments, settings.environ(), settings.limit_s)
        assert watched.code == 0, f"{name}: {watched.errors}"
    return inputs


def play(
    contestants: Sequence[Contestant],
    directions: Sequence[str],
    inputs: dict[int, dict[str, Path]],
    rounds: int,
    settings: Settings,
) -> list[Run]:
    """All rounds: in each, everyone runs once on every input, and each round begins with another one.

    Args:
        contestants: Those that can run.
        directions: One or both.
        inputs: Number of images to what `prepare` gave.
        rounds: How many count; one more before them warms up.
        settings: Of all runs.
    """
    runs = []
    for number in range(rounds + 1):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            for direction in [each for each in directions if each in contestant.directions]:
                for images in sizes(contestant, number, inputs):
                    source = inputs[images][COMPRESS if direction == COMPRESS else contestant.source]
                    runs.append(run(contestant, direction, source, images, number, settings))
                    print(shown(runs[-1]), file=sys.stderr, flush=True)
    return runs


def sizes(contestant: Contestant, number: int, inputs: Collection[int]) -> list[int]:
    """The inputs of a contestant's round: start-up does not warm up, and the floor has none."""
    return [max(inputs)] if number == 0 or contestant.group == FLOOR else sorted(inputs)


def shown(run: Run) -> str:
    """A line for those who wait."""
    return f"round {run.round}  {run.direction}  {run.name}  {run.images} images  {run.wall_s:.2f} s  {run.error}".rstrip()
