"""An archive back to image files, as a Beam pipeline: `python -m pipelines.decompress --input ARCHIVE --output DIR`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import local
from pipelines.options import DecompressOptions
from tsae.jobs.decompress import DecompressJob, WriteResult, check_model, decompress_shard, plan, take_report, write_failures
from tsae.progress import watch

if TYPE_CHECKING:
    import apache_beam as beam


def build(pipeline: beam.Pipeline, job: DecompressJob, shards: list[int]) -> beam.PCollection:
    """The pipeline: the mirror of `pipelines.compress`."""
    from pipelines.transforms import DecodeImages, ListTasks, ReadRecords, WriteFailures, WriteImages

    return (
        pipeline
        | "ListTasks" >> ListTasks(shards)
        | "ReadRecords" >> ReadRecords(job)
        | "DecodeImages" >> DecodeImages(job)
        | "WriteImages" >> WriteImages(job)
        | "WriteFailures" >> WriteFailures(job)
    )


def run_here(workers: local.Workers, job: DecompressJob, shards: list[int]) -> WriteResult:
    """The same by the local engine."""
    return write_failures(workers.map(decompress_shard, shards, job), job)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of images.

    Attributes:
        written: To files.
        present: Whose files were there already.
        failed: All others.
    """

    written: int
    present: int
    failed: int


def run(options: DecompressOptions, flags: Sequence[str] = ()) -> Counts:
    """Plans, runs and returns what came of the images.

    Args:
        options: What is asked for.
        flags: Beam flags; without any, the local engine does the work.

    Raises:
        TsaeError: if archive, output or flags cannot be used, or writing fails; what is written so far stays.
    """
    local.check_flags(options.workers, flags)
    job, shards, images = plan(options.archive, options.output, options.select, options.restore_size, options.overwrite)
    is_shared = not any(path.startswith("memory://") for path in (options.archive, options.output))
    count = 1 if flags else local.choose_workers(options.workers, options.cores, images, shards, is_shared)
    with local.Workers(count) as workers:
        workers.call_each(check_model, job)
        with watch(images, "decompressing") as progress:
            return _run_job(dataclasses.replace(job, progress=progress), list(range(shards)), workers, flags)


def _run_job(job: DecompressJob, shards: list[int], workers: local.Workers, flags: Sequence[str]) -> Counts:
    if not flags:
        result = run_here(workers, job, shards)
        return Counts(result.written, result.present, len(result.failures))
    from pipelines import engine

    engine.run(lambda pipeline: build(pipeline, job, shards), flags)
    return Counts(**take_report(job))


if __name__ == "__main__":
    from tsae.cli import main_of_pipeline

    sys.exit(main_of_pipeline("decompress", sys.argv[1:]))
