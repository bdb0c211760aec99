"""Images to an archive, as a Beam pipeline: `python -m pipelines.compress --input DIR --output ARCHIVE`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import apache_beam as beam

from pipelines import engine
from pipelines.options import CompressOptions
from pipelines.transforms import CommitArchive, EncodeImages, ListShards, ReadImages, WriteShard
from tsae import archive as ar
from tsae import paths
from tsae.checkpoint import fingerprint, model_from_bytes
from tsae.codec import choose_device
from tsae.errors import InputError
from tsae.inputs import list_inputs
from tsae.jobs.plan import CompressJob, check_output, count_images, finished_shards, plan, resume
from tsae.progress import watch
from tsae.zoo import read_model_file


def build(pipeline: beam.Pipeline, job: CompressJob, shards: list[int]) -> beam.PCollection:
    """The pipeline: which images are in which shard is planned already, so only shard numbers are shuffled."""
    return (
        pipeline
        | "ListShards" >> ListShards(shards)
        | "ReadImages" >> ReadImages(job)
        | "EncodeImages" >> EncodeImages(job)
        | "WriteShard" >> WriteShard(job)
        | "CommitArchive" >> CommitArchive(job)
    )


def run(options: CompressOptions, flags: Sequence[str] = ()) -> ar.Manifest:
    """Lists, plans, runs and returns the committed manifest.

    Args:
        options: What is asked for.
        flags: Beam flags.

    Raises:
        TsaeError: if input, output, model or flags cannot be used, or writing fails. The archive is not changed then.
    """
    engine.check_flags(flags, options.workers)
    job = _resume(options) if options.resume else _plan(options)
    finished = finished_shards(job)
    left = [number for number in range(job.shards) if number not in finished]
    images = count_images(job, left)
    is_shared = not any(path.startswith("memory://") for path in (options.input, options.archive))
    workers = engine.choose_workers(options.workers, options.cores, images, len(left), is_shared)
    with watch(images, "compressing") as progress:
        job = dataclasses.replace(job, progress=progress)
        engine.run(lambda pipeline: build(pipeline, job, left), workers, flags)
    return ar.read_manifest(job.archive)


def _plan(options: CompressOptions) -> CompressJob:
    """Checks all that can be refused, then writes the plan."""
    model_file = read_model_file(options.model)
    model_from_bytes(model_file, options.model)
    device = choose_device(options.device)
    check_output(options.input, options.archive, options.overwrite)
    listing = list_inputs(options.input, options.root)
    for note in listing.notes:
        print(note, file=sys.stderr)
    return plan(options.input, listing, ar.Folder(paths.absolute(options.archive)), model_file, device)


def _resume(options: CompressOptions) -> CompressJob:
    """Takes up the plan of a killed job, if this is the same command."""
    job = resume(options.input, ar.Folder(paths.absolute(options.archive)))
    if fingerprint(read_model_file(options.model)) != job.model_sha256:
        raise InputError(f"{options.archive}: its job uses another model; give the killed command, with --resume")
    return dataclasses.replace(job, device=choose_device(options.device))


if __name__ == "__main__":
    from tsae.cli import main_of_pipeline

    sys.exit(main_of_pipeline("compress", sys.argv[1:]))
