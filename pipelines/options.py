"""What the two jobs can be asked for: options and their flags, shared by `tsae` and `python -m pipelines...`. No Beam."""

from __future__ import annotations

import argparse
import dataclasses
import os

from tsae.config import DEFAULT_MODEL

DEFAULT_WATCH_S = 5.0
"""For how long a file must not have changed for a watch to take it: copying tools pause for less."""


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class CompressOptions:
    """What `compress` is asked for; see `add_compress_arguments` for the meanings."""

    input: str
    archive: str
    model: str = DEFAULT_MODEL
    root: str | None = None
    overwrite: bool = False
    resume: bool = False
    retry_failed: bool = False
    quality: int | None = None
    target_bytes: float | None = None
    target_psnr_db: float | None = None
    min_psnr_db: float | None = None
    keep_readable: bool = False
    classifier: str | None = None
    verify: bool = True
    run_report: bool = False
    watch_s: float | None = None
    device: str = "auto"
    workers: int | None = None
    cores: int = dataclasses.field(default_factory=usable_cores)


@dataclasses.dataclass(frozen=True)
class DecompressOptions:
    """What `decompress` is asked for; see `add_decompress_arguments` for the meanings."""

    archive: str
    output: str
    select: str | None = None
    restore_size: bool = False
    overwrite: bool = False
    workers: int | None = None
    cores: int = dataclasses.field(default_factory=usable_cores)


def add_compress_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `compress`, paths excepted."""
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help="model name or file (default: %(default)s)")
    parser.add_argument("--root", metavar="DIR", help="for a list: the folder that keys are relative to (default: the list's)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--overwrite", action="store_true", help="start anew; an archive that is there is replaced at the commit"
    )
    again.add_argument("--resume", action="store_true", help="finish a killed job from its own list of inputs")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try images again that failed before, though their files are unchanged"
    )
    again.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=DEFAULT_WATCH_S,
        metavar="SECONDS",
        help=f"go on with files that come, each once it has not changed for SECONDS (default: {DEFAULT_WATCH_S:g}), until "
        "SIGTERM or Ctrl-C",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help="1 (smallest) to 8 (best); about 26, 28, 30, 32, 34, 37, 40, 42 dB (default: 5)",
    )
    rate.add_argument(
        "--target-bytes",
        type=float,
        metavar="N",
        help="the best quality within N bytes an image, all of the archive but the model; what it leaves goes to the images "
        "that a classifier finds hardest to read (not with --no-verify)",
    )
    rate.add_argument("--target-psnr", type=float, metavar="DB", help="the lowest quality that reaches a mean PSNR of DB")
    parser.add_argument(
        "--min-psnr", type=float, metavar="DB", help="store images that would come back worse than this losslessly as well"
    )
    parser.add_argument(
        "--keep-readable",
        action="store_true",
        help="store images better that a classifier would not read as it reads the original, losslessly if need be",
    )
    parser.add_argument(
        "--classifier",
        metavar="NAME|FILE",
        help="what --keep-readable and --target-bytes ask, such as one of your own signs (default: the packaged one)",
    )
    parser.add_argument("--no-verify", action="store_true", help="do not decode each image to measure what comes back; faster")
    parser.add_argument(
        "--run-report",
        action="store_true",
        help="leave in the archive how it came about: engine, versions, counts, seconds by stage; such archives differ by it",
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the network runs (default: auto)"
    )
    _add_common_arguments(parser)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; give one, or put --watch last") from None
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} seconds: must be 0.1 to 86400")
    return seconds


def add_decompress_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `decompress`, paths excepted."""
    parser.add_argument("--select", metavar="GLOB", help="only images whose key matches; * also matches /")
    parser.add_argument("--restore-size", action="store_true", help="scale images back to their original sizes")
    parser.add_argument("--overwrite", action="store_true", help="write files anew that are there already")
    _add_common_arguments(parser)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="local processes (default: all cores, 1 for small jobs)")
    parser.add_argument("--allow-failures", action="store_true", help="exit 0 even if some images failed")
    parser.add_argument(
        "--log-json", action="store_true", help="say on standard error in JSON lines what is done and how it ends"
    )
    parser.epilog = "Other flags go to Beam: --runner=FlinkRunner --flink_master=... and so on."


def compress_options(args: argparse.Namespace) -> CompressOptions:
    """The options that parsed flags ask for."""
    return CompressOptions(
        args.input,
        args.archive,
        model=args.model,
        root=args.root,
        overwrite=args.overwrite,
        resume=args.resume,
        retry_failed=args.retry_failed,
        quality=args.quality,
        target_bytes=args.target_bytes,
        target_psnr_db=args.target_psnr,
        min_psnr_db=args.min_psnr,
        keep_readable=args.keep_readable,
        classifier=args.classifier,
        verify=not args.no_verify,
        run_report=args.run_report,
        watch_s=args.watch,
        device=args.device,
        workers=args.workers,
    )


def decompress_options(args: argparse.Namespace) -> DecompressOptions:
    """The options that parsed flags ask for."""
    return DecompressOptions(args.archive, args.output, args.select, args.restore_size, args.overwrite, args.workers)
