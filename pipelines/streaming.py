"""A folder that grows to an archive that grows, as one Beam pipeline without end: `tsae compress --watch` with Beam flags."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipelines import engine
from pipelines.compress import Outcome, open_state, resumed
from pipelines.options import DEFAULT_WATCH_S, CompressOptions
from pipelines.request import Request, prepare
from pipelines.transforms import CommitBatches, EncodeImages, Every, FindBatches, ReadBatch, WriteShard
from tsae import archive as ar
from tsae import log
from tsae.errors import InputError, TsaeError
from tsae.inputs import Listing, Lookout
from tsae.jobs import stream
from tsae.jobs.compress import check_model, commit_archive
from tsae.jobs.job_folder import CompressJob
from tsae.jobs.plan import find_state, is_watched, plan

STREAMING = "--streaming"
"""What some of Beam's runners want to be told of a pipeline without end."""

SILENT_S, SILENT_LOOKS = 120.0, 10
"""A job that has not looked at its input for so long, and that many times, is told of."""


def build(pipeline: beam.Pipeline, job: CompressJob) -> beam.PCollection:
    """The pipeline: what is new is found by one worker and listed in the job folder, so only numbers are shuffled."""
    return (
        pipeline
        | "Every" >> Every(job.watch_s or DEFAULT_WATCH_S)
        | "FindBatches" >> FindBatches(job)
        | "ReadBatch" >> ReadBatch(job)
        | "EncodeImages" >> EncodeImages(job)
        | "WriteShard" >> WriteShard(job)
        | "CommitBatches" >> CommitBatches(job)
    )


def watch(options: CompressOptions, flags: Sequence[str]) -> Outcome:
    """Compresses what comes to the input, until it is asked to end by Ctrl-C or SIGTERM; then the job is cancelled.

    Args:
        options: What is asked for.
        flags: Beam flags.

    Returns:
        The archive's state, and the number of images that it has now and had not before.

    Raises:
        TsaeError: if something cannot be used, or cannot be watched; what a step raised; or that the engine ended the job.
    """
    request = prepare(options, flags)
    engine.check_endless(flags)
    Lookout(options.input, options.watch_s or DEFAULT_WATCH_S)  # refuses what cannot be watched
    job = claim(request)
    images = ar.read_manifest(job.archive).images
    try:
        with _attended(job), _interrupted_by(signal.SIGTERM):
            engine.run(lambda pipeline: build(pipeline, job), [*flags, *([] if STREAMING in flags else [STREAMING])])
    except KeyboardInterrupt:
        manifest = stream.end(resumed(request))  # by another token, so that workers that still do something are refused
        return Outcome(manifest, manifest.images - images)
    except TsaeError:
        with contextlib.suppress(TsaeError):
            if not stream.last_look(job) and not stream.waiting_batches(job):
                stream.end(job)  # it has never begun
        raise
    raise InputError(f"--runner={engine.runner_name(flags)}: has ended what has no end; name Flink's or Prism's")


@contextlib.contextmanager
def _interrupted_by(number: int) -> Iterator[None]:
    """Within the block, a signal is what Ctrl-C is."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def claim(request: Request) -> CompressJob:
    """A job that watches: the one that is there, or a new one; on an archive without images, if there is none yet.

    Args:
        request: What is asked for.

    Raises:
        TsaeError: if another command is at work there, or the archive was made otherwise.
    """
    options, archive, model_file = request.options, request.archive, request.model_file
    if is_watched(archive):
        return dataclasses.replace(resumed(request), watch_s=options.watch_s)
    base = find_state(options.input, options.archive, overwrite=False)
    check_model(model_file, options.model, options.device)
    settings = dataclasses.replace(request.settings, root=Lookout(options.input, 0.0).root)
    nothing = Listing.of(settings.root, [])
    if base is None:
        if settings.target is not None:
            rule = "needs images to choose a quality by"
            raise InputError(f"target of {settings.target}: {rule}; compress some without --watch first")
        commit_archive([], plan(nothing, [], archive, model_file, settings, None, False, (), options.device))
        base = ar.read_manifest_text(archive)
    manifest = open_state(request, settings, base).manifest
    nothing = dataclasses.replace(nothing, skipped=manifest.counts.skipped)
    settings, device, asked = manifest.settings, options.device, request.classifier_file
    return plan(nothing, [], archive, model_file, settings, base, True, (), device, options.watch_s, asked)


@contextlib.contextmanager
def _attended(job: CompressJob) -> Iterator[None]:
    """Within the block, it is told what is committed, and if nobody looks at the input."""
    log.say("watching", f"{job.archive.path}: takes in what comes to {job.settings.source}, until Ctrl-C")
    is_over = threading.Event()
    thread = threading.Thread(target=_attend, args=(job, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _attend(job: CompressJob, is_over: threading.Event) -> None:
    interval_s = job.watch_s or DEFAULT_WATCH_S
    images, look, look_s = -1, b"", time.monotonic()
    while not is_over.wait(interval_s):
        with contextlib.suppress(OSError, TsaeError):  # what it is, the workers will say
            counts = ar.read_manifest(job.archive).counts
            if images not in (-1, counts.images):
                new = counts.images - images
                facts: dict[str, Any] = {"new": new, "failures": counts.failures, "images": counts.images}
                log.say("committed", f"{new} new; {counts.images} images, {counts.failures} failures", **facts)
            images = counts.images
            if (last := stream.last_look(job)) != look:
                look, look_s = last, time.monotonic()
            elif time.monotonic() - look_s > max(SILENT_S, SILENT_LOOKS * interval_s):
                silent = f"has not looked at {job.settings.source} for {time.monotonic() - look_s:.0f} s"
                log.say("silent", f"the job {silent}; should it go on like that, give the command again", "warning")
                look_s = time.monotonic()
