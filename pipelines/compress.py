"""Images to an archive, as a Beam pipeline: `python -m pipelines.compress --input DIR --output ARCHIVE`.

Without Beam flags, `tsae compress` runs the same steps by the local engine, and Beam is not imported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import local
from pipelines.options import CompressOptions
from tsae import archive as ar
from tsae import log, paths
from tsae.config import DEFAULT_CLASSIFIER
from tsae.errors import InputError
from tsae.inputs import Listing, list_inputs
from tsae.jobs import stream
from tsae.jobs.compress import check_model, commit_archive, compress_task, finish
from tsae.jobs.encoding import MISREAD_ONLY, NONE_KEPT, Classify, Kept
from tsae.jobs.job_folder import CompressJob, check_committed, count_images, is_committed
from tsae.jobs.plan import cut, find_state, plan, resume
from tsae.jobs.run_report import Launch
from tsae.jobs.target import Target, choose_quality
from tsae.jobs.task_results import TaskResult, count_done, finished_tasks
from tsae.jobs.update import Changes, check_settings, check_writable, find_changes
from tsae.model_facts import ModelFacts, check_quality, read_model_facts
from tsae.progress import watch
from tsae.zoo import read_model_file

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


class _Stages:
    """Seconds that the stages before the first task take, for a report of the run, if one is wanted."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted, self._started_s, self._last_s = is_wanted, time.time(), time.monotonic()
        self._stages_s: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """What has passed since the stage before was this one."""
        now_s = time.monotonic()
        self._stages_s[stage], self._last_s = now_s - self._last_s, now_s

    def launch(self, engine: str, workers: int | None) -> Launch | None:
        """How the run began."""
        return Launch(engine, workers, self._started_s, self._stages_s) if self._is_wanted else None


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command asks for, checked as far as that can be done without its input.

    Attributes:
        options: As given.
        flags: Beam flags; without any, the local engine does the work.
        archive: Where the archive is, or will be.
        model_file: The whole model file.
        classifier_file: That of the classifier that may be asked, if one may be.
        settings: What later runs must have in common with it, the root excepted.
        stages: Seconds of the stages so far.
    """

    options: CompressOptions
    flags: Sequence[str]
    archive: ar.Folder
    model_file: bytes
    classifier_file: bytes | None
    settings: ar.Settings
    stages: _Stages

    @property
    def classifier_sha256(self) -> str | None:
        """Which classifier says what can be read: records depend on it."""
        return None if self.classifier_file is None else ar.digest(self.classifier_file)


def prepare(options: CompressOptions, flags: Sequence[str] = ()) -> Request:
    """Checks options and flags, and reads the model.

    Raises:
        TsaeError: if one of them cannot be used.
    """
    stages = _Stages(options.run_report)
    local.check_flags(options.workers, flags)
    _check_options(options)
    archive = ar.Folder(paths.absolute(options.archive))
    model_file = read_model_file(options.model)
    classifier_file = _read_classifier(options)
    settings = _settings(options, read_model_facts(model_file, options.model), classifier_file)
    return Request(options, flags, archive, model_file, classifier_file, settings, stages)


def _read_classifier(options: CompressOptions) -> bytes | None:
    """The file of the classifier that may be asked.

    Raises:
        TsaeError: if it cannot be used, or nothing would ask it.
    """
    if not (options.keep_readable or (options.target_bytes is not None and options.verify)):
        if options.classifier is not None:
            remedy = "add --keep-readable or --target-bytes (without --no-verify), or leave it out"
            raise InputError(f"--classifier {options.classifier}: nothing would ask it; {remedy}")
        return None
    data = read_model_file(options.classifier or DEFAULT_CLASSIFIER)
    if options.classifier is not None:
        from tsae.classifier import classifier_from_bytes

        if (found := classifier_from_bytes(data, options.classifier).input) != "pixels":
            raise InputError(f"--classifier {options.classifier}: looks at {found}; name one that looks at pixels")
    return data


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
        settings, changes = _aim(settings, listing, request), None
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
    check_settings(files.manifest, _keep_aim(settings, files.manifest.settings, request), ar.digest(request.model_file))
    return files


def _check_options(options: CompressOptions) -> None:
    floor_db = options.min_psnr_db
    if floor_db is not None and not options.verify:
        raise InputError(f"--min-psnr {floor_db}: cannot be kept without verification; leave out --no-verify")
    if options.keep_readable and not options.verify:
        raise InputError("--keep-readable: cannot be kept without verification; leave out --no-verify")
    if floor_db is not None and not 0 < floor_db <= ar.EXACT_PSNR_DB:
        raise InputError(f"--min-psnr {floor_db}: is in dB, above 0 and at most {ar.EXACT_PSNR_DB:.0f}; 30 is a usual floor")
    for name, target in (("--target-bytes", options.target_bytes), ("--target-psnr", options.target_psnr_db)):
        if target is not None and not (math.isfinite(target) and target > 0):
            raise InputError(f"{name} {target}: must be a number above 0; 128 bytes or 33 dB are usual")


def _settings(options: CompressOptions, model: ModelFacts, classifier_file: bytes | None) -> ar.Settings:
    """The settings as far as they are known before the input is listed."""
    source = paths.absolute(options.input) if options.input else ""
    target = _target(options)
    if target and not model.qualities:
        raise InputError(f"target of {target}: model {model.name} has no qualities to choose from; leave it out, or use tsae")
    quality = None if target else check_quality(options.quality, model.qualities, model.name)
    aim = str(target) if target else None
    kept = ar.digest(classifier_file) if options.keep_readable and classifier_file is not None else None
    return ar.Settings(source, source, options.verify, options.min_psnr_db, quality, aim, kept)


def _target(options: CompressOptions) -> Target | None:
    given = (options.target_bytes, options.target_psnr_db)
    return None if given == (None, None) else Target(*given)


def _keep_aim(settings: ar.Settings, old: ar.Settings, request: Request) -> ar.Settings:
    """The settings with what was chosen for the target before, if there is one; the classifier is the one at hand."""
    if settings.target is None:
        return settings
    sha256 = request.classifier_sha256
    doubt = old.doubt and dataclasses.replace(old.doubt, classifier=sha256 or old.doubt.classifier)
    return dataclasses.replace(settings, quality=old.quality, doubt=doubt)


def _aim(settings: ar.Settings, listing: Listing, request: Request) -> ar.Settings:
    """The settings with what reaches the target, if there is one: a quality, and for bytes what is stored better."""
    options, target = request.options, _target(request.options)
    if target is None:
        return settings
    if not listing.keys:
        raise InputError(
            f"target of {target}: no readable image in {listing.root} to choose a quality by; give --quality instead"
        )
    from tsae.codec import choose_device, shared_codec

    codec = shared_codec(request.model_file, options.model, choose_device(options.device))
    if target.bytes_per_image is not None and request.classifier_sha256 is not None:
        settings = dataclasses.replace(settings, doubt=ar.Doubt(request.classifier_sha256, MISREAD_ONLY))
    choice = choose_quality(listing, codec, target, settings, _asked(request))
    log.say("target", f"target of {target}: {choice}", quality=choice.quality, better=round(choice.better, 4))
    return choice.settings(settings)


def _asked(request: Request) -> Classify | None:
    """The classifier that may be asked."""
    if request.classifier_file is None:
        return None
    from tsae.classifier import classifier_of

    return classifier_of(request.classifier_file, request.options.classifier or DEFAULT_CLASSIFIER).probabilities


def resumed(request: Request) -> CompressJob:
    """Takes up the plan of a killed job, if this is the same command.

    Raises:
        InputError: if there is none, or it is not this command's.
    """
    options = request.options
    job = resume(options.input, request.archive)
    planned = dataclasses.replace(job.settings, root=request.settings.root)
    settings = _keep_aim(request.settings, planned, request)
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
