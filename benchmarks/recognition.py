"""Recognising signs, and learning to, three ways: from image files, from latents, and from an archive that is decoded first.

    python benchmarks/recognition.py TRAIN TEST [--copies 8 --passes 4 [--jitter-seed N]] [--rounds 5] [--dir DIR] [--out STEM]

TRAIN and TEST are folders of PNG files at their own sizes, with labels (`labels.csv`); TRAIN has `valid_tracks.json` as well.

Recognition: accuracy of the classifiers that come with tsae on TEST, and images a second from files or archive to class, one
thread, files in the page cache, the median of `rounds` that go round all ways.

One epoch: `tsae train-classifier --epochs 1` of each way over TRAIN as it is, the whole command from start to model, on as many
threads as there are cores.

Same budget, with `--copies`: each way is trained by as many steps of as many images. A classifier of pixels sees each training
image `copies * passes` times, jittered anew each time. Latents cannot be turned or shifted cheaply, so theirs come from
archives of `copies` copies of each training image, jittered by the same code before they were compressed, eight copies in each,
for `tsae` at quality 5, 6 and 7 by turns; they are gone through `passes` times. The validation tracks,
which each archive holds, and TEST are never jittered. The packaged classifiers are such runs: see their cards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rd.run_facts import run_facts

from tsae import png
from tsae.classifier import SignClassifier, load_classifier
from tsae.cli import main as tsae_main
from tsae.images import decode_image, resize
from tsae.inputs import list_inputs
from tsae.reader import open_archive
from tsae.training.images import split_images
from tsae.training.jitter import jitter
from tsae.training.labelled import LabelledSet, load_labelled

TRACKS = "valid_tracks.json"

CODECS = {"seed": ("--model", "seed-8x8x8"), "tsae": ("--model", "tsae")}
"""Archives by name, and how they are made; `tsae` at its default quality."""

LEARNED_FROM = {"seed": [()], "tsae": [("--quality", "5"), ("--quality", "6"), ("--quality", "7")]}
"""Flags, by turns, of the archives of copies that those of latents learn from; that of `tsae` is to know all qualities."""

PACKAGED = {"pixels": "signs-43", "seed": "signs-43-seed", "tsae": "signs-43-tsae"}

AN_ARCHIVE = 8
"""Copies of each image in an archive of copies."""

JITTER_SEED = 77
"""Unless another one is given, so that a later stage of training sees other copies."""

AT_ONCE = 256
"""Images that are read, and then classified, at once."""

ROW_SCHEMA = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.string()})


class Way(NamedTuple):
    """A way to recognise signs.

    Attributes:
        name: For people.
        kind: What its classifier looks at.
        source: "files", or the archive.
        packaged: Name of the classifier that comes with tsae for it.
    """

    name: str
    kind: str
    source: str
    packaged: str


WAYS = [
    Way("PNG files", "pixels", "files", PACKAGED["pixels"]),
    *(Way(f"{codec}, decoded", "pixels", codec, PACKAGED["pixels"]) for codec in CODECS),
    *(Way(f"{codec}, latents", "latents", codec, PACKAGED[codec]) for codec in CODECS),
]


def write_copies(
    training: LabelledSet, validation: LabelledSet, copies: int, folder: Path, seed: int = JITTER_SEED
) -> list[Path]:
    """Parquet files that `tsae compress` takes: jittered copies of each training image, and the validation images as they are.

    Keys are `copy-NN/` and the image's own, so that copies stay on the side of their track.
    """
    torch.manual_seed(seed)
    paths = [folder / f"copies-{first:02d}.parquet" for first in range(0, copies, AN_ARCHIVE)]
    for path, first in zip(paths, range(0, copies, AN_ARCHIVE), strict=True):
        with pq.ParquetWriter(path, ROW_SCHEMA, compression="none") as writer:
            for number in range(first, min(first + AN_ARCHIVE, copies)):
                _write(writer, training, f"copy-{number:02d}", lambda images: jitter(torch.from_numpy(images)).numpy())
            _write(writer, validation, "plain", lambda images: images)
    return paths


def _write(writer: pq.ParquetWriter, images: LabelledSet, folder: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for start in range(0, len(images), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        files = list(png.encode(change(images.images[rows]), [None] * len(images.images[rows])))
        values = [{"bytes": file, "path": f"{folder}/{key}"} for file, key in zip(files, images.keys[rows], strict=True)]
        labels = [images.classes[number] for number in images.labels[rows]]
        writer.write_table(pa.table({"image": values, "label": labels}, schema=ROW_SCHEMA))


def compress(source: Path, archive: Path, codec: str, flags: Sequence[str] = ()) -> float:
    """Makes an archive; gives the seconds that took."""
    started_s = time.perf_counter()
    assert tsae_main(["compress", str(source), str(archive), *CODECS[codec], *flags, "--no-verify"]) == 0
    return time.perf_counter() - started_s


def train(way: Way, data: Sequence[Path], epochs: int, out: Path, threads: int) -> dict[str, Any]:
    """Trains by the command line, in a process of its own; what it took, and how good it became."""
    flags = ["--input", way.kind, "--epochs", str(epochs), "--out", str(out), "--device", "cpu"]
    command = [sys.executable, "-m", "tsae", "train-classifier", *map(str, data), *flags]
    started_s = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    seconds = time.perf_counter() - started_s
    epochs_s = sum(json.loads(line)["seconds"] for line in out.with_suffix(".log.jsonl").read_text().splitlines())
    classifier = load_classifier(str(out))
    return {
        "way": way.name,
        "command_s": round(seconds, 1),
        "steps_s": round(epochs_s, 1),
        "images": classifier.training["train_images"] * epochs,
        "multiply_adds": classifier.multiply_adds,
        "valid_accuracy": round(classifier.training["valid_accuracy"], 5),
    }


class Reader:
    """The test images, in the order of their keys, from files or an archive."""

    def __init__(self, way: Way, folder: Path, archives: dict[str, Path]) -> None:
        listing = list_inputs(str(folder))
        self.keys, labels = list(listing.keys), listing.labels
        self.labels = np.array([labels[key] for key in self.keys])
        self.way, self.folder, self.archives = way, folder, archives

    def batches(self, channels: int) -> Any:
        """What the classifier looks at, `AT_ONCE` images at a time; opening included.

        Args:
            channels: Of latents, so many.
        """
        if self.way.source == "files":
            for start in range(0, len(self.keys), AT_ONCE):
                files = ((self.folder / key).read_bytes() for key in self.keys[start : start + AT_ONCE])
                yield np.stack([resize(decode_image(file)) for file in files])
            return
        with open_archive(str(self.archives[self.way.source])) as archive:
            places = archive.positions()
            groups = archive.row_groups(2)
            for start in range(0, len(places), AT_ONCE):
                records = groups.records(places[start : start + AT_ONCE])
                is_pixels = self.way.kind == "pixels"
                yield archive.decode_records(records) if is_pixels else archive.latents_of_records(records, channels)


def classify(reader: Reader, classifier: SignClassifier) -> tuple[float, float]:
    """Accuracy, and images a second."""
    started_s = time.perf_counter()
    batches = reader.batches(classifier.channels)
    found = np.concatenate([classifier.probabilities(values).argmax(1) for values in batches])
    seconds = time.perf_counter() - started_s
    right = np.array(classifier.classes)[found] == reader.labels
    return float(right.mean()), len(right) / seconds


def recognise(readers: dict[str, Reader], classifiers: dict[str, SignClassifier], rounds: int) -> list[dict[str, Any]]:
    """A row for each way: accuracy, and images a second in rounds that go round all of them, after one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    accuracy = {}
    for number in range(rounds + 1):
        for name, reader in readers.items():
            accuracy[name], rate = classify(reader, classifiers[name])
            if number:
                rates[name].append(rate)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    first = next(iter(readers))
    return [
        {
            "way": name,
            "classifier": classifiers[name].name,
            "sha256": classifiers[name].sha256,
            "test_accuracy": round(accuracy[name], 7),
            "multiply_adds": classifiers[name].multiply_adds,
            "images_per_s": round(middle[name]),
            "slowest_per_s": round(min(rates[name])),
            "fastest_per_s": round(max(rates[name])),
            "times_files": round(middle[name] / middle[first], 2),
        }
        for name in readers
    ]


