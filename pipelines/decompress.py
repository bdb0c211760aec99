"""An archive back to image files, as a Beam pipeline: `python -m pipelines.decompress --input ARCHIVE --output DIR`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import apache_beam as beam

from pipelines import engine
from pipelines.options import DecompressOptions
from pipelines.transforms import DecodeImages, ListTasks, ReadRecords, WriteFailures, WriteImages
from tsae.jobs.decompress import DecompressJob, load_codec, plan
from tsae.progress import watch


def build(pipeline: beam.Pipeline, job: DecompressJob, shards: list[int]) -> beam.PCollection:
    """The pipeline: the mirror of `pipelines.compress`."""
    return (
        pipeline
        | "ListTasks" >> ListTasks(shards)
        | "ReadRecords" >> ReadRecords(job)
        | "DecodeImages" >> DecodeImages(job)
        | "WriteImages" >> WriteImages(job)
        | "WriteFailures" >> WriteFailures(job)
    )


def run(options: DecompressOptions, flags: Sequence[str] = ()) -> dict[str, int]:
    """Plans, runs and returns the counts `images-written`, `images-present` and `images-failed`.

    Args:
        options: What is asked for.
        flags: Beam flags.

    Raises:
        TsaeError: if archive, output or flags cannot be used, or writing fails; what is written so far stays.
    """
    engine.check_flags(flags, options.workers)
    job, shards, images = plan(options.archive, options.output, options.select, options.restore_size, options.overwrite)
    load_codec(job)  # refuses an unusable model before anything is written
    is_shared = not any(path.startswith("memory://") for path in (options.archive, options.output))
    workers = engine.choose_workers(options.workers, options.cores, images, shards, is_shared)
    with watch(images, "decompressing") as progress:
        job = dataclasses.replace(job, progress=progress)
        return engine.run(lambda pipeline: build(pipeline, job, list(range(shards))), workers, flags)


if __name__ == "__main__":
    from tsae.cli import main_of_pipeline

    sys.exit(main_of_pipeline("decompress", sys.argv[1:]))
