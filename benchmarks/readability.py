"""How many signs stay readable: our models at all qualities, and WebP, JPEG XL and AVIF at equal bytes.

    python benchmarks/readability.py INPUT [--classifier NAME|FILE] [--judge NAME|FILE] [--limit N] [--cache DIR] [--out DIR]

INPUT is what `tsae compress` takes, with labels that the classifier knows, such as a folder of native PNG files with its
`labels.csv`. Our bytes are all of the archive but the model, rivals' those of the files alone; rivals get the lowest quality
whose files are at least as large as ours, or their smallest files.

Writes `readability.json` (all figures, and the keys of images that our models lose), `.md` (printed as well) and `.png` to the
folder `--out`. With `--cache`, what rivals decode is kept there for the next run, with whatever classifier.

Needs `pip install '.[bench]'`; set OMP_NUM_THREADS=1. About half an hour for 6,315 images on one core, some minutes with a
cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from rd.rivals import versions
from rd.run_facts import run_facts
from reading import report
from reading.coded import RIVALS, Coded, Data, code_rival, compress
from reading.read import Originals, compare, describe, read_images, readings

from tsae.classifier import SignClassifier, load_classifier
from tsae.config import DEFAULT_CLASSIFIER
from tsae.evaluation.facts import Readings

NAME = "readability"
PACKAGES = ("tsae", "numpy", "onnxruntime")
QUALITIES = range(1, 9)
TARGET_BYTES = (256, 128, 80)
SEED = "seed-8x8x8"

MOST_LOST_POINTS = {SEED: 0.5, "tsae, 256 bytes": 0.1, "tsae, 128 bytes": 0.3, "tsae, 80 bytes": 1.0}
"""What is asked of each, by the name of the point."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input")
    parser.add_argument("--classifier", default=DEFAULT_CLASSIFIER, metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument(
        "--judge",
        metavar="NAME|FILE",
        help="another classifier, to tell what settings in bytes and `--keep-readable` do for who is not asked",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="take only so many images, evenly spaced")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where rivals' decoded images are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    originals: Originals
    classifier: SignClassifier
    judge: tuple[Originals, SignClassifier] | None
    folder: Path
    cache: Path | None

    def ours(self, model: str, setting: str, *flags: str) -> tuple[Coded, Readings]:
        """A model of ours at one setting."""
        archive = self.folder / "-".join([model, setting.replace(" ", "-"), *flags])
        return self.read(compress(self.originals.data, archive, model, setting, *flags))

    def rival(self, rival: str, least_bytes: float) -> tuple[Coded, Readings]:
        """A rival at no fewer bytes."""
        return self.read(code_rival(self.originals.data, rival, least_bytes, self.cache))

    def lost_to_judge(self, coded: Coded) -> int | None:
        """Images that the other classifier reads from the original and not from what came back."""
        return None if self.judge is None else int(readings(self.judge[0], coded, self.judge[1]).is_lost.sum())

    def compare_by_judge(self, ours: Coded, theirs: Coded) -> dict[str, Any] | None:
        """What the other classifier makes of two coders; compression has asked it for neither."""
        if self.judge is None:
            return None
        return compare(*(readings(self.judge[0], coded, self.judge[1]) for coded in (ours, theirs)))

    def read(self, coded: Coded) -> tuple[Coded, Readings]:
        """What the classifier makes of coded images."""
        found = readings(self.originals, coded, self.classifier)
        print(
            f"{coded.name}: {coded.bytes_per_image:.1f} bytes, {found.right_decoded.mean():.4%} read",
            file=sys.stderr,
            flush=True,
        )
        return coded, found


def measure_everything(bench: Bench) -> dict[str, Any]:
    """All points, comparisons and what keeping images readable costs."""
    own = [bench.ours(SEED, "")]
    own += [bench.ours("tsae", f"quality {quality}", f"--quality={quality}") for quality in QUALITIES]
    targets = [bench.ours("tsae", f"{size} bytes", f"--target-bytes={size}") for size in TARGET_BYTES]
    rivals, comparisons = dict[str, tuple[Coded, Readings]](), []
    for coded, found in [own[0], own[-1], *targets]:
        asked = float(coded.setting.split()[0]) if coded in [one for one, _ in targets] else coded.bytes_per_image
        for rival in RIVALS:
            theirs, seen = bench.rival(rival, asked)
            rivals[theirs.name] = (theirs, seen)
            comparisons.append(
                {
                    "ours": coded.name,
                    "our_bytes": coded.bytes_per_image,
                    "rival": theirs.name,
                    "their_bytes": theirs.bytes_per_image,
                    "is_smallest": theirs.setting == "quality 0",
                    **compare(found, seen),
                    "by_judge": bench.compare_by_judge(coded, theirs),
                }
            )
    points = [describe(*pair) for pair in [*own, *targets, *rivals.values()]]
    at_quality = [kept(bench, *pair, *_same_quality(pair[0])) for pair in own]
    at_size = [kept(bench, *pair, f"--target-bytes={size}") for pair, size in zip(targets, TARGET_BYTES, strict=True)]
    return {"points": points, "comparisons": comparisons, "kept": [*at_quality, *at_size]}


def _same_quality(coded: Coded) -> list[str]:
    quality = coded.facts["quality"]
    return [] if quality is None else [f"--quality={quality}"]


def kept(bench: Bench, coded: Coded, found: Readings, *flags: str) -> dict[str, Any]:
    """The same setting, with images kept readable."""
    better, seen = bench.ours(coded.coder, coded.setting, *flags, "--keep-readable")
    return {
        **describe(better, seen),
        "bytes_without": coded.bytes_per_image,
        "changed_without": int((~found.agrees).sum()),
        "changed": int((~seen.agrees).sum()),
        "lost_without": int(found.is_lost.sum()),
        "lost_to_judge_without": bench.lost_to_judge(coded),
        "lost_to_judge": bench.lost_to_judge(better),
    }


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for, and whether it is so."""
    points, found = {report.name(row): row for row in result["points"]}, []
    for point, most in MOST_LOST_POINTS.items():
        lost = points[point]["accuracy"]["drop_points"]
        size = points[point]["bytes_per_image"]
        found.append(
            {
                "what": f"{point} ({size:.1f} bytes): accuracy below the originals'",
                "asked": f"at most {most} points",
                "found": f"{lost:+.3f} points",
                "is_met": lost <= most,
            }
        )
    for row in result["comparisons"]:
        is_better = row["gain_points"] > 0 and row["mcnemar_p"] < report.SIGNIFICANT_P
        is_worse = row["gain_points"] < 0 and row["mcnemar_p"] < report.SIGNIFICANT_P
        has_to_win = row["ours"] == "tsae, 128 bytes"
        found.append(
            {
                "what": f"{row['ours']} against {row['rival']}",
                "asked": "significantly better" if has_to_win else "not significantly worse",
                "found": f"{row['gain_points']:+.2f} points, p = {report.small(row['mcnemar_p'])}",
                "is_met": is_better if has_to_win else not is_worse,
            }
        )
    for row in result["kept"]:
        found.append(
            {
                "what": f"{report.name(row)}, --keep-readable: images lost",
                "asked": "0",
                "found": f"{row['lost']}, for {row['bytes_per_image'] - row['bytes_without']:+.2f} bytes an image",
                "is_met": not row["lost"],
            }
        )
    return found


def main() -> None:
    """Parses, measures, writes."""
    args = parse()
    classifier = load_classifier(args.classifier)
    facts = {**run_facts(PACKAGES), "libraries": versions(), "data": Path(args.input).name}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Data.load(args.input, args.limit, folder)
        originals = Originals(data, *read_images(classifier, data.images))
        other = None if args.judge is None else load_classifier(args.judge)
        judge = None if other is None else (Originals(data, *read_images(other, data.images)), other)
        result = {
            **facts,
            "images": len(data.keys),
            "images_sha256": data.digest,
            "classifier": {"name": classifier.name, "sha256": classifier.sha256, "multiply_adds": classifier.multiply_adds},
            "judge": None if other is None else {"name": other.name, "sha256": other.sha256},
            **measure_everything(Bench(originals, classifier, judge, folder, args.cache)),
        }
    result["accuracy_originals"] = result["points"][0]["accuracy"]["originals"]
    result["targets"] = targets(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{NAME}.json").write_text(report.to_json(result))
    text = report.markdown(result)
    (args.out / f"{NAME}.md").write_text(text)
    report.draw(args.out / f"{NAME}.png", result)
    print(text)


if __name__ == "__main__":
    main()
