"""Planning a compress job: what is at the archive's place, which images go into which shard, and taking up a killed job."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import secrets
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tsae import archive as ar
from tsae import paths
from tsae.config import DEFAULT_CLASSIFIER
from tsae.errors import BusyError, InputError, TsaeError
from tsae.inputs import Listing, Rows
from tsae.jobs.claim import holds_job, is_claim
from tsae.jobs.job_folder import (
    BASE_FILE,
    CLASSIFIER_FILE,
    FAILURES_FILE,
    CompressJob,
    check_listing,
    forget,
    give_up,
    is_committed,
    is_of_this_version,
    is_owner,
    old_manifest,
    read_or_none,
    write_listing,
)
from tsae.paths import ConflictError
from tsae.zoo import read_model_file

SHARD_IMAGES = 4096
"""Most images of a shard; it bounds a worker's memory (12 MB of pixels) and the pieces of work that can be spread."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The images that one step works on.

    Attributes:
        rows: Of the listing, ascending.
        replaces: The shard of the old state whose records of these images are replaced; None makes a new shard.
    """

    rows: Rows
    replaces: int | None = None


def find_state(source: str, archive: str, overwrite: bool) -> bytes | None:
    """Refuses to write where something would be lost or read again, and finds the state to start from.

    Args:
        source: The INPUT.
        archive: Where the archive is to be.
        overwrite: Whether what is there may be replaced.

    Returns:
        The bytes of the manifest that is there; None if there is no archive.

    Raises:
        InputError: if the archive's place is inside the input or around it, is a file, cannot be read, holds something
            else, or holds an unfinished job or an archive without its manifest that may not be replaced.
        FormatError: if its manifest cannot be read.
    """
    if not archive:
        raise InputError("ARCHIVE is empty; name a new or empty folder")
    source, place = paths.absolute(source), paths.absolute(archive)
    if paths.is_within(place, source) or paths.is_within(source, place):
        raise InputError(f"{archive}: lies inside the input {source} or around it; choose a folder apart from it")
    found = _names_below(archive)
    if ar.PLAN_FILE in found and not overwrite and holds_job(ar.Folder(place)):
        remedy = "finish it with --resume, replace it with --overwrite, or choose another folder"
        if is_watched(ar.Folder(place)):
            remedy = f"cancel that on its engine, then go on with --watch, or {remedy}"
            raise BusyError(f"{archive}: belongs to a job that watches {source}, or did; {remedy}")
        raise BusyError(f"{archive}: holds an unfinished job already, or another command is at work there; {remedy}")
    base = ar.read_manifest_text(ar.Folder(place)) if ar.MANIFEST_FILE in found else None
    _check_ours(archive, base, found, overwrite)
    return base


def is_watched(archive: ar.Folder) -> bool:
    """Whether the plan in an archive, if there is one, is of a job without end.

    Raises:
        InputError: if that cannot be told.
    """
    text = read_or_none(archive, ar.PLAN_FILE)
    try:
        return text is not None and CompressJob.from_json(text, archive).watch_s is not None
    except (ValueError, TypeError, LookupError, AttributeError):
        return False


def _names_below(archive: str) -> set[str]:
    """The files that are where the archive is to be; of a place that is not there yet, none."""
    try:
        if paths.kind(archive) == "file":
            raise InputError(f"{archive}: is a file; name a new or empty folder for the archive")
        return set(ar.Folder(paths.absolute(archive)).sizes_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive}: cannot be read ({reason}); check the path, the network and its credentials") from error


def _check_ours(archive: str, base: bytes | None, found: set[str], overwrite: bool) -> None:
    """Refuses a place whose files are not those of an archive, or of one whose shards a new one would take for leftovers.

    Shards are written only while there is a plan, which is removed after all else; so without plan and manifest, they
    are not what a killed job has left.
    """
    has_records = _has_lists(found) or any(ar.FILE_NAME.fullmatch(name) and name.startswith("shards/") for name in found)
    if base is None:
        ours = {ar.MODEL_FILE} if has_records else set()
        others = {name for name in found - ours if not ar.is_leftover(name)} if ar.PLAN_FILE not in found else set()
    else:
        others = set() if has_records or _names_tsae(base) else {ar.MANIFEST_FILE}
    if others:
        raise InputError(f"{archive}: holds something else ({min(others)}); choose a new or empty folder")
    if base is None and has_records and ar.PLAN_FILE not in found and not overwrite:
        # Shards without any list are not enough for a repair.
        remedy = f"rescue them with tsae verify {archive} --repair OUT" if _has_lists(found) else "choose another folder"
        lost = f"holds the records of an archive whose {ar.MANIFEST_FILE} is lost"
        raise InputError(f"{archive}: {lost}; {remedy}, or replace them with --overwrite")


def _has_lists(found: set[str]) -> bool:
    return any(ar.FILE_NAME.fullmatch(name) and name.startswith("lists/") for name in found)


def _names_tsae(manifest: bytes) -> bool:
    """Whether a `manifest.json` says that it is tsae's, of whatever version, or as far as a damaged one tells."""
    if manifest.startswith(b'{"format": "tsae"'):
        return True
    try:
        fields = json.loads(manifest)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("format") == "tsae"


