"""All commands: their names, what they are for, and which module has their flags and runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from tsae import __version__, log
from tsae.cli import archives, demo, evaluate, images, jobs, models, web

EXIT_REFUSED = 2


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with that line."""
        message = f"{message}; see {self.prog} --help"
        if log.is_json():
            log.tell("refused", "error", message=message, exit_code=EXIT_REFUSED)
            self.exit(EXIT_REFUSED)
        self.exit(EXIT_REFUSED, f"{self.prog}: error: {message}\n")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of `tsae`, with `run`, the function that they are for, and flags that are left for Beam."""
    parser = build_parser()
    args, flags = parser.parse_known_args(argv)
    if flags and not args.takes_beam_flags:
        parser.error(f"unknown argument {flags[0]}")
    return args, flags


def parse_pipeline(command: str, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of `python -m pipelines.compress` or `decompress`; see `parse`."""
    from pipelines import options as job_options

    parser = Parser(prog=f"python -m pipelines.{command}", allow_abbrev=False)
    names, add_arguments, run = {
        "compress": (("input", "archive"), job_options.add_compress_arguments, jobs.run_compress),
        "decompress": (("archive", "output"), job_options.add_decompress_arguments, jobs.run_decompress),
    }[command]
    for flag, name in zip(("--input", "--output"), names, strict=True):
        parser.add_argument(flag, dest=name, required=True, metavar=name.upper())
    add_arguments(parser)
    parser.set_defaults(run=run)
    args, flags = parser.parse_known_args(argv)
    return args, flags or (["--runner=FnApiRunner"] if args.workers is None else [])  # a Beam program, unless told otherwise


def build_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = Parser(prog="tsae", allow_abbrev=False, description="Traffic-sign images as small archives of Parquet shards.")
    parser.add_argument("--version", action="version", version=f"tsae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add_flags, run, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run, takes_beam_flags=name in TAKE_BEAM_FLAGS)
        add_flags(command)
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def _run_completion(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.completion import completion_script

    print(completion_script(build_parser(), args.shell))
    return 0


COMMANDS: list[tuple[str, Callable[[argparse.ArgumentParser], None], Callable[..., int], str]] = [
    ("demo", demo.add_demo, demo.run_demo, "draw sign-like images, compress them, bring them back, show a contact sheet"),
    ("train", models.add_train, models.run_train, "train a model"),
    (
        "train-classifier",
        models.add_train_classifier,
        models.run_train_classifier,
        "train a classifier of signs, on pixels or on latents",
    ),
    ("compress", jobs.add_compress, jobs.run_compress, "compress images to an archive"),
    ("decompress", jobs.add_decompress, jobs.run_decompress, "bring images back as PNG files, 32x32"),
    ("get", images.add_get, images.run_get, "decode images on demand"),
    ("ls", images.add_ls, images.run_ls, "list keys"),
    ("sheet", images.add_sheet, images.run_sheet, "draw a contact sheet of images, below their originals if you have them"),
    ("info", archives.add_info, archives.run_info, "show counts, sizes and settings of an archive"),
    (
        "verify",
        archives.add_verify,
        archives.run_verify,
        "check every file and record of an archive, and save what is intact of a damaged one",
    ),
    (
        "evaluate",
        evaluate.add_evaluate,
        evaluate.run_evaluate,
        "tell how good archives are: size, quality, readable signs",
    ),
    ("compact", archives.add_compact, archives.run_compact, "merge small shards of an archive, and remove records from it"),
    (
        "export-web",
        web.add_export_web,
        web.run_export_web,
        "write an archive as a web page that any file host can serve",
    ),
    ("serve", web.add_serve, web.run_serve, "decode over HTTP (needs the extra serve)"),
    ("models", models.add_models, models.run_models, "show the models that come with tsae"),
    ("completion", _add_completion, _run_completion, "print a script by which a shell completes commands and flags"),
]
"""Name, what adds its flags, what runs it, and what it is for; in the order of `tsae --help`."""

TAKE_BEAM_FLAGS = {"compress", "decompress"}
