"""`tsae compress` and `decompress`: runs them and says what came of it. Their flags are in `pipelines/options.py`."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsae import log
from tsae.config import DEFAULT_CLASSIFIER, EXIT_FAILURES

if TYPE_CHECKING:
    from pipelines.compress import Outcome
    from pipelines.options import CompressOptions, DecompressOptions
    from tsae.archive import Failure
    from tsae.jobs.update import Changes

SHOWN_FAILURES = 5
"""Failures that a command prints; the table has all of them."""


def add_compress(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `compress`."""
    from pipelines import options as job_options

    parser.add_argument(
        "input",
        metavar="INPUT",
        help="folder, glob, tar or Parquet file of images, or list (.txt, .parquet with a column path); local or URL",
    )
    parser.add_argument("archive", metavar="ARCHIVE", help="new or empty folder; local or URL")
    job_options.add_compress_arguments(parser)


def run_compress(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `compress`; see `pipelines.compress.run`, and `pipelines.watch` for `--watch`."""
    from pipelines import options as job_options

    options = job_options.compress_options(args)
    if options.watch_s is not None:
        return _watch(options, flags)
    _start_early(options, flags)
    from pipelines import compress
    from tsae.reader import open_archive

    started_s = time.monotonic()
    outcome = compress.run(options, flags)
    seconds, counts, failed = time.monotonic() - started_s, outcome.manifest.counts, outcome.manifest.counts.failures
    skipped = f", {log.counted(counts.skipped, 'other file')} skipped" if counts.skipped else ""
    lossless = f", {counts.lossless} stored losslessly as well" if counts.lossless else ""
    changes = "" if outcome.changes is None else f" ({_describe_changes(outcome.changes)})"
    settings = outcome.manifest.settings
    if settings.keep_readable is not None and outcome.kept.unsure is not None:
        log.say(
            "unsure",
            _describe_unsure(options.classifier or DEFAULT_CLASSIFIER, outcome.kept.unsure),
            "warning",
            sure=round(outcome.kept.unsure, 4),
        )
    is_asked = settings.classifier is not None
    kept = _describe_kept(outcome) if is_asked else ""
    print(
        f"{args.archive}: {counts.images} images{changes}{lossless}{kept}{_failed(failed)}{skipped}, "
        f"{_rate(outcome.done, seconds)}"
    )
    if failed:
        with open_archive(args.archive) as archive:
            _show_failures(archive.failures(), f"{args.archive}/failures")
    exit_code = EXIT_FAILURES if failed and not args.allow_failures else 0
    facts = {"archive": args.archive, "done": outcome.done, "wall_s": round(seconds, 3), "exit_code": exit_code}
    if is_asked:
        facts |= {"kept_readable": outcome.kept.images, "kept_readable_bytes": outcome.kept.bytes}
    log.tell("compressed", **facts, **dataclasses.asdict(counts))
    return exit_code


def _start_early(options: CompressOptions | DecompressOptions, flags: list[str]) -> None:
    """Has workers started in the meantime: what `pipelines.compress` imports takes as long."""
    from pipelines import local

    local.start_early(options.workers, options.cores, flags)


def _watch(options: CompressOptions, flags: list[str]) -> int:
    from pipelines.watch import watch

    outcome = _watch_elsewhere(options, flags) if flags else watch(options)
    if outcome is None:
        print(f"{options.archive}: nothing has changed")
    else:
        counts = outcome.manifest.counts
        print(f"{options.archive}: {counts.images} images, {outcome.done} of them now{_failed(counts.failures)}")
    return 0


def _watch_elsewhere(options: CompressOptions, flags: list[str]) -> Outcome:
    from pipelines import streaming  # and so Beam

    return streaming.watch(options, flags)


def _describe_changes(changes: Changes) -> str:
    missing = f"; no longer in the input, but kept: {changes.missing}" if changes.missing else ""
    return f"{changes.new} new, {changes.changed} changed{missing}" if changes.is_needed else f"nothing has changed{missing}"


def _describe_kept(outcome: Outcome) -> str:
    kept = outcome.kept
    each = f", {kept.bytes / outcome.done:+.1f} bytes an image" if outcome.done else ""
    return f", {kept.images} stored better to stay readable{each}"


def _describe_unsure(classifier: str, sure: float) -> str:
    why = f"{classifier} is only {100 * sure:.0f} % sure of the originals, so it may not know such signs"
    return f"--keep-readable: {why}; train one that does, and name it with --classifier"


def add_decompress(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `decompress`."""
    from pipelines import options as job_options

    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("output", metavar="OUTDIR")
    job_options.add_decompress_arguments(parser)


def run_decompress(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `decompress`; see `pipelines.decompress.run`."""
    from pipelines import options as job_options

    options = job_options.decompress_options(args)
    _start_early(options, flags)
    from pipelines import decompress
    from tsae.jobs.decompress import failures_file, read_failures

    started_s = time.monotonic()
    counts = decompress.run(options, flags)
    seconds = time.monotonic() - started_s
    there = f", {counts.present} there already" if counts.present else ""
    print(f"{args.output}: {counts.written} images written{there}{_failed(counts.failed)}, {_rate(counts.written, seconds)}")
    if counts.failed:
        _show_failures(read_failures(args.output), failures_file(args.output))
    exit_code = EXIT_FAILURES if counts.failed and not args.allow_failures else 0
    facts = {"output": args.output, "wall_s": round(seconds, 3), "exit_code": exit_code}
    log.tell("decompressed", **facts, **dataclasses.asdict(counts))
    return exit_code


def _show_failures(failures: Sequence[Failure], table: str) -> None:
    """Prints the first failures, and where all of them are."""
    for failure in failures[:SHOWN_FAILURES]:
        facts = {"key": failure.path, "stage": failure.stage, "error": failure.error}
        log.say("failed", f"{log.printable(failure.path)}: {failure.message}", **facts)
    log.say("failures", f"all {len(failures)} failures: {table}", failures=len(failures), table=table)


def _failed(count: int) -> str:
    return f", {count} failed" if count else ""


def _rate(images: int, seconds: float) -> str:
    return f"{seconds:.1f} s, {images / seconds:.0f} images/s"
