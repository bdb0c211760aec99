"""A compress job and its folder in the archive: what to do, whose turn it is, and what is done already.

```
job/plan.json                   settings, and whose turn it is: only one of two commands at once can put it there
job/<name>/base.json            the manifest that was there when the job was planned
job/<name>/model.safetensors    the model
job/<name>/classifier.safetensors  that is asked which images to store better; not there if it is the one that comes with tsae
job/<name>/listing.parquet      the tasks: how many images each has, and which shard it replaces
job/<name>/listing/<n>.parquet  the inputs: each row group lists the images of a task, so that a task is one number
job/<name>/failures.parquet     failures that are known already
job/<name>/committed.json       the manifest that the job committed, where another process is to finish it
job/<name>/done/<task>.json     what a finished task adds to the archive, so that a killed job can go on
job/<name>/batches/             in place of listing and `done`, where tasks come one after the other; see `tsae.jobs.stream`
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tsae import archive as ar
from tsae import paths
from tsae.errors import InputError, TsaeError
from tsae.inputs import Item, items_of, open_table
from tsae.jobs.run_report import Launch
from tsae.progress import SharedCount

MODEL_FILE = ar.MODEL_FILE
CLASSIFIER_FILE = "classifier.safetensors"
LISTING_FILE = "listing.parquet"
BASE_FILE = "base.json"
COMMITTED_FILE = "committed.json"
FAILURES_FILE = "failures.parquet"
DONE_FOLDER = "done"
BATCHES_FOLDER = "batches"
LISTING_FOLDER = "listing"
"""Names below `job/<name>`."""

PLAN_VERSION = 2
"""Of the job folder. A job is finished by the version that planned it."""

PART_TASKS = 64
"""Tasks of a file of the listing: a worker parses what the file says of all of them to read the images of one."""

LISTING_BLOCK_BYTES = 2**17
"""Of such a file, so much is read at once: its end, and then what it lists of a task."""

TASK_SCHEMA = pa.schema(
    [
        pa.field("images", pa.uint32(), nullable=False),
        pa.field("replaces", pa.uint32()),
        pa.field("file_bytes", pa.uint64(), nullable=False),
    ]
)
"""Of `LISTING_FILE`: a row a task, with the size of the file that lists its images."""

SMALL_FILES = 16
"""So many of a job are read or written at once in a remote store, where each takes a tenth of a second."""


@dataclasses.dataclass(frozen=True)
class CompressJob:
    """What all steps need to know; travels to the workers.

    Attributes:
        archive: Where the archive is written.
        name: Of its folder in the job folder.
        token: Tells this run from any other; by it a job notices that another one has taken its place.
        settings: What later runs must have in common with it.
        tasks: Their number.
        first_number: Number of the first new shard.
        is_update: Whether the new state adds to the old one; else it takes its place.
        base_sha256: Digest of the manifest that was there; None if there was none.
        model_sha256: Digest of the model file in the job folder.
        model_file: Where the model will lie.
        device: "auto", "cpu" or "cuda"; each process finds out for itself what it has.
        skipped: Input files passed over because of their endings.
        known_failures: Failures of the listing, and older ones that stay: their file in the job folder.
        progress: Where finished images are counted; None where nobody watches.
        launch: How this run began; None where nobody asks.
        watch_s: How often the input is looked at for new tasks, without end, whose numbers are those of their shards; None for
            a job whose tasks are planned.
    """

    archive: ar.Folder
    name: str
    token: str
    settings: ar.Settings
    tasks: int
    first_number: int
    is_update: bool
    base_sha256: str | None
    model_sha256: str
    model_file: str
    device: str
    skipped: int
    known_failures: ar.FileEntry | None
    progress: SharedCount | None = None
    launch: Launch | None = None
    watch_s: float | None = None

    @property
    def replaces(self) -> tuple[int | None, ...]:
        """By task, the shard of the old state that it replaces; None makes a new shard.

        Not a field: the job travels with each task, and its plan is read before each file is written.

        Raises:
            InputError: if the listing is gone, because another job has taken this one's place.
        """
        return _replaced_shards(self) if self.is_update else (None,) * self.tasks

    @property
    def model_place(self) -> str:
        """Where the model is while the job runs: an archive that is brought up to date has it already."""
        return self.model_file if self.is_update else self.file(MODEL_FILE)

    def replaced(self, task: int) -> int | None:
        """The shard of the old state that a task replaces; None if it makes a new one."""
        return self.replaces[task] if self.watch_s is None else None

    def file(self, name: str) -> str:
        """Where a file of the job lies, relative to the archive."""
        return f"{ar.JOB_FOLDER}/{self.name}/{name}"

    def to_json(self) -> bytes:
        """What `resume` needs to make the job again, the archive's place excepted."""
        fields = dataclasses.asdict(self)
        kept = {name: value for name, value in fields.items() if name not in ("archive", "progress", "launch")}
        return json.dumps({"plan_version": PLAN_VERSION, **kept}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, archive: ar.Folder) -> CompressJob:
        """Reads `to_json`'s text."""
        fields = json.loads(text)
        del fields["plan_version"]
        settings, failures = ar.Settings.from_json(fields.pop("settings")), fields.pop("known_failures")
        return cls(archive, settings=settings, known_failures=entry_of(failures), **fields)


