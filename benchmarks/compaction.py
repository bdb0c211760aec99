"""What many small commits cost those who read, and what `tsae compact` makes of them.

    python benchmarks/compaction.py [--commits 10000] [--images 10] [--in-order] [--work DIR] [--out DIR]

Commits so many times so many records, streams of drawn signs over and over, each time as `tsae compress --watch` commits. The
keys are those of ten cameras that each number their images, so each shard has keys of all cameras and the ranges of all
shards overlap; with `--in-order` there is one camera, and no two ranges overlap. Then measures, each in processes of their
own, with all modules imported and the model loaded, files in the page cache: `open` and `first get`, of an image by
its key, once in each of several processes; `warm get`, of random keys, in one process; the whole command `tsae get`; and what
lies on the disk. Compacts, measures the same again, and compares all pixels and records.

Writes `compaction.json` and `.md`. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from access import draw_records
from peers.watch import watch
from rd.report import number, table
from rd.run_facts import run_facts

import tsae
from tsae import archive as ar
from tsae.codec import shared_codec
from tsae.config import DEFAULT_MODEL
from tsae.imports import do_without_pandas
from tsae.model_facts import check_quality, read_model_facts
from tsae.zoo import read_model_file

CAMERAS = 10
COLD, WARM, WARM_S = 7, 1000, 30.0
"""Processes; and most random keys, and seconds for them."""

LIMIT_S = 3600.0
PACKAGES = ("numpy", "pyarrow", "torch")
SOURCE_BYTES = 2048
"""Of the files that records say they were made from."""

Row = dict[str, Any]


def key(commit: int, image: int, in_order: bool) -> str:
    """The key of one image of a commit."""
    return (
        f"all/{commit:07d}-{image:03d}.png" if in_order else f"camera{image % CAMERAS}/{commit:07d}-{image // CAMERAS:03d}.png"
    )


def write_archive(folder: ar.Folder, commits: int, images: int, in_order: bool) -> float:
    """An archive by so many commits; returns the seconds of a commit, the median of the last hundred."""
    rng, model = np.random.default_rng(commits), read_model_file(DEFAULT_MODEL)
    facts, drawn, waste, taken = read_model_facts(model, DEFAULT_MODEL), draw_records(model), ar.Waste(folder), []
    state = ar.Manifest(
        requires=(),
        model=facts.name,
        model_file=ar.MODEL_FILE,
        model_bytes=len(model),
        model_sha256=ar.digest(model),
        latent_shape=facts.latent_shape,
        preprocessing=facts.preprocessing.to_json(),
        settings=ar.Settings("benchmark", "benchmark", True, None, check_quality(None, facts.qualities, facts.name)),
        created_by="benchmarks/compaction.py",
        counts=ar.count(folder, (), 0, 0),
        lists=(),
        failures=(),
    )
    ar.write(folder, ar.MODEL_FILE, model)
    ar.commit(folder, state, None)
    for commit in range(commits):
        started_s = time.perf_counter()
        keys = sorted(key(commit, image, in_order) for image in range(images))
        state = _commit(folder, state, commit, _records(keys, drawn, rng), waste)
        taken.append(time.perf_counter() - started_s)
    return statistics.median(taken[-100:])


def _records(keys: list[str], drawn: ar.Records, rng: np.random.Generator) -> ar.Records:
    sizes = rng.integers(25, 100, (2, len(keys))).astype(np.uint32)
    psnrs_db = ar.stored_psnr_db(rng.normal(32.4, 3.4, len(keys)))
    chosen, labels = drawn.take(rng.integers(0, len(drawn), len(keys)).tolist()), [None] * len(keys)
    return dataclasses.replace(chosen, keys=keys, widths=sizes[0], heights=sizes[1], labels=labels, psnrs_db=psnrs_db)


def _commit(folder: ar.Folder, old: ar.Manifest, number: int, records: ar.Records, waste: ar.Waste) -> ar.Manifest:
    """One commit, as a watch makes it."""
    origins = {name: ar.Origin(SOURCE_BYTES, f"{time.time_ns()}", os.urandom(16)) for name in records.keys}
    entry, text = ar.write_shard(folder, number, records, origins, old.model_sha256), old.to_json()
    lists = ar.write_lists(folder, ar.ArchiveFiles(folder.path, text), {}, [entry])
    counts = ar.recount(old.counts, [], [entry], 0, 0) or ar.count(folder, lists, 0, 0)
    new = dataclasses.replace(old, counts=counts, lists=lists)
    ar.commit(folder, new, text)
    waste.add(text, old.files - new.files)
    waste.remove()
    return new


# What is measured in processes of their own


def load_model() -> None:
    """Loads the model, and what it is decoded with."""
    codec = shared_codec(read_model_file(DEFAULT_MODEL), DEFAULT_MODEL, "cpu")
    codec.decode(codec.encode(np.zeros((1, 32, 32, 3), np.uint8)))


def measure_cold(path: str, name: str) -> Row:
    """Opens, and gets one image."""
    load_model()
    started_s = time.perf_counter()
    archive = tsae.open_archive(path)
    opened_s = time.perf_counter()
    archive[name]
    return {"open_ms": (opened_s - started_s) * 1e3, "first_get_ms": (time.perf_counter() - opened_s) * 1e3}


def measure_warm(path: str, *names: str) -> Row:
    """Gets images by random keys, for a limited time, from an archive that has been used."""
    load_model()
    archive, taken = tsae.open_archive(path), []
    archive[names[0]]
    deadline_s = time.perf_counter() + WARM_S
    for name in names[1:]:
        started_s = time.perf_counter()
        archive[name]
        taken.append((time.perf_counter() - started_s) * 1e3)
        if time.perf_counter() > deadline_s:
            break
    return {"warm_get_ms": statistics.median(taken), "warm_get_p99_ms": float(np.percentile(taken, 99)), "gets": len(taken)}


def measure_all(path: str) -> Row:
    """Decodes everything; a digest of all keys, pixels and records in the order of keys."""
    started_s = time.perf_counter()
    archive, sha256 = tsae.open_archive(path), hashlib.sha256()
    keys, pixels = list(archive.keys()), archive[:]
    seconds = time.perf_counter() - started_s
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for i in order:
        sha256.update(keys[i].encode() + pixels[i].tobytes())
    records = archive.to_table().sort_by("key").combine_chunks()
    for name in records.column_names:
        for value in records.column(name).to_pylist():
            sha256.update(repr(value).encode())
    return {"decode_all_s": seconds, "sha256": sha256.hexdigest()}


MEASURES = {"cold": measure_cold, "warm": measure_warm, "all": measure_all}


def apart(what: str, *arguments: str) -> Row:
    """Runs one of the above in a process of its own."""
    command = [sys.executable, __file__, "--apart", what, *arguments]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measure(path: str, names: Sequence[str]) -> Row:
    """All figures of a state."""
    cold = [apart("cold", path, name) for name in names[:COLD]]
    row = {name: statistics.median(run[name] for run in cold) for name in ("open_ms", "first_get_ms")}
    row |= apart("warm", path, *names)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tsae", "get", path, names[0], "-o", f"{folder}/x.png"]
        row["tsae_get_s"] = statistics.median(watch(command, os.environ, LIMIT_S).wall_s for _ in range(3))
    sizes = ar.Folder(path).sizes_bytes()
    row |= {"files": len(sizes), "bytes": sum(sizes.values()), "shards": ar.read_manifest(ar.Folder(path)).counts.shards}
    return row | apart("all", path)


ROWS = {
    "shards": ("shards", 0),
    "files": ("files", 0),
    "MB of files, model included": ("mb", 1),
    "open, ms": ("open_ms", 1),
    "first get, ms": ("first_get_ms", 1),
    "warm get, ms, median": ("warm_get_ms", 2),
    "warm get, ms, 99th percentile": ("warm_get_p99_ms", 2),
    "`tsae get`, the whole command, s": ("tsae_get_s", 2),
    "decoding all images, s": ("decode_all_s", 1),
}


def markdown(facts: Row, results: Sequence[Row]) -> str:
    """The whole report."""
    machine = f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, Python {facts['python']}."
    parts = ["# Compaction", machine, f"```\n{facts['command']}\n```"]
    return "\n\n".join([*parts, *map(_section, results)]) + "\n"


def _section(result: Row) -> str:
    states = [{**result[state], "mb": result[state]["bytes"] / 1e6} for state in ("before", "after")]
    rows = [[name, *(number(state[field], digits) for state in states)] for name, (field, digits) in ROWS.items()]
    keys = "of one camera, in order" if result["in_order"] else f"of {CAMERAS} cameras"
    commits = f"{result['commits']:,} commits of {result['images']} images, keys {keys}"
    work = f"{result['compact_s']:.1f} s, at most {result['compact_mb']:.0f} MB of memory"
    lines = [
        f"{commits}; a commit took {result['commit_ms']:.0f} ms at last.",
        f"`tsae compact`: {work}. All pixels and records are equal.",
    ]
    return "\n\n".join([" ".join(lines), table(("", "before", "after"), rows)])


def run(work: str, commits: int, images: int, in_order: bool) -> Row:
    """Writes, measures, compacts, measures again."""
    path, rng = f"{work}/archive-{in_order}", np.random.default_rng(7)
    result: Row = {"commits": commits, "images": images, "in_order": in_order}
    result["commit_ms"] = write_archive(ar.Folder(path), commits, images, in_order) * 1e3
    names = [key(int(rng.integers(commits)), int(rng.integers(images)), in_order) for _ in range(WARM)]
    result["before"] = measure(path, names)
    print(json.dumps(result), flush=True)
    watched = watch([sys.executable, "-m", "tsae", "compact", path], os.environ, LIMIT_S)
    assert watched.code == 0, watched.errors
    result |= {"compact_s": watched.wall_s, "compact_mb": watched.peak_mb, "said": watched.output.strip().partition(": ")[2]}
    result["after"] = measure(path, names)
    assert result["before"]["sha256"] == result["after"]["sha256"], "other pixels or records"
    assert not [report for report in ar.verify(ar.ArchiveFiles(path), 2) if report.damages]
    print(json.dumps(result), flush=True)
    return result


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=10, help="of a commit (default: %(default)s)")
    parser.add_argument("--in-order", action="store_true", help="the keys of one camera as well, which come in order")
    parser.add_argument("--work", help="where archives are for the time being (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def orders(args: argparse.Namespace) -> Iterator[bool]:
    """Whether keys come in order."""
    yield False
    if args.in_order:
        yield True


def main() -> None:
    """Writes the files anew after each archive."""
    if sys.argv[1:2] == ["--apart"]:
        do_without_pandas()
        print(json.dumps(MEASURES[sys.argv[2]](*sys.argv[3:])))
        return
    args = parse()
    facts, results = run_facts(PACKAGES), []
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for in_order in orders(args):
            results.append(run(work, args.commits, args.images, in_order))
            (args.out / "compaction.json").write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
            (args.out / "compaction.md").write_text(markdown(facts, results))
    print(markdown(facts, results))


if __name__ == "__main__":
    main()
