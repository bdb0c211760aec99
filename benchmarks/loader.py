"""Images a second into a training loop: our loader of archives beside a torch DataLoader over PNG files, in one run.

    python benchmarks/loader.py NATIVE [--workers 0 1 2] [--rounds 3] [--dir DIR] [--out STEM]

NATIVE is a folder of PNG files at their own sizes. From it are made, in DIR: the same images as PNG files of 32x32 pixels, and
an archive of each model. Then each loader goes through all images in batches of 256, shuffled, and the loop only counts them.

Of ours there are two of each kind: as it is by default, which keeps what it has decoded, so that epochs after the first cost
copies alone; and with `cache_bytes=0`, which decodes in each epoch. The first epoch, in which workers start, codecs are
loaded and all is decoded, is told by itself. Of `rounds` more, which go round all loaders of a number of workers so that other
work on the machine meets them alike, the median counts. Workers are persistent, one thread for torch in each process, files
in the page cache.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from rd.run_facts import run_facts
from torch.utils.data import DataLoader, Dataset

from tsae.cli import main as tsae_main
from tsae.data import LatentDataset, LatentLoader
from tsae.images import decode_image, encode_image, resize

BATCH = 256

MODELS = ("tsae", "seed-8x8x8")

GOALS = {"latents": 5, "pixels": 2}
"""How many times as fast as PNG files of native size, at the same number of workers, the loader is to be."""

PNG = "PNG, native"

KINDS = ("latents", "floats", "pixels")


class PngFiles(Dataset[tuple[torch.Tensor, int]]):
    """What a training script has without us: a file an image, Pillow, torch's own collate."""

    def __init__(self, root: Path, load: Callable[[Path], np.ndarray]) -> None:
        self.paths, self.load = sorted(root.rglob("*.png")), load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.load(self.paths[index])).permute(2, 0, 1), index % 43


class PngFloats(PngFiles):
    """The steps of torchvision's `ImageFolder`, `Resize` and `ToTensor`, which most scripts have: numbers from 0 to 1."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        values, label = super().__getitem__(index)
        return values.contiguous().to(torch.float32).div(255), label


def by_pillow(path: Path) -> np.ndarray:
    """Decoded and scaled as most scripts do, and to the same pixels as ours."""
    return np.array(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))


def by_tsae(path: Path) -> np.ndarray:
    """By the faster reader that `tsae compress` uses."""
    return resize(decode_image(path.read_bytes())).copy()


def already_small(path: Path) -> np.ndarray:
    """Of files that need no scaling."""
    return np.array(Image.open(path).convert("RGB"))


class Entry(NamedTuple):
    """A loader under test."""

    name: str
    loader: Iterable[Any]


def write_small(native: Path, small: Path) -> None:
    """The same images as PNG files of 32x32."""
    for path in sorted(native.rglob("*.png")):
        target = small / path.relative_to(native)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_image(by_tsae(path), "png"))


def entries(native: Path, small: Path, archives: dict[str, str], workers: int) -> Iterable[Entry]:
    """All loaders, with so many workers."""
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    for name, files in (
        (PNG, PngFiles(native, by_pillow)),
        (f"{PNG}, as floats", PngFloats(native, by_pillow)),
        (f"{PNG}, our PNG reader", PngFiles(native, by_tsae)),
        ("PNG, 32x32", PngFiles(small, already_small)),
    ):
        yield Entry(name, DataLoader(files, BATCH, shuffle=True, **options))
    for model, kind, more in itertools.product(MODELS, KINDS, ({}, {"cache_bytes": 0})):
        data = LatentDataset(archives[model], kind, **more)  # type: ignore[arg-type]
        yield Entry(f"{model}, {kind}{', decoded each time' if more else ''}", LatentLoader(data, BATCH, **options))


def epoch_s(loader: Iterable[Any], images: int) -> float:
    """Seconds of an epoch."""
    started_s = time.perf_counter()
    assert sum(len(batch[1]) for batch in loader) == images
    return time.perf_counter() - started_s


def measure(found: Iterable[Entry], images: int, workers: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each loader."""
    listed = list(found)
    first_s = {entry.name: epoch_s(entry.loader, images) for entry in listed}
    taken_s: dict[str, list[float]] = {entry.name: [] for entry in listed}
    for _ in range(rounds):
        for entry in listed:
            taken_s[entry.name].append(epoch_s(entry.loader, images))
    rates = {name: images / statistics.median(seconds) for name, seconds in taken_s.items()}
    return [
        {
            "loader": entry.name,
            "workers": workers,
            "images_per_s": round(rates[entry.name]),
            "slowest_per_s": round(images / max(taken_s[entry.name])),
            "fastest_per_s": round(images / min(taken_s[entry.name])),
            "times_png": round(rates[entry.name] / rates[PNG], 2),
            "first_epoch_s": round(first_s[entry.name], 2),
        }
        for entry in listed
    ]


