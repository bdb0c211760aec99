"""Flags and run of `tsae evaluate`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tsae import log
from tsae.config import EXIT_FAILURES

SHOWN_PROBLEMS = 5
"""Problems that are printed of each archive; the report has more of them."""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `evaluate`."""
    parser.add_argument("archives", nargs="+", metavar="ARCHIVE", help="several are compared")
    parser.add_argument("--originals", required=True, metavar="INPUT", help="what was compressed: all that `compress` takes")
    parser.add_argument(
        "--report",
        default="tsae-report",
        metavar="DIR",
        help="where report.html, report.json and plots go: new, empty, or with an earlier report (default: %(default)s)",
    )
    parser.add_argument("--root", metavar="DIR", help="for a list: the folder that keys are relative to (default: the list's)")
    parser.add_argument(
        "--classifier", metavar="NAME|FILE", help="what reads the signs (default: the one that comes with tsae)"
    )
    parser.add_argument("--json", action="store_true", help="print what report.json holds, not a summary")


def run_evaluate(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `evaluate`; see `tsae.evaluation.evaluate`."""
    from tsae.classifier import load_classifier
    from tsae.evaluation import evaluate

    classifier = load_classifier() if args.classifier is None else load_classifier(args.classifier)
    done = evaluate(args.archives, args.originals, classifier, args.report, args.root)
    if args.json:
        print(json.dumps(done.to_json(), indent=1))
    else:
        print("\n\n".join(map(_describe, done.reports)))
        print(f"{'report':<10}{log.printable(str(done.page))}")
    for report in done.reports:
        _show_problems(report)
    return 0 if done.is_whole else EXIT_FAILURES


def _describe(report: dict[str, Any]) -> str:
    marks = {"good": "+", "fair": "!", "poor": "x", "note": "i"}
    psnr, ssim = report["psnr_db"], report["ssim"]
    of_raw = f"1/{report['ratio_to_raw']:.1f} of the raw pixels"
    rows = [
        ("archive", report["archive"]),
        ("verdict", report["verdict"]["line"]),
        *(("", f"{marks[reason['level']]} {reason['text']}") for reason in report["verdict"]["reasons"]),
        ("images", f"{report['images']:,} of {report['archive_images']:,} measured"),
        ("an image", f"{report['bytes_per_image']:.1f} bytes, {of_raw}"),
        ("PSNR", f"mean {psnr['mean']:.2f} dB, median {psnr['median']:.2f}, p5 {psnr['p5']:.2f}, p1 {psnr['p1']:.2f}"),
        ("SSIM", f"mean {ssim['mean']:.4f}, median {ssim['median']:.4f}, p5 {ssim['p5']:.4f}, p1 {ssim['p1']:.4f}"),
    ]
    if "accuracy" in report:
        accuracy = report["accuracy"]
        low, high = accuracy["drop_interval_95_points"]
        drop = f"{accuracy['drop_points']:.2f} points lost (95 %: {low:.2f} to {high:.2f})"
        rows.append(("accuracy", f"originals {accuracy['originals']:.4f}, decoded {accuracy['decoded']:.4f}: {drop}"))
    unsure = "" if report["verdict"]["by_reading"] else " (says little: see the verdict)"
    rows.append(("agreement", f"{report['agreement']:.4f}{unsure}"))
    rows.append(("lost", f"{len(report['lost']):,} signs, {len(report['gained']):,} read only afterwards"))
    if others := report["originals_without_record"]["images"]:
        rows.append(("beside", f"{others:,} originals have no record in the archive"))
    return "\n".join(f"{name:<10}{log.printable(text)}" for name, text in rows)


def _show_problems(report: dict[str, Any]) -> None:
    """Says the first problems, and how many there are."""
    first, counts = report["problems"]["first"], report["problems"]["counts"]
    for problem in first[:SHOWN_PROBLEMS]:
        log.say("problem", f"{report['name']}: {log.printable(problem['message'])}", kind=problem["kind"], key=problem["key"])
    if (total := sum(counts.values())) > SHOWN_PROBLEMS:
        log.say("problems", f"{report['name']}: {total:,} images not measured; the report has them", **{"images": total})
