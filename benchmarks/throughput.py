"""The same job done by `tsae` and by others, side by side: a folder of PNG files to stored latents, and back to PNG files.

    python benchmarks/throughput.py DATA [--images N] [--rounds N] [--only NAME ...] [--directions compress decompress]
                                    [--peer-python PYTHON] [--workers N] [--out DIR]

Contestants: `tsae compress` with both models, with its verification and without; HF datasets, PyTorch DataLoader, Ray Data
and Apache Beam (`benchmarks/peers/`), each as its documentation would have it, with the network of `seed-8x8x8`, levels of
8 bits and Parquet; a bare loop in plain processes that checks nothing; and the floor, the sum of what each unavoidable step
takes alone, with the usual tools and with ours; where they are named, ours and the bare loop with one worker as well. Back to
images: `tsae decompress` with both models, datasets, DataLoader, the bare loop and the floors.

DATA holds PNG files, in folders or not. The input is N links to them, in turn. In each round everyone runs once on all of it
and once on 2 images, which is start-up; a round before them warms up. What a contestant leaves is counted, then removed.

Peers may need other versions of packages than we do, so they run in an environment of their own, where there is one:

    python -m venv peers && peers/bin/pip install . datasets 'ray[data]'
    python benchmarks/throughput.py DATA --peer-python peers/bin/python

Writes `throughput.json`, `.md` and `.png`. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from peers.contest import CONTESTANTS, DIRECTIONS, PEER, Contestant, Run, Settings, play, prepare, split_missing
from peers.report import markdown, plot, speed_table, summarize
from rd.run_facts import run_facts

FEW = 2
"""Images that cost next to nothing but start-up."""

PACKAGES = ("apache-beam", "numpy", "pillow", "pyarrow", "torch")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, help="default: as many as DATA has")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: %(default)s)")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"some of: {'; '.join(names)}")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument(
        "--peer-python", default=sys.executable, help="interpreter with the peers' packages (default: this one)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of each contestant (default: %(default)s)")
    parser.add_argument("--limit-s", type=float, default=3600, help="a run is ended after that (default: %(default)s)")
    parser.add_argument("--work", help="where inputs and outputs are for the time being (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def choose(only: Sequence[str] | None, peer_python: str) -> tuple[list[Contestant], list[str]]:
    """Contestants that are wanted and can run, and the names of those that cannot, which a line says of each."""
    wanted = [contestant for contestant in CONTESTANTS if (contestant.name in only if only else not contestant.is_extra)]
    peers = [contestant for contestant in wanted if contestant.group == PEER]
    _, missing = split_missing(peers, peer_python)
    for contestant in missing:
        print(f"{contestant.name} is left out: package {contestant.needs} is not installed (--peer-python)")
    return [contestant for contestant in wanted if contestant not in missing], [contestant.name for contestant in missing]


def measure(args: argparse.Namespace, contestants: Sequence[Contestant], work: Path) -> list[Run]:
    """Prepares the inputs and runs everyone."""
    sources = sorted(args.data.rglob("*.png"))
    assert sources, f"{args.data}: no PNG files"
    settings = Settings(work, args.peer_python, args.workers, args.limit_s)
    sizes = [args.images or len(sources), FEW]
    back = contestants if "decompress" in args.directions else []
    inputs = {images: prepare(sources, images, back, settings) for images in sizes}
    return play(contestants, args.directions, inputs, args.rounds, settings)


def write(out: Path, facts: dict[str, Any], results: dict[str, Any], runs: Sequence[Run]) -> None:
    """The three files."""
    out.mkdir(parents=True, exist_ok=True)
    content = {**facts, "results": results, "runs": [dataclasses.asdict(run) for run in runs]}
    (out / "throughput.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "throughput.md").write_text(markdown(facts, results))
    plot(results, out / "throughput.png")


def main() -> None:
    """Measures, prints, and writes the files."""
    args = parse()
    contestants, left_out = choose(args.only, args.peer_python)
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        runs = measure(args, contestants, Path(work))
    results = {
        direction: summarize([run for run in runs if run.direction == direction], args.workers) for direction in args.directions
    }
    facts = {**run_facts(PACKAGES), "images": max(run.images for run in runs), "rounds": args.rounds, "workers": args.workers}
    write(args.out, {**facts, "left_out": ", ".join(left_out)}, results, runs)
    for direction, rows in results.items():
        print(f"{direction}\n{speed_table(rows)}")


if __name__ == "__main__":
    main()
