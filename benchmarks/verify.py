"""What it costs to be sure: `tsae verify` in MB/s for numbers of workers, and `compress` with its verification and without.

    python benchmarks/verify.py [--images N] [--folder IMAGES] [--rounds N] [--json FILE]

Writes an archive of that many records, streams of drawn signs over and over, and verifies it with 1, 2 ... workers,
files in the page cache: in this process, and as a command with its start-up. With a folder of images, compresses that
with one worker, by turns with verification and without it, and gives the medians of the rounds and their ratio: of the whole
command, and of the work alone (reading, encoding, writing, in this process after a warm-up).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from access import one_run, write_archive

from pipelines import compress
from pipelines.options import CompressOptions
from tsae import archive as ar
from tsae.paths import Folder


def seconds(action: Callable[[], object]) -> float:
    """How long an action took."""
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


def command(*arguments: str) -> None:
    """Runs `tsae`."""
    subprocess.run([sys.executable, "-m", "tsae", *arguments], check=True, capture_output=True)


def measure_verify(path: str, rounds: int) -> list[dict[str, float]]:
    """MB/s by number of workers."""
    size_mb = sum(Folder(path).sizes_bytes().values()) / 1e6

    def verify(workers: int) -> None:
        assert not [report for report in ar.verify(ar.ArchiveFiles(path), workers) if report.damages]

    verify(1)  # files into the page cache
    results = []
    for workers in sorted({1, 2, os.cpu_count() or 1}):
        inside_s = statistics.median(seconds(lambda n=workers: verify(n)) for _ in range(rounds))
        flags = ["--workers", str(workers)]
        whole_s = statistics.median(seconds(lambda flags=flags: command("verify", path, *flags)) for _ in range(rounds))
        results.append(
            {
                "workers": workers,
                "archive_mb": round(size_mb, 1),
                "mb_per_s": round(size_mb / inside_s),
                "mb_per_s_with_start_up": round(size_mb / whole_s),
                "start_up_s": round(whole_s - inside_s, 2),
            }
        )
    return results


def measure_compress(images: str, folder: str, rounds: int) -> dict[str, object]:
    """Seconds with verification and without, by turns."""
    places = iter(f"{folder}/{number}" for number in range(10**6))

    def inside(verify: bool) -> None:
        compress.run(CompressOptions(images, next(places), verify=verify, workers=1))

    def whole(verify: bool) -> None:
        command("compress", images, next(places), "--workers", "1", "--allow-failures", *([] if verify else ["--no-verify"]))

    inside(True)  # imports, model and files of the images
    figures: dict[str, object] = {}
    for name, run in (("work", inside), ("command", whole)):
        taken: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for verify in taken:
                taken[verify].append(seconds(lambda run=run, verify=verify: run(verify)))
        default_s, no_verify_s = (round(statistics.median(times), 2) for times in taken.values())
        figures[name] = {"default_s": default_s, "no_verify_s": no_verify_s, "ratio": round(default_s / no_verify_s, 3)}
    return figures


def main() -> None:
    """Parses, writes the archive, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="records of the archive (default: %(default)s)")
    parser.add_argument("--folder", help="images to compress")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Folder(f"{folder}/archive"), one_run(args.images))
        results["verify"] = measure_verify(f"{folder}/archive", args.rounds)
        print(json.dumps(results["verify"], indent=1), flush=True)
        if args.folder:
            results["compress"] = measure_compress(args.folder, folder, args.rounds)
            print(json.dumps(results["compress"], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
