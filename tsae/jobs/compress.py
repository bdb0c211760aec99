"""The steps of compressing, after `tsae.jobs.plan`: per task read, encode and write, then commit. Owns no format.

Networks are imported when the first image is encoded: the process that plans and commits may never need them.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

import tsae
from tsae import archive as ar
from tsae.config import DEFAULT_CLASSIFIER
from tsae.errors import CorruptDataError, FormatError, ImageError, InputError, ModelError
from tsae.images import decode_image, resize
from tsae.inputs import ContainerError, Item, Read, map_inputs, stat_input
from tsae.jobs import job_folder, task_results
from tsae.jobs.encoding import NONE_KEPT, Classify, Kept, encode_chunk
from tsae.jobs.job_folder import CompressJob
from tsae.jobs.run_report import write_run_report
from tsae.jobs.task_results import TaskResult
from tsae.model_facts import read_model_facts
from tsae.paths import ConflictError

if TYPE_CHECKING:
    from tsae.classifier import SignClassifier
    from tsae.codec import Codec

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class TaskImages:
    """The images of one task, resized, and what could not be read.

    Attributes:
        task: Its number.
        keys: Of the N images that came through, sorted.
        labels: None where an image has none.
        sizes_px: Original width and height, uint32 `[N, 2]`.
        images: uint8 `[N, 32, 32, 3]`.
        origins: The states of their files.
        failures: The others.
        stages_s: Seconds that the stages took so far.
    """

    task: int
    keys: list[str]
    labels: list[str | None]
    sizes_px: NDArray[np.uint32]
    images: NDArray[np.uint8]
    origins: list[ar.Origin]
    failures: list[ar.Failure]
    stages_s: dict[str, float]

    def counts(self) -> dict[str, int]:
        """What was done, by names of metrics."""
        return {
            "images_read": len(self.keys),
            "images_failed": len(self.failures),
            "bytes_read": sum(origin.size_bytes for origin in self.origins),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTask:
    """The records of one task, still to be written, and what belongs to them.

    Attributes:
        task: Its number.
        records: Of the images that came through.
        origins: The states of their files, by key.
        failures: The others.
        stages_s: Seconds that the stages took so far.
        kept: What it took to keep images readable.
    """

    task: int
    records: ar.Records
    origins: dict[str, ar.Origin]
    failures: list[ar.Failure]
    stages_s: dict[str, float]
    kept: Kept = NONE_KEPT

    def counts(self) -> dict[str, int]:
        """What was done, by names of metrics."""
        lossless = sum(image is not None for image in self.records.lossless)
        return {"images_encoded": len(self.records), "images_lossless": lossless, "images_kept_readable": self.kept.images}


def read_images(task: int, job: CompressJob) -> TaskImages:
    """Reads, decodes and resizes the images of a task.

    Args:
        task: Its number in the plan.
        job: The job.

    Returns:
        The images that came through, and the failures.

    Raises:
        InputError: if another job has taken this one's place.
    """
    started_s = time.perf_counter()
    items, root = job_folder.read_listing(task, job), job.settings.root
    outcomes = map_inputs(functools.partial(_read_image, root), items, root)
    pairs = zip(items, outcomes, strict=True)
    rows = [(item.key, item.label, *outcome) for item, outcome in pairs if not isinstance(outcome, ar.Failure)]
    return TaskImages(
        task,
        [row[0] for row in rows],
        [row[1] for row in rows],
        np.array([row[2] for row in rows], np.uint32).reshape(-1, 2),
        np.stack([row[3] for row in rows]) if rows else np.empty((0, 32, 32, 3), np.uint8),
        [row[4] for row in rows],
        [outcome for outcome in outcomes if isinstance(outcome, ar.Failure)],
        {"read": time.perf_counter() - started_s},
    )


def read_unfinished(task: int, job: CompressJob) -> TaskImages | None:
    """The images of a task as `read_images` gives them, or None if an earlier try of it was finished.

    An engine that lost a worker may start all tasks again; the commit finds the results of those that are left out.

    Raises:
        InputError: if another job has taken this one's place.
    """
    return None if task_results.is_finished(task, job) else read_images(task, job)


def _read_image(root: str, item: Item, read: Read) -> tuple[tuple[int, int], NDArray[np.uint8], ar.Origin] | ar.Failure:
    """Original size in px, pixels and state of one image; or why not."""
    try:
        data, facts = read()
    except ContainerError as error:
        return ar.Failure(item.key, "read", type(error).__name__, str(error))  # of no state, so that the next run tries again
    except ImageError as error:
        return ar.Failure(item.key, "read", type(error).__name__, str(error), *stat_input(root, item))
    try:
        image = decode_image(data)
        return image.size, resize(image), ar.Origin.of(data, facts.version)
    except ImageError as error:
        return ar.Failure(item.key, "decode", type(error).__name__, str(error), facts.size_bytes, facts.version)


def check_model(model_file: bytes, source: str, device: str) -> None:
    """Refuses a model or device that cannot be used, before anything is written.

    Args:
        model_file: The whole file.
        source: Its path, for messages.
        device: "auto", "cpu" or "cuda".

    Raises:
        InputError: if there is no such device.
        ModelError: if the model cannot be used.
    """
    from tsae.codec import choose_device, shared_codec

    shared_codec(model_file, source, choose_device(device))


def load_codec(job: CompressJob) -> Codec:
    """The job's codec; loaded once per process.

    Raises:
        ModelError: if the job's model file is not the planned one or cannot be used.
    """
    return _load_codec(job.archive, job.model_place, job.model_sha256, job.device)


@functools.lru_cache(maxsize=1)
def _load_codec(archive: ar.Folder, name: str, sha256: str, device: str) -> Codec:
    from tsae.codec import choose_device, shared_codec

    try:
        return shared_codec(ar.read_digested(archive, name, sha256), f"{archive.path}/{name}", choose_device(device))
    except FormatError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise InputError(f"{archive.path}: another command has written here meanwhile; nothing more is done") from error


def load_asked(job: CompressJob) -> Classify | None:
    """The classifier that the job asks, loaded once per process; None if it asks none.

    Raises:
        InputError: if another job has taken this one's place.
        ModelError: if it is neither the one that comes with this tsae nor in the job's folder.
    """
    sha256 = job.settings.classifier
    if sha256 is None:
        return None
    if _packaged().sha256 == sha256:
        return _packaged().probabilities
    return _load_asked(job.archive, job.file(job_folder.CLASSIFIER_FILE), sha256).probabilities


@functools.lru_cache(maxsize=1)
def _packaged() -> SignClassifier:
    from tsae.classifier import load_classifier

    return load_classifier()


@functools.lru_cache(maxsize=1)
def _load_asked(archive: ar.Folder, name: str, sha256: str) -> SignClassifier:
    from tsae.classifier import classifier_of

    try:
        return classifier_of(ar.read_digested(archive, name, sha256), f"{archive.path}/{name}")
    except FormatError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        found = f"{DEFAULT_CLASSIFIER} of this tsae is {_packaged().sha256[:16]}..., not {sha256[:16]}... as the job asks"
        raise ModelError(f"{found}; use one version of tsae on all machines, or start anew with --overwrite") from error


def encode_images(images: TaskImages, job: CompressJob) -> EncodedTask:
    """Encodes the images of a task, and unless the settings say otherwise decodes and measures each of them.

    An image below the floor of the settings is stored losslessly as well, and one that the settings' classifier would not read
    as its original is stored better.

    Args:
        images: As read.
        job: The job.

    Returns:
        Their records, in the same order, and the failures unchanged.
    """
    codec, classify = load_codec(job), load_asked(job)
    started_s = time.perf_counter()
    parts, kept = [], NONE_KEPT
    for start in range(0, len(images.keys), codec.encoded_images):
        part, more = encode_chunk(images.images[start : start + codec.encoded_images], codec, job.settings, classify)
        parts.append(part)
        kept = kept.plus(more)
        _count(job, images=len(part))
    _count(job, images=len(images.failures), failed=len(images.failures))
    coded = ar.concatenate(parts)
    widths, heights = images.sizes_px.T
    records = dataclasses.replace(coded, keys=images.keys, widths=widths, heights=heights, labels=images.labels)
    origins = dict(zip(images.keys, images.origins, strict=True))
    stages_s = images.stages_s | {"encode": time.perf_counter() - started_s}
    return EncodedTask(images.task, records, origins, images.failures, stages_s, kept)


def _count(job: CompressJob, **tally: int) -> None:
    if job.progress is not None:
        job.progress.add(**tally)


def compress_task(task: int, job: CompressJob) -> TaskResult:
    """All steps of one task: what a process of the local engine does."""
    return write_shard(encode_images(read_images(task, job), job), job)


def write_shard(encoded: EncodedTask, job: CompressJob) -> TaskResult:
    """Writes the shard of a task, its provenance and its part of the failures table; doing it again changes nothing.

    Raises:
        InputError: if a file cannot be written, such as on a full disk, or another job has taken this one's place.
        TsaeError: if a shard that it replaces is damaged.
    """
    started_s = time.perf_counter()
    job_folder.check_owner(job)
    replaces = job.replaced(encoded.task)
    number, entry = job.first_number + encoded.task, None
    source_bytes = sum(origin.size_bytes for origin in encoded.origins.values())
    if len(encoded.records):
        records, origins = encoded.records, encoded.origins
        if replaces is not None:
            old = _open_base(job)
            number = ar.file_number(old.entry(replaces).file)
            records, origins = merge(_old_records(old, replaces), records), old.origins(replaces) | origins
        entry = ar.write_shard(job.archive, number, records, origins, job.model_sha256)
        _count(job, bytes_in=source_bytes, bytes_out=entry.bytes)
    failures = task_results.write_failures(job.archive, job.first_number + encoded.task, encoded.failures)
    stages_s = encoded.stages_s | {"write": time.perf_counter() - started_s}
    result = TaskResult(encoded.task, entry, failures, len(encoded.records), source_bytes, stages_s, encoded.kept)
    task_results.keep_result(result, job)
    return result


def _old_records(old: ar.ArchiveFiles, shard: int) -> ar.Records:
    try:
        return old.shard_records(shard)
    except (FormatError, CorruptDataError) as error:
        remedy = f"or save what is intact with tsae verify {old.folder.path} --repair OUT"
        raise type(error)(f"{error}, {remedy}") from error


def _open_base(job: CompressJob) -> ar.ArchiveFiles:
    return _open_state(job.archive, job_folder.base_text(job))


@functools.lru_cache(maxsize=1)
def _open_state(archive: ar.Folder, manifest_text: bytes | None) -> ar.ArchiveFiles:
    return ar.ArchiveFiles(archive.path, manifest_text)


def merge(old: ar.Records, new: ar.Records) -> ar.Records:
    """The old records in their order, with the new one in place of each that has a new one of its key."""
    places = {key: place for place, key in enumerate((*old.keys, *new.keys))}
    return ar.concatenate([old, new]).take([places[key] for key in old.keys])


def commit_archive(results: Iterable[TaskResult], job: CompressJob, waste: ar.Waste | None = None) -> ar.Manifest:
    """Makes the written shards the archive's new state, and removes what is left of the job.

    Args:
        results: Of the tasks of this run, in any order; a task that a runner ran twice may come twice. Those of
            earlier runs of the job are added.
        job: The job, an update if there is `waste`.
        waste: Takes what the old state leaves, for who commits again and again; without it the whole archive is looked
            over for what no state names.

    Returns:
        The manifest that was committed.

    Raises:
        InputError: if a file cannot be written, a task is not done, or the archive was changed meanwhile.
    """
    state = _write_state(results, job)
    with job_folder.turn(job):
        _commit(state, job)
        if waste is None or state.base is None:
            _clean_up(job, state.manifest, state.base)
        else:
            waste.add(state.base, _superseded(state, job))
            ar.clean_up_job(job.archive, [job.file(job_folder.LISTING_FILE)], functools.partial(job_folder.is_owner, job))
    if waste is not None:
        waste.remove()
    return state.manifest


def _superseded(state: _State, job: CompressJob) -> set[str]:
    """Files that the state before names and a new one does not."""
    old = _open_base(job)
    before = [*_replaced(job, state.results)]
    now = [result.shard for result in state.results if result.shard]
    return (old.manifest.files | _files(before)) - state.manifest.files - _files(now)


def _files(entries: Iterable[ar.ShardEntry]) -> set[str]:
    return {name for entry in entries for name in (entry.file, entry.provenance) if name is not None}


def _replaced(job: CompressJob, results: Iterable[TaskResult]) -> list[ar.ShardEntry]:
    """The shards of the old state that others take the place of."""
    pairs = zip(job.replaces, results, strict=True)
    return [_open_base(job).entry(number) for number, result in pairs if result.shard and number is not None]


def commit_state(results: Iterable[TaskResult], job: CompressJob) -> ar.Manifest:
    """The same, but what the job needs stays until `finish`: doing it again changes nothing.

    An engine that loses a worker right after the commit runs this step again, and needs the job for that.

    Raises:
        InputError: as `commit_archive` does.
    """
    state = _write_state(results, job)
    with job_folder.turn(job):
        _commit(state, job)
        job_folder.note_commit(state.manifest, job)
    return state.manifest


class _State(NamedTuple):
    """A state that is written and not committed: its manifest, the bytes of the old one, and the tasks' results in order."""

    manifest: ar.Manifest
    base: bytes | None
    results: list[TaskResult]


