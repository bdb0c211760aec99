"""What the tasks of a compress job have done, kept in its folder so that a job that was killed goes on. See `job_folder`."""

from __future__ import annotations

import base64
import dataclasses
import json
import posixpath
from collections.abc import Collection, Mapping, Sequence

from tsae import archive as ar
from tsae.errors import InputError
from tsae.jobs.encoding import NONE_KEPT, Kept
from tsae.jobs.job_folder import BATCHES_FOLDER, DONE_FOLDER, CompressJob, at_once, entry_of

BINARY = ("footer", "crc32s")
"""Fields of a shard's entry that JSON cannot hold as they are."""


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What one task adds to the archive; None where there is nothing to name.

    Attributes:
        task: Its number.
        shard: Its images.
        failures: The others.
        images: How many are the task's own; a shard that is replaced has others as well.
        source_bytes: Of the files of these.
        stages_s: Seconds that its stages took, which differ from run to run.
        kept: What it took to keep images readable.
    """

    task: int
    shard: ar.ShardEntry | None
    failures: ar.FileEntry | None
    images: int = 0
    source_bytes: int = 0
    stages_s: dict[str, float] = dataclasses.field(default_factory=dict, compare=False)
    kept: Kept = NONE_KEPT

    def counts(self) -> dict[str, int]:
        """What was done, by names of metrics."""
        return {} if self.shard is None else {"images_written": self.images, "bytes_written": self.shard.bytes}

    def to_json(self) -> bytes:
        """What `from_json` reads."""
        fields = dataclasses.asdict(self)
        if self.shard is not None:
            for name in BINARY:
                fields["shard"][name] = base64.b64encode(fields["shard"][name]).decode()
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, text: bytes) -> TaskResult:
        """Reads the JSON object of the fields that `keep_result` leaves in the job folder."""
        fields = json.loads(text)
        shard, failures, kept = fields.pop("shard"), fields.pop("failures"), Kept(*fields.pop("kept", ()))
        fields["stages_s"] = {stage: float(seconds) for stage, seconds in fields.get("stages_s", {}).items()}
        if shard is not None:
            shard |= {name: base64.b64decode(shard[name]) for name in BINARY}
        return cls(**fields, kept=kept, shard=shard and ar.ShardEntry(**shard), failures=entry_of(failures))


def write_failures(archive: ar.Folder, number: int, failures: Sequence[ar.Failure]) -> ar.FileEntry | None:
    """Writes a part of the failures table; no failures make no file.

    Raises:
        InputError: if it cannot be written.
    """
    if not failures:
        return None
    return ar.write_digested(archive, "failures", number, ar.failures_to_bytes(failures), len(failures))


def keep_result(result: TaskResult, job: CompressJob) -> None:
    """Notes in the job folder that a task is finished.

    Raises:
        InputError: if it cannot be written.
    """
    ar.write(job.archive, done_file(result.task, job), result.to_json())


def finished_tasks(job: CompressJob, at_hand: Collection[int] = ()) -> dict[int, TaskResult]:
    """Results that the job's earlier runs kept, by task; only those that are readable and whose files are there.

    Args:
        job: The job.
        at_hand: Tasks whose results the caller has: they are left out.

    Raises:
        InputError: if what is there cannot be listed.
    """
    if len(at_hand) == job.tasks:
        return {}
    known = {done_file(task, job) for task in at_hand}
    try:
        kept = [job.file(f"{DONE_FOLDER}/{name}") for name in _done_folder(job).sizes_bytes()]
        names = [name for name in kept if name not in known]
        sizes_bytes = job.archive.sizes_bytes() if names else {}
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{job.archive.path}: cannot be read ({reason}); finish it with --resume") from error
    results = ar.map_in_threads(lambda name: _kept_result(name, job), names, at_once(job))
    return {result.task: result for result in results if result is not None and _is_there(result, sizes_bytes)}


def _done_folder(job: CompressJob) -> ar.Folder:
    return ar.Folder(f"{job.archive.path}/{job.file(DONE_FOLDER)}")


def is_finished(task: int, job: CompressJob) -> bool:
    """Whether an earlier try of a task kept a result whose files are there, by the rules of `finished_tasks`."""
    return finished_task(task, job) is not None


def finished_task(task: int, job: CompressJob) -> TaskResult | None:
    """What an earlier try of a task kept, by the rules of `finished_tasks`; None if there is nothing such."""
    result = _kept_result(done_file(task, job), job)
    try:
        is_whole = result is not None and _is_there(result, {n: job.archive.stat(n).size_bytes for n in _files(result)})
    except OSError:
        return None  # to do it again is never wrong
    return result if is_whole else None


def done_file(task: int, job: CompressJob) -> str:
    """Where the result of a task is kept."""
    return job.file(f"{DONE_FOLDER if job.watch_s is None else BATCHES_FOLDER}/{task:06d}.json")


def _kept_result(name: str, job: CompressJob) -> TaskResult | None:
    try:
        return TaskResult.from_json(job.archive.read(name))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _files(result: TaskResult) -> list[str]:
    provenance = [result.shard.provenance] if result.shard and result.shard.provenance else []
    return [entry.file for entry in (result.shard, result.failures) if entry] + provenance


def _is_there(result: TaskResult, sizes_bytes: Mapping[str, int]) -> bool:
    entries = [entry for entry in (result.shard, result.failures) if entry]
    return sizes_bytes.keys() >= {*_files(result)} and all(sizes_bytes[entry.file] == entry.bytes for entry in entries)


def count_done(job: CompressJob, images: Mapping[int, int]) -> int:
    """Number of images in those of some tasks that say in the job folder that they are finished, wherever they ran.

    Args:
        job: The job.
        images: Of each task.

    Raises:
        OSError: if that cannot be told.
    """
    done = {posixpath.basename(done_file(task, job)): count for task, count in images.items()}
    return sum(done.get(name, 0) for name in _done_folder(job).sizes_bytes())
