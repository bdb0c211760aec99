"""How `tsae compress` and `tsae decompress` grow with the number of images: time, memory, bytes on disk.

    python benchmarks/scaling.py [--images 1000 10000 100000] [--million] [--model NAME] [--workers N] [--work DIR] [--out DIR]

The input is links to some hundred drawn signs, a thousand in each folder; each command runs once on each size, as a
command, with its start-up. Memory is resident, five times a second: of all processes together, of the command's own, and
of the largest below it. `disk` counts whole blocks, as `du` does. PNG files of a million images take some 4 GB.

Writes `scaling.json`, `.md` and `.png`. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

sys.path.insert(0, str(Path(__file__).parent))

from peers.contest import COMPRESS, DECOMPRESS, DIRECTIONS, spread
from peers.watch import Watched, watch
from rd.report import number, table
from rd.run_facts import run_facts

from tsae.config import DEFAULT_MODEL
from tsae.signs import write_signs

SIGNS = 400
"""Different images; a million images are 2,500 links to each, far below what file systems allow."""

LIMIT_S = 24 * 3600.0
BLOCK_BYTES = 512
"""Unit of `st_blocks`."""

PACKAGES = ("apache-beam", "numpy", "pillow", "pyarrow", "torch")
COLOURS = {COMPRESS: "#d62728", DECOMPRESS: "#1f77b4"}
COLUMNS = (
    "command", "images", "wall s", "images/s", "us/image", "MB in all", "MB parent", "MB largest child", "bytes/image",
    "disk/image",
)  # fmt: skip

Row = dict[str, Any]


def sizes_bytes(folder: Path) -> tuple[int, int]:
    """Bytes of all files of a tree, and what they take on disk."""
    found = [os.stat(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names]
    return sum(entry.st_size for entry in found), sum(entry.st_blocks for entry in found) * BLOCK_BYTES


def to_row(direction: str, images: int, watched: Watched, output: Path) -> Row:
    """The figures of one run."""
    size, disk = sizes_bytes(output)
    return {
        "direction": direction,
        "images": images,
        "wall_s": round(watched.wall_s, 2),
        "images_per_s": round(images / watched.wall_s, 1),
        "peak_mb": watched.peak_mb,
        "parent_mb": watched.parent_mb,
        "children_mb": watched.children_mb,
        "bytes": size,
        "disk_bytes": disk,
    }


def measure(signs: Sequence[Path], images: int, work: Path, flags: Sequence[str], workers: Sequence[str]) -> list[Row]:
    """Both commands on one size, in a folder that is then removed."""
    source = spread(signs, work / "input", images)
    archive, output = work / "archive", work / "output"
    rows = []
    for direction, before, after, extra in ((COMPRESS, source, archive, flags), (DECOMPRESS, archive, output, [])):
        command = [sys.executable, "-m", "tsae", direction, str(before), str(after), *extra, *workers]
        watched = watch(command, os.environ, LIMIT_S)
        assert watched.code == 0, watched.errors
        rows.append(to_row(direction, images, watched, after))
        print(json.dumps(rows[-1]), flush=True)
    returned = sum(1 for _ in output.rglob("*.png"))
    assert returned == images, f"{returned} images came back of {images}"
    shutil.rmtree(work)
    return rows


def result_table(rows: Iterable[Row]) -> str:
    """A Markdown table."""
    return table(COLUMNS, list(map(_cells, rows)))


def _cells(row: Row) -> list[str]:
    images = row["images"]
    figures = [
        *(images, row["wall_s"], row["images_per_s"], row["wall_s"] / images * 1e6),
        *(row["peak_mb"], row["parent_mb"], max(row["children_mb"], default=None)),
        *(row["bytes"] / images, row["disk_bytes"] / images),
    ]
    return [row["direction"], *(number(figure, 0) for figure in figures)]


def markdown(facts: Row, rows: Sequence[Row]) -> str:
    """The whole report."""
    machine = f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, Python {facts['python']}."
    note = "Once each, start-up included. Bytes are of the archive, with its model, and of the PNG files."
    return "\n\n".join(["# Scaling", machine, f"```\n{facts['command']}\n```", note, result_table(rows)]) + "\n"


def plot(rows: Sequence[Row], file: Path) -> None:
    """Time and memory against the number of images, both scales logarithmic."""
    figure = matplotlib.figure.Figure((9, 3.6), layout="constrained")
    for ax, key, title in zip(figure.subplots(1, 2), ("wall_s", "peak_mb"), ("seconds", "MB of all processes"), strict=True):
        for direction in DIRECTIONS:
            own = [row for row in rows if row["direction"] == direction]
            ax.loglog([r["images"] for r in own], [r[key] for r in own], "o-", color=COLOURS[direction], label=direction)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("images")
        ax.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


def write(out: Path, facts: Row, rows: Sequence[Row]) -> None:
    """The three files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "scaling.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    (out / "scaling.md").write_text(markdown(facts, rows))
    plot(rows, out / "scaling.png")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="a million images as well")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="default: %(default)s")
    parser.add_argument("--no-verify", action="store_true", help="as of tsae compress")
    parser.add_argument("--workers", type=int, help="as of tsae (default: its default)")
    parser.add_argument("--work", help="where inputs and outputs are for the time being (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def main() -> None:
    """Draws, measures each size, and writes the files anew after each."""
    args = parse()
    flags = ["--model", args.model, *(["--no-verify"] if args.no_verify else [])]
    workers = ["--workers", str(args.workers)] if args.workers else []
    facts, rows = run_facts(PACKAGES), []
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        signs = [Path(folder, "signs", key) for key in write_signs(f"{folder}/signs", SIGNS)]
        for images in [*args.images, *([1_000_000] if args.million else [])]:
            rows += measure(signs, images, Path(folder, str(images)), flags, workers)
            write(args.out, facts, rows)
    print(result_table(rows))


if __name__ == "__main__":
    main()