def _write_state(results: Iterable[TaskResult], job: CompressJob) -> _State:
    """Writes all that the new manifest names."""
    job_folder.check_owner(job)
    by_task = {result.task: result for result in results}
    if len(by_task) < job.tasks:
        by_task = task_results.finished_tasks(job, by_task.keys()) | by_task
    if by_task.keys() != set(range(job.tasks)):
        raise InputError(f"{job.archive.path}: {len(by_task)} of {job.tasks} tasks are done; finish it with --resume")
    in_order = [by_task[task] for task in range(job.tasks)]
    manifest = _build_manifest(in_order, job)
    if job.model_place != job.model_file:
        ar.write(job.archive, job.model_file, _model(job))
    return _State(manifest, job_folder.base_text(job), in_order)


def _commit(state: _State, job: CompressJob) -> None:
    try:
        ar.commit(job.archive, state.manifest, state.base)
    except InputError as error:
        if isinstance(error.__cause__, ConflictError) and job_folder.is_owner(job):
            job_folder.give_up(job)  # what it started from is gone
        raise
    write_run_report(job, state.manifest, state.results)


def finish(job: CompressJob) -> ar.Manifest:
    """Removes what is left of a job after its commit.

    Returns:
        The manifest that it committed.

    Raises:
        InputError: if that cannot be done, or another job has taken this one's place.
        FormatError: if the archive cannot be read.
    """
    with job_folder.turn(job):
        manifest = ar.read_manifest(job.archive)
        _clean_up(job, manifest, job_folder.base_text(job))
    return manifest