def report(result: dict[str, Any]) -> str:
    """The result as a page."""
    facts = result["facts"]
    machine = f"{facts['machine']}, Python {facts['python']}, torch {facts['packages']['torch']}, {facts['date']}"
    epoch_s = {row["way"]: row["command_s"] for row in result["one_epoch"]}
    lines = [
        "# Recognising signs from pixels and from latents",
        "",
        f"{machine}, commit {facts['commit']}.",
        f"`{facts['command']}`: {result['test_images']:,} test images that no training saw.",
        "",
        "With the classifiers that come with tsae; images/s from files or archive to class, one thread; and an epoch over "
        f"{result['train_images']:,} images,",
        f"the whole command `tsae train-classifier --epochs 1`, on {result['cores']} cores:",
        "",
        "| way | classifier | accuracy | multiply-adds | images/s | of PNG files | an epoch |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['way']} | {row['classifier']} | {100 * row['test_accuracy']:.2f} % | {row['multiply_adds'] / 1e6:.2f} M "
            f"| {row['images_per_s']:,} | {row['times_files']:.2f} x "
            f"| {epoch_s[row['way']]:.1f} s ({epoch_s[WAYS[0].name] / epoch_s[row['way']]:.1f} x) |"
            for row in result["packaged"]
        ),
        "",
    ]
    return "\n".join([*lines, *(_report_budget(result["budget"]) if result["budget"] else [])])


