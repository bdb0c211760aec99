"""`tsae export-web` and `serve`: archives in a browser. The flags of `serve` are in `tsae/serve/options.py`."""

from __future__ import annotations

import argparse

from tsae import log


def add_export_web(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `export-web`."""
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("output", metavar="DIR", help="new or empty folder; local or URL")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    parser.add_argument("--originals", metavar="INPUT", help="what was compressed, to show its images beside")
    parser.add_argument("--root", metavar="DIR", help="for a list: the folder that keys are relative to (default: the list's)")


def run_export_web(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `export-web`; see `tsae.web.export_web`."""
    from tsae.web import export_web

    done = export_web(args.archive, args.output, args.overwrite, args.originals, args.root)
    originals = f", {log.counted(done.originals, 'original')}" if args.originals is not None else ""
    files = f"{log.counted(done.files, 'file')} of {done.bytes:,} bytes"
    print(
        f"{log.printable(args.output)}: {log.counted(done.images, 'image')}{originals}, {files}; serve them with any web server"
    )
    return 0


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `serve`."""
    from tsae.serve.options import add_arguments

    add_arguments(parser)


def run_serve(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `serve`; see `tsae.serve.server.serve`."""
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
