"""Images to an archive, as a Beam pipeline: `python -m pipelines.compress --input DIR --output ARCHIVE`.

Without Beam flags, `tsae compress` runs the same steps by the local engine, and Beam is not imported.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import local
from pipelines.options import CompressOptions
from pipelines.request import Request, keep_target, prepare, reach_target
from tsae import archive as ar
from tsae import log
from tsae.errors import InputError
from tsae.inputs import Listing, list_inputs
from tsae.jobs import stream
from tsae.jobs.compress import check_model, commit_archive, compress_task, finish
from tsae.jobs.encoding import NONE_KEPT, Kept
from tsae.jobs.job_folder import CompressJob, check_committed, count_images, is_committed
from tsae.jobs.plan import cut, find_state, plan, resume
from tsae.jobs.task_results import TaskResult, count_done, finished_tasks
from tsae.jobs.update import Changes, check_settings, check_writable, find_changes
from tsae.progress import watch

if TYPE_CHECKING:
    import apache_beam as beam


def build(pipeline: beam.Pipeline, job: CompressJob, tasks: list[int]) -> beam.PCollection:
    """The pipeline: which images are in which shard is planned already, so only numbers are shuffled."""
    from pipelines.transforms import CommitArchive, EncodeImages, ListTasks, ReadImages, WriteShard

    return (
        pipeline
        | "ListTasks" >> ListTasks(tasks)
        | "ReadImages" >> ReadImages(job)
        | "EncodeImages" >> EncodeImages(job)
        | "WriteShard" >> WriteShard(job)
        | "CommitArchive" >> CommitArchive(job)
    )


def run_here(workers: local.Workers, job: CompressJob, tasks: list[int]) -> list[TaskResult]:
    """The same by the local engine."""
    results = workers.map(compress_task, tasks, job)
    commit_archive(results, job)
    return results


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        manifest: The state of the archive.
        done: Number of images that were worked on.
        changes: What was found where an archive was brought up to date; None where one was made anew.
        kept: What it took to keep those images readable.
    """

    manifest: ar.Manifest
    done: int
    changes: Changes | None = None
    kept: Kept = NONE_KEPT


def run(options: CompressOptions, flags: Sequence[str] = ()) -> Outcome:
    """Lists, plans, runs and returns what came of it.

    Args:
        options: What is asked for.
        flags: Beam flags; without any, the local engine does the work.

    Raises:
        TsaeError: if input, output, model or flags cannot be used, or writing fails. The archive is not changed then.
    """
    request = prepare(options, flags)
    if options.resume:
        return resume_job(request)
    base = find_state(options.input, options.archive, options.overwrite)
    listing = list_inputs(options.input, options.root)
    return compress_listing(request, listing, base)


def resume_job(request: Request) -> Outcome:
    """Finishes a killed job.

    Raises:
        TsaeError: if there is none, or it is not this command's.
    """
    job = resumed(request)
    if job.watch_s is not None:
        return _end_watch(request, job)
    if is_committed(job):
        return Outcome(finish(job), 0)
    images = sum(count_images(job, range(job.tasks)).values())
    with start_workers(request, images, job.tasks) as workers:
        return _run_job(job, None, request, workers)


def _end_watch(request: Request, job: CompressJob) -> Outcome:
    """Compresses what a job on an engine has found and not committed, and ends it; here, as that is never much."""
    batches = stream.waiting_batches(job)
    with start_workers(request, 0, len(batches)) as workers:
        results = workers.map(stream.compress_batch, batches, job)
    return Outcome(stream.end(job), sum(result.images for result in results if result))