def is_of_this_version(plan: bytes) -> bool:
    """Whether a plan was written by a version whose job folder is this one's; a damaged plan may be any."""
    try:
        fields = json.loads(plan)
    except ValueError:
        return True
    return not isinstance(fields, dict) or fields.get("plan_version") == PLAN_VERSION


def entry_of(fields: dict[str, Any] | None) -> ar.FileEntry | None:
    """A file's entry from its JSON object, if there is one."""
    return ar.FileEntry(**fields) if fields else None


def read_or_none(archive: ar.Folder, name: str) -> bytes | None:
    """A file of the archive; None if it is not there.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return archive.read(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive.path}/{name}: cannot be read ({reason}); restore it or choose another place") from error


def old_manifest(archive: ar.Folder, base: bytes | None) -> ar.Manifest | None:
    """The manifest that was there; None where there was none, or a damaged one that is to be replaced."""
    try:
        return ar.Manifest.from_json(base, archive.path) if base is not None else None
    except TsaeError:
        return None


def base_text(job: CompressJob) -> bytes | None:
    """The manifest that was there when the job was planned; None if there was none.

    Raises:
        InputError: if it cannot be read.
    """
    return read_or_none(job.archive, job.file(BASE_FILE))


def write_listing(job: CompressJob, tables: Sequence[Callable[[], pa.Table]], replaces: Sequence[int | None]) -> None:
    """Writes what the tasks of a job are.

    Args:
        job: The job.
        tables: By task, what makes the table of its images.
        replaces: By task.

    Raises:
        InputError: if it cannot be written.
    """
    parts = [(start, tables[start : start + PART_TASKS]) for start in range(0, len(tables), PART_TASKS)]
    rows = [row for part in ar.map_in_threads(lambda part: _write_part(job, *part), parts, at_once(job)) for row in part]
    columns = [[images for images, _ in rows], list(replaces), [size for _, size in rows]]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=TASK_SCHEMA), sink, compression="zstd")
    ar.write(job.archive, job.file(LISTING_FILE), bytes(sink.getvalue()))


def _write_part(job: CompressJob, first_task: int, tables: Sequence[Callable[[], pa.Table]]) -> list[tuple[int, int]]:
    """Writes a file of the listing, a table at a time; gives the rows of each, and the size of the file."""
    sink, rows = pa.BufferOutputStream(), []
    first = tables[0]()
    with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], (make() for make in tables[1:])):
            writer.write_table(table, row_group_size=len(table))
            rows.append(len(table))
    data = bytes(sink.getvalue())
    ar.write(job.archive, _part_file(first_task, job), data)
    return [(count, len(data)) for count in rows]


def _part_file(task: int, job: CompressJob) -> str:
    """The file of the listing that has a task."""
    return job.file(f"{LISTING_FOLDER}/{task // PART_TASKS:06d}.parquet")


def _read_tasks(job: CompressJob) -> pa.Table:
    """The rows of the tasks, of `TASK_SCHEMA`."""
    try:
        table = pq.read_table(pa.BufferReader(job.archive.read(job.file(LISTING_FILE))), use_threads=False)
    except OSError as error:
        check_owner(job)
        raise InputError(f"{job.archive.path}: the job's listing cannot be read ({error}); finish it with --resume") from error
    if table.schema != TASK_SCHEMA or len(table) != job.tasks:
        raise ValueError(f"{LISTING_FILE} is not the planned one")
    return table


def _replaced_shards(job: CompressJob) -> tuple[int | None, ...]:
    return _read_replaced(dataclasses.replace(job, progress=None, launch=None))


@functools.lru_cache(maxsize=1)
def _read_replaced(job: CompressJob) -> tuple[int | None, ...]:
    """Read once in each process: no other job will ever have this one's name and token."""
    return tuple(_read_tasks(job).column("replaces").to_pylist())


def count_images(job: CompressJob, tasks: Iterable[int]) -> dict[int, int]:
    """Number of images listed for each of some tasks of a job.

    Raises:
        InputError: if the listing is gone, because another job has taken this one's place.
        ValueError: if it is damaged.
    """
    images = _read_tasks(job).column("images").to_pylist()
    return {task: images[task] for task in tasks}