def _report_budget(budget: dict[str, Any]) -> list[str]:
    """What training with the same budget gave."""
    accuracy = {row["way"]: row["test_accuracy"] for row in budget["test"]}
    prepared = ", ".join(f"{what} {seconds:,.0f} s" for what, seconds in budget["preparation_s"].items())
    return [
        f"Trained with the same budget, {budget['images']:,} images in steps of 128, {budget['copies']} copies of each",
        f"training image (made before: {prepared}); one thread:",
        "",
        "| way | accuracy | validation | multiply-adds | steps | whole command |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['way']} | {100 * accuracy[row['way']]:.2f} % | {100 * row['valid_accuracy']:.2f} % "
            f"| {row['multiply_adds'] / 1e6:.2f} M | {row['steps_s']:,.0f} s | {row['command_s']:,.0f} s |"
            for row in budget["trained"]
        ),
        "",
    ]


def main() -> None:
    """Parses, makes archives, trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--copies", type=int, default=0, help="train with the same budget as well; default: do not")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument(
        "--jitter-seed", type=int, default=JITTER_SEED, metavar="N", help="of the copies (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", help="where to write files and archives; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="stem of a .json and a .md file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.dir:
        Path(args.dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        result = measure(args, Path(name))
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(result))
    print(report(result))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    plain, test = ({codec: folder / f"{what}-{codec}" for codec in CODECS} for what in ("plain", "test"))
    (folder / TRACKS).write_bytes((args.train / TRACKS).read_bytes())
    for codec in CODECS:
        compress(args.train, plain[codec], codec)
        compress(args.test, test[codec], codec)
    cores = os.cpu_count() or 1
    one_epoch = [
        train(way, [args.train if way.source == "files" else plain[way.source]], 1, folder / f"epoch-{n}.safetensors", cores)
        for n, way in enumerate(WAYS)
    ]
    readers = {way.name: Reader(way, args.test, test) for way in WAYS}
    packaged = {way.name: load_classifier(way.packaged) for way in WAYS}
    return {
        "facts": run_facts(["torch", "numpy", "pyarrow", "pillow", "onnxruntime"]),
        "test_images": len(readers[WAYS[0].name].keys),
        "train_images": one_epoch[0]["images"],
        "cores": cores,
        "one_epoch": one_epoch,
        "packaged": recognise(readers, packaged, args.rounds),
        "budget": spend(args, folder, plain, readers) if args.copies else None,
    }


def spend(args: argparse.Namespace, folder: Path, plain: dict[str, Path], readers: dict[str, Reader]) -> dict[str, Any]:
    """Trains all ways with the same budget."""
    preparation_s: dict[str, float] = {}
    started_s = time.perf_counter()
    training, validation = split_images(load_labelled(args.train, "pixels"), args.train)
    copies = write_copies(training, validation, args.copies, folder, args.jitter_seed)
    preparation_s["jittered copies"] = round(time.perf_counter() - started_s, 1)
    rows, trained = [], {}
    for number, way in enumerate(WAYS):
        data, epochs = [args.train if way.source == "files" else plain[way.source]], args.passes * args.copies
        if way.kind == "latents":
            data, epochs = [folder / f"jittered-{way.source}-{part}" for part in range(len(copies))], args.passes
            parts = zip(copies, data, itertools.cycle(LEARNED_FROM[way.source]), strict=False)
            seconds = sum(compress(source, archive, way.source, flags) for source, archive, flags in parts)
            preparation_s[f"{way.source} archives of them"] = round(seconds, 1)
        out = folder / f"budget-{number}.safetensors"
        rows.append(train(way, data, epochs, out, 1))
        trained[way.name] = load_classifier(str(out))
    return {
        "copies": args.copies,
        "passes": args.passes,
        "images": len(training) * args.copies * args.passes,
        "preparation_s": preparation_s,
        "trained": rows,
        "test": recognise(readers, trained, 1),
    }


if __name__ == "__main__":
    main()
