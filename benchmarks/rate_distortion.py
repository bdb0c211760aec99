"""Rate-distortion curves: our models against JPEG, WebP, AVIF, JPEG XL, principal components and lossless coders.

    python benchmarks/rate_distortion.py DATA [--train DATA] [--models [LABEL=]MODEL[:Q[-Q]] ...] [--limit N] [--reuse JSON]

DATA is what `tsae train` takes, and is scaled to 32x32 as it does. Each of our models compresses the images, as PNG files,
with the job that `tsae compress` runs; its bytes are all of the archive but the model. The others' bytes are those of the
files alone.

Writes `rate_distortion.json`, `.md` (all points and comparisons, printed as well) and `.png` to the folder `--out`. With
`--train`, images to fit the principal components on. With `--reuse`, sizes and qualities of the rivals come from an earlier
JSON file of the same images and library versions; times are always measured anew, side by side. A `compressai.json` in the
folder, of the same images, adds its points.

Needs `pip install '.[bench]'`; set OMP_NUM_THREADS=1. Over an hour for 6,315 images on one core, some minutes with `--reuse`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rd import own, report
from rd.curves import curves_of
from rd.linear import CURVE as PCA
from rd.linear import pca_points
from rd.points import Coder, Images, Point, digest, measure, select, time_coders
from rd.rivals import RIVALS, lossless, rivals, versions
from rd.run_facts import run_facts
from rd.summary import summarize

from tsae.training.images import ImageSet, load_images, split_images

NAME = "rate_distortion"
PACKAGES = ("tsae", "torch", "numpy", "scikit-image", "bjontegaard")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument(
        "--train", metavar="DATA", help="fit the principal components on its training images; else leave them out"
    )
    parser.add_argument("--models", nargs="+", default=own.default_models(), metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="take only so many images, evenly spaced")
    parser.add_argument("--reuse", type=Path, metavar="JSON", help="an earlier result, for the rivals' sizes and qualities")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions of times (default: %(default)s)")
    parser.add_argument(
        "--timing-images", type=int, default=128, metavar="N", help="images of a repetition (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


def load(data: str, limit: int | None) -> ImageSet:
    """The images to measure on."""
    images = load_images(data)
    chosen = np.zeros(len(images), bool)
    chosen[select(len(images), limit)] = True
    return images.take(chosen)


def show(point: Point) -> None:
    """A line of progress."""
    print("  ".join(report.point_row(point)), file=sys.stderr, flush=True)


def earlier_points(file: Path | None, images_digest: str) -> dict[tuple[str, str], Point]:
    """Points of an earlier result that still hold, by curve and setting."""
    if file is None or not file.is_file():
        return {}
    found = json.loads(file.read_bytes())
    if found["images_sha256"] != images_digest or found.get("libraries", versions()) != versions():
        print(f"{file}: of other images or other versions, not used", file=sys.stderr)
        return {}
    points = [Point(**fields) for fields in found["points"]]
    return {(point.curve, point.setting): point for point in points}


def measure_rivals(coders: Sequence[Coder], images: Images, known: Mapping[Any, Point]) -> list[Point]:
    """Points of all rivals, known ones as they are."""
    points = []
    for coder in coders:
        found = known.get((coder.curve, coder.setting))
        if found is None:
            found = measure(coder, images)
            show(found)
        points.append(found)
    return points


def linear_points(train: str | None, images: Images, known: Mapping[Any, Point]) -> list[Point]:
    """Points of the principal components, if there is something to fit them on, or they are known."""
    earlier = [point for (curve, _), point in known.items() if curve == PCA]
    if earlier or train is None:
        return earlier
    return pca_points(split_images(load_images(train), train)[0].images, images, show)


def own_coders(specs: Sequence[str], images: ImageSet, timed: Sequence[int], folder: Path) -> list[own.OwnCoder]:
    """Our operating points, with the images written as files."""
    names = own.write_pngs(folder / "png", images.keys, images.images)
    models = [model for spec in specs for model in own.parse_model(spec)]
    timed_names = [names[position] for position in timed]
    return [own.OwnCoder(model, folder / "png", names, timed_names, folder / str(i)) for i, model in enumerate(models)]


def measure_everything(args: argparse.Namespace, images: ImageSet) -> list[Point]:
    """All points: ours, the rivals' with times, and those that other programs have left."""
    images_digest = digest(images.images)
    known = earlier_points(args.reuse, images_digest)
    timed = select(len(images), args.timing_images)
    others: list[Coder] = [*rivals(), *lossless()]
    with tempfile.TemporaryDirectory() as folder:
        ours = own_coders(args.models, images, timed.tolist(), Path(folder))
        points = [measure(coder, images.images) for coder in ours]
        for point in points:
            show(point)
        points += measure_rivals(others, images.images, known)
        times = time_coders([*ours, *others], images.images[timed], args.rounds)
    timed_points = [dataclasses.replace(p, encode_us=e, decode_us=d) for p, (e, d) in zip(points, times, strict=True)]
    learned = earlier_points(args.out / "compressai.json", images_digest).values()
    return [*timed_points, *linear_points(args.train, images.images, known), *learned]


def compare(points: Sequence[Point], own_names: Sequence[str]) -> dict[str, Any]:
    """Summaries of our models, by name."""
    curves = curves_of(points)
    best = {name: curve for name, curve in curves.items() if name in RIVALS}
    others = {name: curve for name, curve in curves.items() if name not in best and name not in own_names}
    return {name: summarize(curves[name], best, others) for name in own_names}


def write(args: argparse.Namespace, facts: dict[str, Any], points: Sequence[Point], own_names: Sequence[str]) -> None:
    """Writes the three files, and prints the report."""
    summaries = compare(points, own_names)
    args.out.mkdir(parents=True, exist_ok=True)
    result = {**facts, "summaries": summaries, "points": [dataclasses.asdict(point) for point in points]}
    (args.out / f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.markdown(facts, points, summaries)
    (args.out / f"{NAME}.md").write_text(text)
    title = f"{facts['images']:,} traffic signs of 32x32 pixels ({facts['data']})"
    report.draw(args.out / f"{NAME}.png", points, own_names, title)
    print(text)


def main() -> None:
    """Parses, measures, compares, writes."""
    args = parse()
    torch.set_num_threads(1)
    images = load(args.data, args.limit)
    facts = {
        **run_facts(PACKAGES),
        "libraries": versions(),
        "data": Path(args.data).name,
        "images": len(images),
        "images_sha256": digest(images.images),
        "rounds": args.rounds,
        "timing_images": min(args.timing_images, len(images)),
    }
    points = measure_everything(args, images)
    own_names = list(dict.fromkeys(model.curve for spec in args.models for model in own.parse_model(spec)))
    write(args, facts, points, own_names)


if __name__ == "__main__":
    main()
