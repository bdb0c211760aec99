"""A compress job without end: what is new in the input is found again and again, compressed in batches, each committed soon.

It is made for engines that repeat a step, lose what they hand on, or start a whole job again, several of them at once if need
be. All that counts lies in the archive and in the job folder:

1. A batch has a number, which is that of its shard. It is found once: its listing, `batches/<number>.parquet` in the job
   folder, is put there by a compare-and-set before the number is handed on. Numbers are never given twice, as each new one is
   above those of the archive's shards, and of all listings and results in the job folder.
2. What is known, and so not found again: the archive's records and failures, and what listings name that still lie there.
   Listings are read before the archive is, so that a batch that is committed in between is in one of the two.
3. A batch is compressed as a planned task is: doing it again gives the same bytes under the same names, and leaves its result
   in `batches/<number>.json`.
4. A commit takes all batches that have a listing and a result, passes over numbers that the archive has, adds the others by a
   compare-and-set of the manifest, and then removes listings and results. Doing it again changes nothing.

What an engine leaves undone is made good by the looks: batches that are compressed and not committed from one look to the
next are committed there, and those that lie there too long are handed on again. What a process remembers only saves work.
No Beam, no networks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import posixpath
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import tsae
from tsae import archive as ar
from tsae.errors import BusyError, InputError
from tsae.inputs import Lookout
from tsae.jobs import compress, job_folder, task_results
from tsae.jobs.job_folder import BATCHES_FOLDER, CompressJob, batch_file
from tsae.jobs.plan import cut, listing_to_bytes
from tsae.jobs.task_results import TaskResult
from tsae.paths import ConflictError

PATIENCE_LOOKS, PATIENCE_S = 20, 60.0
"""A batch is handed on again if it is not committed after so many looks, and not before so much time."""

TRIES = 20
"""How often a commit is tried that meets others."""

LOOK_FILE = f"{BATCHES_FOLDER}/look.json"
"""Tells of the last look; and as it is always there, nobody removes the folder as empty while others write to it."""


_LOOKING, _COMMITTING = threading.RLock(), threading.RLock()
"""An engine may have several threads in one process."""


@dataclasses.dataclass
class _Finder:
    """What a process remembers of a run of a job; all of it can be lost.

    Attributes:
        lookout: Knows the input.
        files: Of the archive, whose keys the lookout knows.
        numbers: Of the archive's shards.
        batches: The keys of batches that were found and not committed, by number.
        handed_on_s: When these were handed on last.
        recent: Keys that the archive had at the last look, and not before.
        compressed: Batches that were ready to be committed then.
    """

    lookout: Lookout
    files: set[str] = dataclasses.field(default_factory=set)
    numbers: set[int] = dataclasses.field(default_factory=set)
    batches: dict[int, frozenset[str]] = dataclasses.field(default_factory=dict)
    handed_on_s: dict[int, float] = dataclasses.field(default_factory=dict)
    recent: set[str] = dataclasses.field(default_factory=set)
    compressed: set[int] = dataclasses.field(default_factory=set)


@functools.lru_cache(maxsize=1)
def _finder(archive: ar.Folder, token: str, source: str, watch_s: float) -> _Finder:
    return _Finder(Lookout(source, watch_s))


@functools.lru_cache(maxsize=1)
def _waste(archive: ar.Folder) -> ar.Waste:
    return ar.Waste(archive)


def find_batches(due_s: float, job: CompressJob) -> list[int]:
    """Looks at the input, and puts what is new there in batches.

    Args:
        due_s: When this look was to be, by the clock. One that is so late that the next one is due is left out.
        job: The job.

    Returns:
        Numbers of batches that are to be compressed: new ones, and older ones that may have got lost.

    Raises:
        TsaeError: if the input or the archive cannot be read, or another job has taken this one's place.
    """
    if time.time() - due_s > (job.watch_s or 0.0):
        return []
    job_folder.check_owner(job)
    ar.write(job.archive, job.file(LOOK_FILE), json.dumps({"due_s": due_s}).encode())
    with _LOOKING:
        try:
            return _look(job)
        except BaseException:
            _finder.cache_clear()  # it may not know of all that was put in batches
            raise


def _look(job: CompressJob) -> list[int]:
    watch_s = job.watch_s or 0.0
    finder = _finder(job.archive, job.token, job.settings.source, watch_s)
    waiting, done = _numbers(job)
    if waiting & (finder.compressed & done | finder.numbers):
        commit_batches(job)
        waiting, done = _numbers(job)
    finder.compressed = waiting & done
    if not _learn(waiting, finder, job):
        _finder.cache_clear()
        return _look(job)
    sighting = finder.lookout.look(sys.maxsize)
    if sighting is not None:
        tasks = cut(np.flatnonzero(sighting.is_new))
        first = 1 + max(finder.numbers | waiting | done, default=-1)
        for number, task in enumerate(tasks, first):
            if not _put(number, listing_to_bytes([task], sighting.listing), job):
                _finder.cache_clear()  # somebody else looks too: what is left, the next look finds
                break
            waiting.add(number)
            finder.batches[number] = frozenset(item.key for item in sighting.listing.items(task.rows))
        finder.lookout.done(sighting, ())
    return _hand_on(sorted(waiting), finder, max(PATIENCE_S, PATIENCE_LOOKS * watch_s))


def last_look(job: CompressJob) -> bytes:
    """What differs from look to look, for who watches from elsewhere; nothing before the first.

    Raises:
        InputError: if that cannot be told.
    """
    return job_folder.read_or_none(job.archive, job.file(LOOK_FILE)) or b""


def _numbers(job: CompressJob) -> tuple[set[int], set[int]]:
    """Numbers of batches that have a listing, and of those that have a result."""
    try:
        names = ar.Folder(f"{job.archive.path}/{job.file(BATCHES_FOLDER)}").sizes_bytes()
    except OSError as error:
        raise InputError(f"{job.archive.path}: cannot be read ({error.strerror or error}); give the command again") from error
    parts = [posixpath.splitext(name) for name in names]
    of = {
        ending: {int(stem) for stem, found in parts if stem.isdecimal() and found == ending} for ending in (".parquet", ".json")
    }
    return of[".parquet"], of[".json"]


def waiting_batches(job: CompressJob) -> list[int]:
    """Numbers of the batches that are found and not committed.

    Raises:
        InputError: if they cannot be told.
    """
    return sorted(_numbers(job)[0])


def _keys_of(number: int, job: CompressJob) -> frozenset[str]:
    """Of a batch; none if it has been committed in the meantime."""
    try:
        with job.archive.open(batch_file(number, job)) as file:
            return frozenset(pq.ParquetFile(file).read(["key"], use_threads=False).column("key").to_pylist())
    except FileNotFoundError:
        return frozenset()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{job.archive.path}: batch {number} cannot be read ({error}); give the command again") from error


@contextlib.contextmanager
def _opened(job: CompressJob) -> Iterator[ar.ArchiveFiles]:
    """The state that the archive has now; on a local disk its files stay within the block."""
    text, hold = ar.hold_manifest(job.archive)
    try:
        yield ar.ArchiveFiles(job.archive.path, text)
    finally:
        if hold is not None:
            hold.release()


def _learn(waiting: set[int], finder: _Finder, job: CompressJob) -> bool:
    """Has the lookout know what is in batches and in the archive; it must have been read in this order.

    Returns:
        Whether batches that are gone are in the archive, as they must be if nobody but this process has found any.
    """
    for number in waiting - finder.batches.keys():
        finder.batches[number] = _keys_of(number, job)
        finder.lookout.know(finder.batches[number])
    learned = set[str]()
    with _opened(job) as files:
        for index, shards in enumerate(files.manifest.lists):
            if shards.file not in finder.files:
                for entry in files.entries_of(index):
                    if entry.file not in finder.files:
                        learned.update(files.open_entry(entry).keys())
                        finder.files.add(entry.file)
                        finder.numbers.add(ar.file_number(entry.file))
        if not {entry.file for entry in files.manifest.failures} <= finder.files:
            learned.update(failure.path for failure in files.failures())
        finder.files |= {entry.file for entry in (*files.manifest.lists, *files.manifest.failures)}
    finder.lookout.know(learned)
    gone = [finder.batches.pop(number) for number in finder.batches.keys() - waiting]
    recent, finder.recent = finder.recent | learned, learned  # a commit may come between the two readings
    return all(keys <= recent for keys in gone)


def _put(number: int, listing: bytes, job: CompressJob) -> bool:
    """Makes a batch; False if there is one of this number."""
    try:
        job.archive.replace(batch_file(number, job), listing, expected=None)
    except ConflictError:
        return False
    except OSError as error:
        raise InputError(f"{job.archive.path}: cannot be written ({error.strerror or error}); make room") from error
    return True


def _hand_on(numbers: Sequence[int], finder: _Finder, patience_s: float) -> list[int]:
    """Those of some batches that this process has not handed on, or long ago."""
    now_s = time.monotonic()
    chosen = [number for number in numbers if now_s - finder.handed_on_s.get(number, float("-inf")) >= patience_s]
    finder.handed_on_s = {number: finder.handed_on_s[number] for number in numbers if number not in chosen}
    finder.handed_on_s |= dict.fromkeys(chosen, now_s)
    return chosen


def read_batch(number: int, job: CompressJob) -> compress.TaskImages | None:
    """Reads the images of a batch, also if an earlier try of it was finished: that may not have been handed on.

    Returns:
        None if it is committed.

    Raises:
        InputError: if another job has taken this one's place.
    """
    try:
        return compress.read_images(number, job)
    except InputError:
        if job_folder.is_owner(job) and not _is_waiting(number, job):
            return None
        raise


def _is_waiting(number: int, job: CompressJob) -> bool:
    try:
        return job.archive.exists(batch_file(number, job))
    except OSError:
        return True


def compress_batch(number: int, job: CompressJob) -> TaskResult | None:
    """All steps of one batch; None if it is committed."""
    images = read_batch(number, job)
    return None if images is None else compress.write_shard(compress.encode_images(images, job), job)


def commit_batches(job: CompressJob) -> ar.Manifest:
    """Adds all batches that are compressed to the archive, and forgets them.

    Returns:
        The archive's manifest.

    Raises:
        TsaeError: if the archive cannot be read or written, or another job has taken this one's place.
    """
    with _COMMITTING:
        with job_folder.turn(job):
            waiting = waiting_batches(job)
            results = [task_results.finished_task(number, job) for number in waiting]
            ready = [result for result in results if result is not None]
            manifest, there = _commit(ready, job)
            late = there.intersection(waiting)
            _forget({*late, *(result.task for result in ready)}, ready, manifest, job)
        _waste(job.archive).remove()
    return manifest


def _commit(ready: Sequence[TaskResult], job: CompressJob) -> tuple[ar.Manifest, set[int]]:
    """The new manifest, and the numbers of the shards that were there before."""
    for _ in range(TRIES):
        text = ar.read_manifest_text(job.archive)
        files = ar.ArchiveFiles(job.archive.path, text)
        there = set[int]().union(*(_numbers_of(job.archive, entry) for entry in files.manifest.lists))
        manifest = _with_batches(files, [result for result in ready if result.task not in there], job)
        if manifest == files.manifest:
            return manifest, there
        job_folder.check_owner(job)  # last, as in a store another job could commit from here on
        try:
            ar.commit(job.archive, manifest, text)
        except BusyError:
            continue  # another step of this job was faster
        _waste(job.archive).add(text, files.manifest.files - manifest.files)
        return manifest, there
    raise InputError(f"{job.archive.path}: other commands commit there all the time; give the command again")


@functools.lru_cache(maxsize=1024)
def _numbers_of(archive: ar.Folder, entry: ar.ListEntry) -> frozenset[int]:
    """Numbers of the shards in a list; all lists but the last one stay as they are."""
    shards = ar.read_list(ar.read_digested(archive, entry.file, entry.sha256, entry.bytes), f"{archive.path}/{entry.file}")
    return frozenset(ar.file_number(shard.file) for shard in shards)


def _with_batches(files: ar.ArchiveFiles, new: Sequence[TaskResult], job: CompressJob) -> ar.Manifest:
    """The manifest with more batches."""
    shards = [result.shard for result in new if result.shard]
    old = files.manifest
    failures = _with_failures(files, [result.failures for result in new if result.failures])
    if not shards and failures == old.failures:
        return old
    lists = ar.write_lists(job.archive, files, {}, shards)
    failed = sum(entry.rows for entry in failures)
    counts = ar.recount(old.counts, [], shards, failed, job.skipped) or ar.count(job.archive, lists, failed, job.skipped)
    created_by = f"tsae {tsae.__version__}"
    return dataclasses.replace(old, lists=lists, failures=failures, counts=counts, created_by=created_by)


def _with_failures(files: ar.ArchiveFiles, parts: Sequence[ar.FileEntry]) -> tuple[ar.FileEntry, ...]:
    """The failures table with more of them; those that it has already change nothing."""
    if not parts:
        return files.manifest.failures
    by_path = {failure.path: failure for failure in files.failures()}
    for part in parts:
        data = ar.read_digested(files.folder, part.file, part.sha256, part.bytes)
        by_path |= {failure.path: failure for failure in ar.failures_from_bytes(data, part.file)}
    data = ar.failures_to_bytes(by_path.values())
    return (ar.write_digested(files.folder, "failures", 0, data, len(by_path)),)


def _forget(numbers: Iterable[int], ready: Sequence[TaskResult], manifest: ar.Manifest, job: CompressJob) -> None:
    """Removes the listings of committed batches, then the rest; results without a shard stay, to keep their numbers."""
    parts = {result.failures.file for result in ready if result.failures} - manifest.files
    done = [task_results.done_file(result.task, job) for result in ready if result.shard]
    try:
        job.archive.remove([batch_file(number, job) for number in numbers])
        job.archive.remove([*sorted(parts), *done])
    except OSError as error:
        raise InputError(
            f"{job.archive.path}: cannot be written ({error.strerror or error}); give the command again"
        ) from error


def end(job: CompressJob) -> ar.Manifest:
    """Commits what is compressed, and leaves the archive to others: the job is over.

    Raises:
        TsaeError: as `commit_batches`.
    """
    commit_batches(job)
    return compress.finish(job)
