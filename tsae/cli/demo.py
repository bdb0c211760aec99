"""`tsae demo`: a round trip of drawn signs."""

from __future__ import annotations

import argparse

from tsae.cli.archives import describe


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `demo`."""
    parser.add_argument("--out", default="tsae-demo", metavar="DIR", help="folder to write to (default: %(default)s)")


def run_demo(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `demo`: draws, compresses, decompresses and shows."""
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
        print(describe(archive.info()))
    print(f"{'look at':<10}{folders.sheet}")
    return 0