def compress_listing(request: Request, listing: Listing, base: bytes | None) -> Outcome:
    """Makes the archive of a listing, or brings it up to date.

    Args:
        request: What is asked for.
        listing: The whole input.
        base: The manifest that is there; None if there is none.

    Raises:
        TsaeError: as `run`.
    """
    for note in listing.notes:
        log.say("note", note)
    request.stages.end("list")
    settings, options = dataclasses.replace(request.settings, root=listing.root), request.options
    if base is None or options.overwrite:
        settings, changes = reach_target(settings, listing, request), None
        tasks, failures = cut(listing.rows), listing.failures
    else:
        files = open_state(request, settings, base)
        settings = files.manifest.settings
        changes = find_changes(listing, files, options.retry_failed)
        if not changes.is_needed:
            return Outcome(files.manifest, 0, changes)
        tasks, failures = changes.tasks, changes.failures
    with start_workers(request, sum(len(task.rows) for task in tasks), len(tasks)) as workers:
        workers.call_each(check_model, request.model_file, options.model, options.device)
        is_update = changes is not None
        model, classifier = request.model_file, request.classifier_file
        job = plan(
            listing, tasks, request.archive, model, settings, base, is_update, failures, options.device, classifier=classifier
        )
        return _run_job(job, changes, request, workers)


def open_state(request: Request, settings: ar.Settings, base: bytes) -> ar.ArchiveFiles:
    """The archive that is to be brought up to date.

    Args:
        request: What is asked for.
        settings: Its settings with the root of the listing.
        base: The manifest.

    Raises:
        TsaeError: if it cannot be, or was made otherwise.
    """
    files = ar.ArchiveFiles(request.archive.path, base)
    check_writable(files)
    check_settings(files.manifest, keep_target(settings, files.manifest.settings, request), ar.digest(request.model_file))
    return files


def resumed(request: Request) -> CompressJob:
    """Takes up the plan of a killed job, if this is the same command.

    Raises:
        InputError: if there is none, or it is not this command's.
    """
    options = request.options
    job = resume(options.input, request.archive)
    planned = dataclasses.replace(job.settings, root=request.settings.root)
    settings = keep_target(request.settings, planned, request)
    if planned != settings or ar.digest(request.model_file) != job.model_sha256:
        raise InputError(
            f"{options.archive}: its job has another model or other settings; give the killed command, with --resume"
        )
    return dataclasses.replace(job, device=options.device)


def start_workers(request: Request, images: int, tasks: int) -> local.Workers:
    """Processes for a job of the local engine; this process only for a small one, or where Beam does the work."""
    options = request.options
    is_shared = not any(path.startswith("memory://") for path in (options.input, options.archive))
    wanted = local.choose_workers(options.workers, options.cores, images, tasks, is_shared)
    return local.Workers(1 if request.flags else wanted)


@dataclasses.dataclass
class _Elsewhere:
    """How many images are done on other machines.

    Attributes:
        job: The job.
        images: Of each of its tasks.
        is_over: Whether all are, and the job's folder may be gone.
    """

    job: CompressJob
    images: dict[int, int]
    is_over: bool = False

    def __call__(self) -> int:
        return sum(self.images.values()) if self.is_over else count_done(self.job, self.images)


def _run_job(job: CompressJob, changes: Changes | None, request: Request, workers: local.Workers) -> Outcome:
    """Runs the tasks that are not done yet, and commits."""
    stages, flags = request.stages, request.flags
    stages.end("plan")
    engine_name, count = _engine_name(flags), None if flags else workers.count
    job = dataclasses.replace(job, launch=stages.launch(engine_name, count))
    finished = finished_tasks(job)
    left = [task for task in range(job.tasks) if task not in finished]
    images = count_images(job, left)
    total = sum(images.values())
    elsewhere = _Elsewhere(job, images) if flags else None
    log.tell("planned", images=total, tasks=len(left), engine=engine_name, workers=count)
    with watch(total, "compressing", elsewhere) as progress:
        job = dataclasses.replace(job, progress=progress)
        if elsewhere:
            from pipelines import engine

            engine.run(lambda pipeline: build(pipeline, job, left), flags)
            check_committed(job)
            finished = finished_tasks(job) if job.settings.classifier else finished
            finish(job)
            elsewhere.is_over = True
        else:
            finished |= {result.task: result for result in run_here(workers, job, left)}
    kept = functools.reduce(Kept.plus, (result.kept for result in finished.values()), NONE_KEPT)
    return Outcome(ar.read_manifest(job.archive), total, changes, kept)


def _engine_name(flags: Sequence[str]) -> str:
    if not flags:
        return "local"
    from pipelines import engine

    return engine.runner_name(flags)


if __name__ == "__main__":
    from tsae.cli import main_of_pipeline

    sys.exit(main_of_pipeline("compress", sys.argv[1:]))