def check_listing(job: CompressJob) -> None:
    """Refuses a job of which files of the listing are missing or cut short.

    Raises:
        OSError: if that cannot be told.
        ValueError: if so.
    """
    sizes_bytes = _read_tasks(job).column("file_bytes").to_pylist()
    folder = ar.Folder(f"{job.archive.path}/{job.file(LISTING_FOLDER)}")
    there = {job.file(f"{LISTING_FOLDER}/{name}"): size for name, size in folder.sizes_bytes().items()}
    for task in range(0, job.tasks, PART_TASKS):
        if there.get(_part_file(task, job)) != sizes_bytes[task]:
            raise ValueError(f"{_part_file(task, job)} is not as it was written")


def read_listing(task: int, job: CompressJob) -> list[Item]:
    """The images of a task, and where each is found.

    Raises:
        InputError: if the listing is gone, because another job has taken this one's place.
    """
    check_owner(job)
    try:
        is_planned = job.watch_s is None
        name, group = (_part_file(task, job), task % PART_TASKS) if is_planned else (batch_file(task, job), 0)
        with paths.open_file(paths.join(paths.absolute(job.archive.path), name)) as file:
            table = open_table(file, LISTING_BLOCK_BYTES).read_row_group(group, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{job.archive.path}: the job's listing cannot be read ({error}); finish it with --resume") from error
    return items_of(table)


def batch_file(task: int, job: CompressJob) -> str:
    """Where the images of a task are listed that was found by a job without end."""
    return job.file(f"{BATCHES_FOLDER}/{task:06d}.parquet")


def at_once(job: CompressJob) -> int:
    """How many small files of a job are read or written at once."""
    return SMALL_FILES if paths.is_url(job.archive.path) else 1


@contextlib.contextmanager
def turn(job: CompressJob) -> Iterator[None]:
    """While the block runs, no other job can take this one's place; on a remote store that is only checked before.

    Raises:
        InputError: if another job has taken it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(job.archive.locked(ar.PLAN_FILE))
        except OSError as error:
            check_owner(job)
            raise InputError(f"{job.archive.path}: cannot be locked ({error}); finish it with --resume") from error
        check_owner(job)
        yield


def check_owner(job: CompressJob) -> None:
    """Refuses to go on where another job has taken the place of this one.

    Raises:
        InputError: if the plan in the archive is another one, or gone.
    """
    if not is_owner(job):
        raise InputError(f"{job.archive.path}: another command has written here meanwhile; nothing more is done")


def is_owner(job: CompressJob) -> bool:
    """Whether the plan in the archive is this job's.

    Raises:
        InputError: if that cannot be told.
    """
    try:
        return bool(json.loads(job.archive.read(ar.PLAN_FILE))["token"] == job.token)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{job.archive.path}: cannot be read ({reason}); finish it with --resume") from error


def note_commit(manifest: ar.Manifest, job: CompressJob) -> None:
    """Notes for `check_committed` that a job has committed.

    Raises:
        InputError: if it cannot be written.
    """
    ar.write(job.archive, job.file(COMMITTED_FILE), manifest.to_json())


def check_committed(job: CompressJob) -> None:
    """Refuses to go on where a job was to be committed elsewhere and was not: an engine may end without its last step.

    Raises:
        InputError: if what the archive holds is not what the job has noted.
    """
    noted = read_or_none(job.archive, job.file(COMMITTED_FILE))
    if noted is None or read_or_none(job.archive, ar.MANIFEST_FILE) != noted:
        raise InputError(f"{job.archive.path}: the engine ended without committing; finish it with --resume")


def is_committed(job: CompressJob) -> bool:
    """Whether the state of the archive is the job's, of which only files are left that are to be removed.

    Raises:
        OSError: if that cannot be told.
    """
    try:
        is_base = ar.digest(job.archive.read(ar.MANIFEST_FILE)) == job.base_sha256
    except FileNotFoundError:
        return False
    return not is_base and not job.archive.exists(job.file(LISTING_FILE))


def forget(job: CompressJob) -> None:
    """Removes what was written of a plan that did not come about, as far as that is possible."""
    with contextlib.suppress(OSError):
        parts = [_part_file(task, job) for task in range(0, job.tasks, PART_TASKS)]
        job.archive.remove([*map(job.file, (MODEL_FILE, CLASSIFIER_FILE, LISTING_FILE, BASE_FILE, FAILURES_FILE)), *parts])


def give_up(job: CompressJob) -> None:
    """Makes a job that cannot be committed any more one that nobody can resume, as far as that is possible."""
    with contextlib.suppress(OSError):
        job.archive.remove([ar.PLAN_FILE])
    forget(job)
