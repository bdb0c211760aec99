"""Flags and runs of `tsae get`, `ls` and `sheet`, and the flags that choose images, which they share."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from tsae import log
from tsae.config import EXIT_FAILURES
from tsae.selection import FILTERS, SORTS, Selection, selection_of

SHEET_IMAGES = 96
"""Images of a contact sheet for which no other number is asked."""


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
    for attribute, each in FILTERS.items():
        if attribute == "glob":
            continue  # commands take it without a flag
        how: dict[str, Any] = {"help": each.text}
        if each.kind is bool:
            how |= {"action": argparse.BooleanOptionalAction}
        else:
            how |= {"metavar": each.metavar, "type": {float: _number, int: _count}.get(each.kind, each.kind)}
        if each.comparison == "is one of":
            how |= {"action": "append"}
        chosen.add_argument(f"--{each.name}", **how)


def _add_order(parser: argparse.ArgumentParser, limit: int | None, limit_help: str) -> None:
    order = parser.add_argument_group("in which order")
    order.add_argument(
        "--sort", choices=list(SORTS), default="position", help="psnr: the worst first (default: as in the archive)"
    )
    order.add_argument("--reverse", action="store_true", help="the greatest or last first")
    order.add_argument("--after", metavar="KEY", help="only what comes after this key in that order")
    order.add_argument("--limit", type=_count, metavar="N", default=limit, help=limit_help)


def _ordered_selection(args: argparse.Namespace) -> Selection:
    return selection_of(vars(args), sort=args.sort, reverse=args.reverse, after=args.after, limit=args.limit)


def add_get(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `get`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("keys", nargs="+", metavar="KEY", help="keys, or globs in quotes; * also matches /")
    parser.add_argument(
        "-o", dest="output", metavar="FILE|DIR|ZIP|-", help="default: files named like the keys, in this folder; - is stdout"
    )
    parser.add_argument("--format", choices=["png", "webp", "jpeg", "npy"], help="default: by the ending of FILE, else png")
    _add_filters(parser)


def run_get(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `get`; see `tsae.on_demand.get_images`."""
    from tsae.on_demand import get_images

    missing = get_images(args.archive, args.keys, args.output, args.format, selection_of(vars(args)))
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


def run_ls(args: argparse.Namespace, flags: list[str]) -> int:
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
    parser.add_argument("--originals", metavar="INPUT", help="what was compressed: originals above, and measured anew")
    parser.add_argument("--root", metavar="DIR", help="for a list: the folder that keys are relative to (default: the list's)")
    _add_filters(parser)
    _add_order(parser, SHEET_IMAGES, f"at most so many (default: {SHEET_IMAGES})")


def run_sheet(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `sheet`; see `tsae.overview.write_sheet`."""
    from tsae.overview import write_sheet

    images = write_sheet(args.archive, _ordered_selection(args), args.output, args.originals, args.root)
    print(f"{args.output}: {log.counted(images, 'image')}")
    return 0
