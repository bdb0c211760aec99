"""`tsae info`, `verify` and `compact`: archives as a whole."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import Any

from tsae import log
from tsae.config import EXIT_FAILURES

SHOWN_DAMAGES = 5
"""Damages that are printed; `--json` has all of them."""


def add_info(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `info`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("--json", action="store_true")


def run_info(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `info`; see `tsae.reader.Archive.info`."""
    from tsae.reader import open_archive

    with open_archive(args.archive) as archive:
        info = archive.info()
    print(json.dumps(info, indent=1) if args.json else describe(info))
    return 0


def describe(info: dict[str, Any]) -> str:
    """What people are told of `Archive.info`, in lines."""
    rows = {
        "archive": f"{info['path']} (format {info['format_version']}, {info['created_by']})",
        "images": f"{info['images']:,} in {log.counted(info['shards'], 'shard')}",
        "failures": f"{info['failures']:,}" + (f" (see {info['path']}/failures)" if info["failures"] else ""),
        "skipped": log.counted(info["skipped"], "other file"),
        "size": _describe_size(info),
        "model": f"{info['model']}{_describe_operating_point(info)} (sha256 {info['model_sha256'][:16]}...)",
        "settings": ", ".join(f"{name} {value}" for name, value in info["preprocessing"].items()),
    }
    if info["images"]:
        rows["an image"] = f"{info['bytes_per_image']:.1f} bytes, {info['stream_bytes'] / info['images']:.1f} of them latents"
        rows["quality"] = _describe_quality(info)
        if info["keep_readable"] is not None:
            rows["readable"] = f"as the originals, to the classifier of sha256 {info['keep_readable'][:16]}..."
        if info["doubt"] is not None:
            rows["better"] = _describe_doubt(**info["doubt"])
        rows["ratio"] = f"1/{info['ratio_to_raw']:.2f} of the raw pixels, 1/{info['ratio_to_source']:.2f} of the input files"
    return "\n".join(f"{name:<10}{log.printable(text)}" for name, text in rows.items())


def _describe_size(info: dict[str, Any]) -> str:
    provenance = f" and {info['provenance_bytes']:,} that only a rerun needs" if info["provenance_bytes"] else ""
    return f"{info['archive_bytes']:,} bytes; beside them {info['model_bytes']:,} for the model{provenance}"


def _describe_doubt(classifier: str, most: float) -> str:
    lost = f"more than {100 * most:g} % of its certainty, or reads otherwise" if most < 1 else "its reading"
    return f"stored where the classifier of sha256 {classifier[:16]}... loses {lost}"


def _describe_operating_point(info: dict[str, Any]) -> str:
    if info["quality"] is None:
        return ""
    return f", quality {info['quality']}" + (f" for a target of {info['target']}" if info["target"] else "")


def _describe_quality(info: dict[str, Any]) -> str:
    lossless = f"; {info['lossless']:,} images are stored losslessly as well" if info["lossless"] else ""
    if info["psnr_mean_db"] is None:
        return f"not measured{lossless}"
    return f"mean {info['psnr_mean_db']:.2f} dB, worst {info['psnr_min_db']:.2f} dB from latents{lossless}"


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `verify`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("--repair", metavar="OUT", help="write all intact records to a new archive")
    parser.add_argument("--decode", action="store_true", help="decode every image as well")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads (default: one for each core, more for a remote archive)"
    )
    parser.add_argument("--json", action="store_true")


def run_verify(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `verify`; see `tsae.jobs.verify.verify`."""
    from tsae.jobs.verify import verify

    result = verify(args.archive, args.repair, args.decode, args.workers)
    if args.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print(result.describe(args.archive, SHOWN_DAMAGES))
    return EXIT_FAILURES if result.damages else 0


def add_compact(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `compact`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("--all", action="store_true", help="merge large shards too, so that all keys are in order")
    parser.add_argument(
        "--remove",
        nargs="+",
        action="extend",
        default=[],
        metavar="GLOB",
        help="records whose key matches go; * also matches /",
    )
    parser.add_argument("--remove-missing", action="store_true", help="records go whose files the input no longer has")
    parser.add_argument(
        "--grace",
        type=float,
        metavar="SECONDS",
        help="how long old files stay, for who reads them (default: 300 on a remote store; 0 on a disk, where locks tell)",
    )
    parser.add_argument(
        "--log-json", action="store_true", help="say on standard error in JSON lines what is done and how it ends"
    )


def run_compact(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `compact`; see `tsae.jobs.compact.compact`."""
    from tsae.jobs.compact import CompactOptions, compact

    started_s = time.monotonic()
    done = compact(CompactOptions(args.archive, args.all, args.remove, args.remove_missing, args.grace))
    seconds = time.monotonic() - started_s
    if args.remove and done.removed:
        remedy = "its file has to go from the input too, or tsae compress adds it again"
        log.say("note", f"a record that was removed by its key comes back with its image: {remedy}")
    shards = log.counted(done.shards_after, "shard")
    if done.is_changed:
        removed = f", {log.counted(done.removed, 'record')} removed" if args.remove or args.remove_missing else ""
        sizes = f"{done.bytes_before:,} -> {done.bytes_after:,} bytes"
        print(f"{args.archive}: {done.shards_before:,} -> {shards}, {done.images:,} images{removed}, {sizes}, {seconds:.1f} s")
    else:
        print(f"{args.archive}: nothing to do, {shards}, {done.images:,} images, {seconds:.1f} s")
    log.tell("compacted", archive=args.archive, wall_s=round(seconds, 3), exit_code=0, **dataclasses.asdict(done))
    return 0
