"""Flags and runs of `tsae get`, `ls` and `sheet`, and the flags that choose images, which they share."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from tsae import log
from tsae.config import EXIT_FAILURES

if TYPE_CHECKING:
    from tsae.selection import Selection

SHEET_IMAGES = 96
"""Images of a contact sheet for which no other number is asked."""

ORDERS = ("position", "key", "psnr", "bytes")
"""As `tsae.selection.SORTS`, which is not imported for this."""


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is no number to compare with")
    return number


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return count


def _add_filters(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_argument_group("which images")
    chosen.add_argument("--prefix", metavar="TEXT", help="only keys that start with it")
    chosen.add_argument("--label", action="append", dest="labels", metavar="LABEL", help="only this label; may be given again")
    chosen.add_argument("--min-psnr", type=_number, metavar="DB", help="only images that came back so well, or better")
    chosen.add_argument("--max-psnr", type=_number, metavar="DB", help="only images that came back so well, or worse")
    chosen.add_argument("--min-bytes", type=_count, metavar="N", help="only images that take so many bytes here, or more")
    chosen.add_argument("--max-bytes", type=_count, metavar="N", help="only images that take so many bytes here, or fewer")
    chosen.add_argument("--min-px", type=_count, metavar="N", help="only originals of at least N pixels each way")
    chosen.add_argument("--max-px", type=_count, metavar="N", help="only originals of at most N pixels each way")


def _add_order(parser: argparse.ArgumentParser, limit: int | None, limit_help: str) -> None:
    order = parser.add_argument_group("in which order")
    order.add_argument("--sort", choices=ORDERS, default="position", help="psnr: the worst first (default: as in the archive)")
    order.add_argument("--reverse", action="store_true", help="the greatest or last first")
    order.add_argument("--after", metavar="KEY", help="only what comes after this key in that order")
    order.add_argument("--limit", type=_count, metavar="N", default=limit, help=limit_help)


def _selection(args: argparse.Namespace, **more: Any) -> Selection:
    from tsae.selection import Selection

    return Selection(
        prefix=args.prefix,
        labels=None if args.labels is None else tuple(args.labels),
        min_psnr_db=args.min_psnr,
        max_psnr_db=args.max_psnr,
        min_bytes=args.min_bytes,
        max_bytes=args.max_bytes,
        min_px=args.min_px,
        max_px=args.max_px,
        **more,
    )


def _ordered_selection(args: argparse.Namespace) -> Selection:
    return _selection(args, glob=args.glob, sort=args.sort, reverse=args.reverse, after=args.after, limit=args.limit)


def add_get(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `get`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("keys", nargs="+", metavar="KEY", help="keys, or globs in quotes; * also matches /")
    parser.add_argument(
        "-o", dest="output", metavar="FILE|DIR|ZIP|-", help="default: files named like the keys, in this folder; - is stdout"
    )
    parser.add_argument("--format", choices=["png", "webp", "jpeg", "npy"], help="default: by the ending of FILE, else png")
    _add_filters(parser)


def get(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `get`; see `tsae.on_demand.get_images`."""
    from tsae.on_demand import get_images

    missing = get_images(args.archive, args.keys, args.output, args.format, _selection(args))
    for line in missing:
        log.say("missing", line, "error")
    return EXIT_FAILURES if missing else 0


def add_ls(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `ls`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("glob", nargs="?", metavar="GLOB", help="only keys that match; * also matches /")
    parser.add_argument(
        "--json", action="store_true", help="with sizes, labels and PSNR, as JSON; with bytes where flags ask about them"
    )
    _add_filters(parser)
    _add_order(parser, None, "at most so many")


def ls(args: argparse.Namespace, flags: list[str]) -> int:
    """Prints keys, or rows as one JSON array, as they are found."""
    from tsae.reader import open_archive

    selection = _ordered_selection(args)
    with open_archive(args.archive) as archive:
        if not args.json:
            for key in archive.keys(selection):
                print(log.printable(key))
            return 0
        separator = "["
        for row in archive.rows(selection):
            print(separator, json.dumps(row), sep="\n", end="")
            separator = ","
        print("\n]" if separator == "," else "[]")
    return 0


def add_sheet(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sheet`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("glob", nargs="?", metavar="GLOB", help="only keys that match; * also matches /")
    parser.add_argument("-o", dest="output", metavar="FILE", required=True, help="the picture: .png, .webp or .jpg")
    parser.add_argument("--originals", metavar="DIR", help="the folder that was compressed: originals above, and measured anew")
    _add_filters(parser)
    _add_order(parser, SHEET_IMAGES, f"at most so many (default: {SHEET_IMAGES})")


def sheet(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `sheet`; see `tsae.overview.write_sheet`."""
    from tsae.overview import write_sheet

    count = write_sheet(args.archive, _ordered_selection(args), args.output, args.originals)
    print(f"{args.output}: {count} image{'' if count == 1 else 's'}")
    return 0