def cut(rows: Rows) -> list[Task]:
    """Cuts rows of a listing into new shards, nearly as few as SHARD_IMAGES allows and as equal as can be.

    It follows from the rows alone, never from the workers. More than 4 are a multiple of 8, so that 2, 4 or 8 workers end
    together: with 7, one of two would wait for an eighth of the time.
    """
    shards = -(-len(rows) // SHARD_IMAGES)
    if shards > 4:
        shards = -(-shards // 8) * 8
    ends = [len(rows) * shard // shards for shard in range(shards + 1)] if shards else []
    return [Task(rows[start:end]) for start, end in itertools.pairwise(ends)]


def plan(
    listing: Listing,
    tasks: Sequence[Task],
    archive: ar.Folder,
    model: bytes,
    settings: ar.Settings,
    base: bytes | None,
    is_update: bool,
    known_failures: Sequence[ar.Failure],
    device: str,
    watch_s: float | None = None,
    classifier: bytes | None = None,
) -> CompressJob:
    """Writes the job folder; the plan itself comes last, and only one of two commands at once can write it.

    Args:
        listing: What the INPUT names.
        tasks: What to do.
        archive: Where the archive will be.
        model: The model file.
        settings: What later runs must have in common with this one.
        base: The manifest that is there; None if there is none.
        is_update: Whether the new state adds to that; else it takes its place.
        known_failures: Failures of the listing, and older ones that stay.
        device: "auto", "cpu" or "cuda".
        watch_s: As the job's.
        classifier: The file of the settings' classifier, if they have one.

    Raises:
        InputError: if the job folder cannot be written, or another command is at work there.
    """
    before = read_or_none(archive, ar.PLAN_FILE)
    old = old_manifest(archive, base)
    model_sha256, name = ar.digest(model), secrets.token_hex(8)
    job = CompressJob(
        archive=archive,
        name=name,
        token=secrets.token_hex(8),
        settings=settings,
        tasks=len(tasks),
        first_number=old.counts.shards if old is not None and is_update and watch_s is None else 0,
        is_update=is_update,
        base_sha256=ar.digest(base) if base is not None else None,
        model_sha256=model_sha256,
        model_file=ar.model_place(model_sha256, old),
        device=device,
        skipped=listing.skipped,
        known_failures=None,
        watch_s=watch_s,
    )
    try:
        job = dataclasses.replace(job, known_failures=_write_known(job, known_failures))
        _keep_model(job, model)
        if settings.classifier is not None and classifier is not None and classifier != read_model_file(DEFAULT_CLASSIFIER):
            ar.write(archive, job.file(CLASSIFIER_FILE), classifier)
        write_listing(job, [functools.partial(listing.select, task.rows) for task in tasks], [t.replaces for t in tasks])
        if base is not None:
            ar.write(archive, job.file(BASE_FILE), base)
        _take_place(job, before)
    except BaseException:
        # The plan may be there though its writing failed, in the end: one that cannot be resumed must not stay.
        with contextlib.suppress(InputError):
            if is_owner(job):
                give_up(job)
        forget(job)
        raise
    if read_or_none(archive, ar.MANIFEST_FILE) != base:  # while this job was planned, before its place was its own
        give_up(job)
        raise BusyError(f"{archive.path}: another command has changed it meanwhile; run this one again")
    return job


def _keep_model(job: CompressJob, model: bytes) -> None:
    """Writes the model, unless it lies in the archive already, undamaged."""
    try:
        if job.is_update and ar.read_digested(job.archive, job.model_place, job.model_sha256, len(model)):
            return
    except TsaeError:
        pass
    ar.write(job.archive, job.model_place, model)


def _take_place(job: CompressJob, before: bytes | None) -> None:
    """Makes a job the one that works on its archive, if no other has become that since `before` was read."""
    try:
        job.archive.replace(ar.PLAN_FILE, job.to_json(), expected=before)
    except ConflictError as error:
        raise BusyError(f"{job.archive.path}: another command started there at the same time; wait for it") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{job.archive.path}: cannot be written ({reason}); choose another place") from error


def _write_known(job: CompressJob, failures: Sequence[ar.Failure]) -> ar.FileEntry | None:
    # Not yet where failures belong: a file there may be another job's too, so that nobody could take it back.
    if not failures:
        return None
    data = ar.failures_to_bytes(failures)
    ar.write(job.archive, job.file(FAILURES_FILE), data)
    return ar.FileEntry(job.file(FAILURES_FILE), len(failures), len(data), ar.digest(data))


def listing_to_bytes(tasks: Sequence[Task], listing: Listing) -> bytes:
    """A Parquet file whose row group `i` lists the images of task `i`."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, listing.select(range(0)).schema, compression="zstd") as writer:
        for task in tasks:
            writer.write_table(listing.select(task.rows), row_group_size=len(task.rows))
    return bytes(sink.getvalue())


def resume(source: str, archive: ar.Folder) -> CompressJob:
    """Takes up the plan of a killed job; should its process still live, it will notice that its place is taken.

    Args:
        source: The INPUT; it must be the killed job's.
        archive: Where the archive will be.

    Returns:
        The job as it was planned.

    Raises:
        InputError: if there is no such job, it is damaged, or it was for another input.
    """
    text = read_or_none(archive, ar.PLAN_FILE)
    if text is None or is_claim(text):
        raise InputError(f"{archive.path}: has no job to resume; run the command without --resume")
    if not is_of_this_version(text):
        remedy = "finish it with that one, or start anew with --overwrite"
        raise InputError(f"{archive.path}: its job was planned by another version of tsae; {remedy}")
    try:
        job = CompressJob.from_json(text, archive)
        if is_committed(job):
            return _take_over(job, text, source)
        check_listing(job)
        if ar.digest(archive.read(job.model_place)) != job.model_sha256:
            raise ValueError("its model is not the planned one")
        if job.is_update:
            ar.Manifest.from_json(archive.read(job.file(BASE_FILE)), BASE_FILE)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, pa.ArrowException, TsaeError) as error:
        raise InputError(f"{archive.path}: its job is damaged; start anew with --overwrite") from error
    return _take_over(job, text, source)


def _take_over(job: CompressJob, before: bytes, source: str) -> CompressJob:
    if job.settings.source != paths.absolute(source):
        place, planned = job.archive.path, job.settings.source
        raise InputError(f"{place}: its job was for {planned}; name that, or start anew with --overwrite")
    job = dataclasses.replace(job, token=secrets.token_hex(8))
    _take_place(job, before)
    return job