def _clean_up(job: CompressJob, manifest: ar.Manifest, base: bytes | None) -> None:
    old, is_ours = job_folder.old_manifest(job.archive, base), functools.partial(job_folder.is_owner, job)
    ar.clean_up(job.archive, manifest, old, [job.file(job_folder.LISTING_FILE)], is_ours)


def _model(job: CompressJob) -> bytes:
    return ar.read_digested(job.archive, job.model_place, job.model_sha256)


def _build_manifest(results: list[TaskResult], job: CompressJob) -> ar.Manifest:
    """Writes lists and failures table of the new state, and describes it."""
    model = _model(job)
    facts = read_model_facts(model, job.model_file)
    pairs = [(replaces, result.shard) for replaces, result in zip(job.replaces, results, strict=True) if result.shard]
    lists = ar.write_lists(
        job.archive,
        _open_base(job) if job.is_update else None,
        {replaces: shard for replaces, shard in pairs if replaces is not None},
        [shard for replaces, shard in pairs if replaces is None],
    )
    parts = [result.failures for result in results if result.failures]
    if job.known_failures is not None:
        known = ar.read_digested(job.archive, job.known_failures.file, job.known_failures.sha256)
        number = job.first_number + job.tasks
        parts.append(ar.write_digested(job.archive, "failures", number, known, job.known_failures.rows))
    failures = ar.write_failures(job.archive, parts)
    failed = sum(entry.rows for entry in failures)
    counts = _recount(results, failed, job) or ar.count(job.archive, lists, failed, job.skipped)
    return ar.Manifest(
        requires=(),
        model=facts.name,
        model_file=job.model_file,
        model_bytes=len(model),
        model_sha256=job.model_sha256,
        latent_shape=facts.latent_shape,
        preprocessing=facts.preprocessing.to_json(),
        settings=job.settings,
        created_by=f"tsae {tsae.__version__}",
        counts=counts,
        lists=lists,
        failures=failures,
    )


def _recount(results: list[TaskResult], failures: int, job: CompressJob) -> ar.Counts | None:
    """The new state's sums from those of the old one, where that can be."""
    if not job.is_update:
        return None
    added = [result.shard for result in results if result.shard]
    return ar.recount(_open_base(job).manifest.counts, _replaced(job, results), added, failures, job.skipped)