def report(result: dict[str, Any]) -> str:
    """The result as a page."""
    facts = result["facts"]
    workers = sorted({row["workers"] for row in result["rows"]})
    head = ["loader", *(f"{count} workers" for count in workers), "first epoch, s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    by_place = {(row["loader"], row["workers"]): row for row in result["rows"]}
    for name in dict.fromkeys(row["loader"] for row in result["rows"]):
        rows = [by_place[name, count] for count in workers]
        cells = [f"{row['images_per_s']:,} ({row['times_png']:.1f} x)" for row in rows]
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(str(row['first_epoch_s']) for row in rows)} |")
    packages = facts["packages"]
    machine = (
        f"{facts['machine']}, Python {facts['python']}, torch {packages['torch']}, {facts['date']}, commit {facts['commit']}"
    )
    return f"""# A loader of archives beside one of PNG files

{machine}, `OMP_NUM_THREADS={facts["OMP_NUM_THREADS"]}`.
`{facts["command"]}`: {result["images"]:,} images in batches of {BATCH},
shuffled, the median of {result["rounds"]} epochs after the first.

Images a second, and how many times as many as "{PNG}" at the same number of workers
(goals: {GOALS["latents"]} x for latents, {GOALS["pixels"]} x for pixels):

{chr(10).join(lines)}

"{PNG}" is Pillow and torch's own collate, files at their own sizes scaled to 32x32, bytes; "as floats" are the steps of
torchvision's `ImageFolder`, `Resize` and `ToTensor`; "our PNG reader" is the one of `tsae compress` in Pillow's place; "PNG,
32x32" needs no scaling. Ours keep what they have decoded (at most 512 MiB, by default), so what is counted here are copies;
"decoded each time" keeps nothing, which is how fast the first epoch is once workers and codecs have started. Latents of `tsae`
are entropy-decoded, to 4 kB an image; pixels go through the network as well. The first epoch's seconds, by number of workers,
include the start of workers and, of ours, loading codecs.
"""


def main() -> None:
    """Parses, makes files and archives, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("native", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where to write files and archives; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="stem of a .json and a .md file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        small, archives = Path(folder) / "small", {model: f"{folder}/{model}" for model in MODELS}
        write_small(args.native, small)
        for model, archive in archives.items():
            assert tsae_main(["compress", str(args.native), archive, "--model", model, "--no-verify"]) == 0
        images = len(LatentDataset(archives["tsae"]))
        make = functools.partial(entries, args.native, small, archives)
        rows = [row for workers in args.workers for row in measure(make(workers), images, workers, args.rounds)]
    facts = run_facts(["torch", "numpy", "pyarrow", "pillow", "onnxruntime"])
    result = {"facts": facts, "images": images, "rounds": args.rounds, "rows": rows}
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))
    print(report(result))


if __name__ == "__main__":
    main()
