"""The command line: parses, calls one function, prints. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from tsae import __version__, cli_evaluate, log
from tsae import cli_on_demand as on_demand
from tsae.config import DEFAULT_MODEL, EXIT_FAILURES
from tsae.errors import TsaeError

if TYPE_CHECKING:
    from pipelines.compress import Outcome
    from pipelines.options import CompressOptions, DecompressOptions
    from tsae.archive import Failure
    from tsae.jobs.update import Changes
    from tsae.training import TrainConfig

EXIT_REFUSED, EXIT_BUG = 2, 70


SHOWN_FAILURES = 5
"""Failures that a command prints; the table has all of them."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        message = f"{message}; see {self.prog} --help"
        if log.is_json():
            log.tell("refused", "error", message=message, exit_code=EXIT_REFUSED)
            self.exit(EXIT_REFUSED)
        self.exit(EXIT_REFUSED, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments after the program's name; None takes the process's own.

    Returns:
        Exit code: 0 done, 1 some inputs failed or keys are not there, 2 refused, 70 a bug, 130 or 143 interrupted.
    """
    return _guarded(_parse, sys.argv[1:] if argv is None else argv)


def main_of_program() -> NoReturn:
    """The process of `tsae`, which is nobody else's."""
    from tsae.imports import do_without_pandas

    do_without_pandas()
    sys.exit(main())


def main_of_pipeline(command: str, argv: Sequence[str]) -> int:
    """Runs `compress` or `decompress` with `--input` and `--output` in place of the two paths; see `main`."""
    return _guarded(lambda arguments: _parse_pipeline(command, arguments), argv)


def _guarded(parse: Callable[[Sequence[str]], tuple[argparse.Namespace, list[str]]], argv: Sequence[str]) -> int:
    """Runs what was parsed, and turns every expected end into an exit code and at most one line."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with log.json_lines("--log-json" in argv), _catch_signals() as received:
        try:
            args, flags = parse(argv)
            return int(args.run(args, flags))
        except TsaeError as error:
            log.say("refused", " ".join(str(error).split()), "error", error=type(error).__name__, exit_code=EXIT_REFUSED)
            return EXIT_REFUSED
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except BaseException as error:  # Beam turns the interruption of a step into another exception
            if not received and isinstance(error, Exception):
                return _report_bug()
            if not received:
                raise
            log.say("interrupted", "interrupted", "warning", exit_code=128 + received[0])
            return 128 + received[0]


def _report_bug() -> int:
    """Prints a traceback; its exit code is not that of failed images."""
    if log.is_json():
        log.tell("bug", "error", traceback=traceback.format_exc(), version=__version__, exit_code=EXIT_BUG)
        return EXIT_BUG
    traceback.print_exc()
    print(f"tsae {__version__}: this is a bug; please report it with the lines above", file=sys.stderr)
    return EXIT_BUG


@contextlib.contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM interrupt, and are added to the list that it yields; a second one ends at once."""
    received: list[int] = []

    def interrupt(signum: int, frame: Any) -> NoReturn:
        received.append(signum)
        if len(received) > 1:
            os._exit(128 + signum)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _build_parser()
    args, flags = parser.parse_known_args(argv)
    if flags and not args.takes_beam_flags:
        parser.error(f"unknown argument {flags[0]}")
    return args, flags


def _parse_pipeline(command: str, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    from pipelines import options as job_options

    parser = _Parser(prog=f"python -m pipelines.{command}", allow_abbrev=False)
    names, add_arguments, run = {
        "compress": (("input", "archive"), job_options.add_compress_arguments, _compress),
        "decompress": (("archive", "output"), job_options.add_decompress_arguments, _decompress),
    }[command]
    for flag, name in zip(("--input", "--output"), names, strict=True):
        parser.add_argument(flag, dest=name, required=True, metavar=name.upper())
    add_arguments(parser)
    parser.set_defaults(run=run)
    args, flags = parser.parse_known_args(argv)
    return args, flags or (["--runner=FnApiRunner"] if args.workers is None else [])  # a Beam program, unless told otherwise


def _build_parser() -> argparse.ArgumentParser:
    from pipelines import options as job_options
    from tsae.serve.options import add_arguments as add_serve_arguments

    parser = _Parser(prog="tsae", allow_abbrev=False, description="Traffic-sign images as small archives of Parquet shards.")
    parser.add_argument("--version", action="version", version=f"tsae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., int], text: str, takes_beam_flags: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run, takes_beam_flags=takes_beam_flags)
        return command

    demo = add("demo", _demo, "draw sign-like images, compress them, bring them back, show a contact sheet")
    demo.add_argument("--out", default="tsae-demo", metavar="DIR", help="folder to write to (default: %(default)s)")

    _add_train(add("train", _train, "train a model"))
    _add_train_classifier(add("train-classifier", _train_classifier, "train a classifier of signs, on pixels or on latents"))

    compress = add("compress", _compress, "compress images to an archive", takes_beam_flags=True)
    compress.add_argument(
        "input",
        metavar="INPUT",
        help="folder, glob, tar or Parquet file of images, or list (.txt, .parquet with a column path); local or URL",
    )
    compress.add_argument("archive", metavar="ARCHIVE", help="new or empty folder; local or URL")
    job_options.add_compress_arguments(compress)

    decompress = add("decompress", _decompress, "bring images back as PNG files, 32x32", takes_beam_flags=True)
    decompress.add_argument("archive", metavar="ARCHIVE")
    decompress.add_argument("output", metavar="OUTDIR")
    job_options.add_decompress_arguments(decompress)

    on_demand.add_get(add("get", on_demand.get, "decode images on demand"))
    on_demand.add_ls(add("ls", on_demand.ls, "list keys"))
    on_demand.add_sheet(add("sheet", on_demand.sheet, "draw a contact sheet of images, below their originals if you have them"))

    info = add("info", _info, "show counts, sizes and settings of an archive")
    info.add_argument("archive", metavar="ARCHIVE")
    info.add_argument("--json", action="store_true")

    verify = add("verify", _verify, "check every file and record of an archive, and save what is intact of a damaged one")
    verify.add_argument("archive", metavar="ARCHIVE")
    verify.add_argument("--repair", metavar="OUT", help="write all intact records to a new archive")
    verify.add_argument("--decode", action="store_true", help="decode every image as well")
    verify.add_argument(
        "--workers", type=int, metavar="N", help="threads (default: one for each core, more for a remote archive)"
    )
    verify.add_argument("--json", action="store_true")

    cli_evaluate.add_evaluate(add("evaluate", cli_evaluate.run, "tell how good archives are: size, quality, readable signs"))

    _add_compact(add("compact", _compact, "merge small shards of an archive, and remove records from it"))

    export = add("export-web", _export_web, "write an archive as a web page that any file host can serve")
    export.add_argument("archive", metavar="ARCHIVE")
    export.add_argument("output", metavar="DIR", help="new or empty folder; local or URL")
    export.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    export.add_argument("--originals", metavar="INPUT", help="what was compressed, to show its images beside")
    export.add_argument("--root", metavar="DIR", help="for a list: the folder that keys are relative to (default: the list's)")

    serve = add("serve", _serve, "decode over HTTP (needs the extra serve)")
    add_serve_arguments(serve)

    models = add("models", _models, "show the models that come with tsae")
    models.add_argument("--json", action="store_true")

    completion = add("completion", _completion, "print a script by which a shell completes commands and flags")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    return parser


def _add_compact(parser: argparse.ArgumentParser) -> None:
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


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder of images, Parquet file with images, or folder with train.parquet")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="architecture (default: %(default)s)")
    _add_recipe(parser)
    parser.add_argument("--start", metavar="NAME|FILE", help="model to go on from, such as tsae for signs of your own")
    parser.add_argument("--rates-only", action="store_true", help="with --start: learn only what differs between qualities")


def _add_train_classifier(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA|ARCHIVE",
        help="archive with labels; or images with labels: folder, Parquet file, or folder with train.parquet",
    )
    parser.add_argument(
        "--input",
        choices=["pixels", "latents"],
        default="pixels",
        help="pixels, which of an archive are decoded, or latents as an archive stores them (default: pixels)",
    )
    _add_recipe(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="MODEL", help="model file to write, ending in .safetensors")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the model's, as the next two")
    parser.add_argument("--batch-size", type=int, metavar="N")
    parser.add_argument("--learning-rate", type=float, metavar="RATE")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    parser.add_argument("--resume", action="store_true", help="go on where a killed run of the same recipe ended")


def _recipe_of(args: argparse.Namespace, default: TrainConfig) -> TrainConfig:
    """A recipe's numbers, with those that were given."""
    from tsae.codec import choose_device

    given = {name: getattr(args, name) for name in ("epochs", "batch_size", "learning_rate")}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(default, seed=args.seed, device=choose_device(args.device), **given)


def _train(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.training import default_config, train

    config = _recipe_of(args, default_config(args.model))
    config = dataclasses.replace(config, start=args.start, rates_only=args.rates_only)
    facts = train(args.data, args.out, config, resume=args.resume).training
    print(f"{args.out}: validation loss {facts['valid_loss']:.5f} on {facts['valid_images']} images")
    return 0


def _train_classifier(args: argparse.Namespace, flags: list[str]) -> int:
    from pathlib import Path

    from tsae.training import default_classifier_config, train_classifier

    config = dataclasses.replace(_recipe_of(args, default_classifier_config(args.input)), model=Path(args.out).stem)
    facts = train_classifier(args.data, args.out, config, args.input, resume=args.resume).training
    print(
        f"{args.out}: {100 * facts['valid_accuracy']:.2f} % of {facts['valid_images']} validation images are classified rightly"
    )
    return 0


def _start_early(options: CompressOptions | DecompressOptions, flags: list[str]) -> None:
    """Has workers started in the meantime: what `pipelines.compress` imports takes as long."""
    from pipelines import local

    local.start_early(options.workers, options.cores, flags)


def _compress(args: argparse.Namespace, flags: list[str]) -> int:
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
    kept = _describe_kept(outcome) if args.keep_readable else ""
    print(
        f"{args.archive}: {counts.images} images{changes}{lossless}{kept}{_failed(failed)}{skipped}, "
        f"{_rate(outcome.done, seconds)}"
    )
    if failed:
        with open_archive(args.archive) as archive:
            _show_failures(archive.failures(), f"{args.archive}/failures")
    exit_code = EXIT_FAILURES if failed and not args.allow_failures else 0
    facts = {"archive": args.archive, "done": outcome.done, "wall_s": round(seconds, 3), "exit_code": exit_code}
    if args.keep_readable:
        facts |= {"kept_readable": outcome.kept.images, "kept_readable_bytes": outcome.kept.bytes}
    log.tell("compressed", **facts, **dataclasses.asdict(counts))
    return exit_code


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


def _decompress(args: argparse.Namespace, flags: list[str]) -> int:
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


def _info(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.reader import open_archive

    with open_archive(args.archive) as archive:
        info = archive.info()
    print(json.dumps(info, indent=1) if args.json else _describe(info))
    return 0


def _verify(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.jobs.verify import verify

    result = verify(args.archive, args.repair, args.decode, args.workers)
    if args.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print(result.describe(args.archive, SHOWN_FAILURES))
    return EXIT_FAILURES if result.damages else 0


def _compact(args: argparse.Namespace, flags: list[str]) -> int:
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


def _describe(info: dict[str, Any]) -> str:
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
        rows["ratio"] = f"1/{info['ratio_to_raw']:.2f} of the raw pixels, 1/{info['ratio_to_source']:.2f} of the input files"
    return "\n".join(f"{name:<10}{log.printable(text)}" for name, text in rows.items())


def _describe_size(info: dict[str, Any]) -> str:
    provenance = f" and {info['provenance_bytes']:,} that only a rerun needs" if info["provenance_bytes"] else ""
    return f"{info['archive_bytes']:,} bytes; beside them {info['model_bytes']:,} for the model{provenance}"


def _describe_operating_point(info: dict[str, Any]) -> str:
    if info["quality"] is None:
        return ""
    return f", quality {info['quality']}" + (f" for a target of {info['target']}" if info["target"] else "")


def _describe_quality(info: dict[str, Any]) -> str:
    lossless = f"; {info['lossless']:,} images are stored losslessly as well" if info["lossless"] else ""
    if info["psnr_mean_db"] is None:
        return f"not measured{lossless}"
    return f"mean {info['psnr_mean_db']:.2f} dB, worst {info['psnr_min_db']:.2f} dB from latents{lossless}"


def _export_web(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.web import export_web

    done = export_web(args.archive, args.output, args.overwrite, args.originals, args.root)
    originals = f", {log.counted(done.originals, 'original')}" if args.originals is not None else ""
    files = f"{log.counted(done.files, 'file')} of {done.bytes:,} bytes"
    print(
        f"{log.printable(args.output)}: {log.counted(done.images, 'image')}{originals}, {files}; serve them with any web server"
    )
    return 0


def _serve(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.errors import InputError
    from tsae.serve.options import serve_options

    options = serve_options(args)
    try:
        from tsae.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tsae"):
            raise
        raise InputError(f"tsae serve needs {error.name}; install it with pip install 'tsae[serve]'") from error
    return serve(options)


def _models(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.checkpoint import describe_models
    from tsae.classifier import describe_classifiers

    models, classifiers = describe_models(), describe_classifiers()
    if args.json:
        print(json.dumps(models + classifiers, indent=1))
        return 0
    for model in models:
        default = " (default)" if model["name"] == DEFAULT_MODEL else ""
        qualities = f"qualities 1 to {model['qualities']}" if model["qualities"] else "one quality"
        print(f"{model['name']}{default}: latents {model['latents']}, {qualities}, ", end="")
        print(_describe_file(model))
    for model in classifiers:
        print(f"{model['name']}: classifier of {model['classes']} signs by {model['input']}, ", end="")
        print(f"{model['multiply_adds']:,} multiply-adds, {_describe_file(model)}")
    return 0


def _describe_file(model: Mapping[str, object]) -> str:
    return f"{model['parameters']:,} parameters, file of {model['model_bytes']:,} bytes, card {model['card']}"


def _completion(args: argparse.Namespace, flags: list[str]) -> int:
    from tsae.completion import completion_script

    print(completion_script(_build_parser(), args.shell))
    return 0


def _demo(args: argparse.Namespace, flags: list[str]) -> int:
    from pathlib import Path

    from pipelines import compress, decompress
    from pipelines import options as job_options
    from tsae.demo import DemoFolders, draw_images, show_result
    from tsae.reader import open_archive

    folders = DemoFolders(Path(args.out))
    draw_images(folders)
    archive_path = str(folders.archive)
    compress.run(job_options.CompressOptions(str(folders.images), archive_path, overwrite=True))
    decompress.run(job_options.DecompressOptions(archive_path, str(folders.decompressed), overwrite=True))
    with open_archive(archive_path) as archive:
        show_result(folders, archive)
        print(_describe(archive.info()))
    print(f"{'look at':<10}{folders.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
