"""The plan of a compress job, in the archive's `job` folder: what to do, in which shards, and what is done already.

It holds the settings, the model, and the sorted inputs as a Parquet file in which row group `i` lists the images of
shard `i`; a shard's task is thus one number, however large the job is. What a finished shard adds to the manifest is kept
there, too, so that a killed job can go on.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from tsae import archive as ar
from tsae import paths
from tsae.checkpoint import fingerprint
from tsae.errors import InputError
from tsae.inputs import Listing
from tsae.progress import SharedCount

SHARD_IMAGES = 4096
"""Most images of a shard; it bounds a worker's memory (12 MB of pixels) and the pieces of work that can be spread."""

PLAN_FILE = f"{ar.JOB_FOLDER}/plan.json"
"""Written last of the plan: without it there is nothing to resume."""

LISTING_FILE = f"{ar.JOB_FOLDER}/listing.parquet"
DONE_FOLDER = f"{ar.JOB_FOLDER}/done"
JOB_MODEL_FILE = f"{ar.JOB_FOLDER}/{ar.MODEL_FILE}"


@dataclasses.dataclass(frozen=True)
class CompressJob:
    """What all steps need to know; travels to the workers.

    Attributes:
        archive: Where the archive is written.
        token: Tells this job from any other; by it a job notices that another one has taken its place.
        source: The INPUT, absolute.
        root: Folder that keys are relative to.
        shards: Number of shards.
        model_sha256: Digest of the model file in the job folder.
        device: "cpu" or "cuda".
        skipped: Input files passed over because of their endings.
        unlisted: Failures of the listing itself, already written.
        progress: Where finished images are counted; None where nobody watches.
    """

    archive: ar.Folder
    token: str
    source: str
    root: str
    shards: int
    model_sha256: str
    device: str
    skipped: int
    unlisted: ar.FileEntry | None
    progress: SharedCount | None = None

    def to_json(self) -> str:
        """What `resume` needs to make the job again, the archive's place excepted."""
        fields = {**dataclasses.asdict(self), "unlisted": self.unlisted and dataclasses.asdict(self.unlisted)}
        return json.dumps({name: value for name, value in fields.items() if name not in ("archive", "progress")}, indent=1)

    @classmethod
    def from_json(cls, text: bytes, archive: ar.Folder) -> CompressJob:
        """Reads `to_json`'s text."""
        fields = json.loads(text)
        unlisted = fields.pop("unlisted")
        return cls(archive, **fields, unlisted=unlisted and ar.FileEntry(**unlisted))


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What one shard adds to the manifest; entries are None where there is nothing to name."""

    number: int
    shard: ar.ShardEntry | None
    failures: ar.FileEntry | None
    source_bytes: int

    @classmethod
    def from_json(cls, text: bytes) -> ShardResult:
        """Reads the JSON object of the fields that `keep_result` leaves in the job folder."""
        fields = json.loads(text)
        shard, failures = fields.pop("shard"), fields.pop("failures")
        return cls(**fields, shard=shard and ar.ShardEntry(**shard), failures=failures and ar.FileEntry(**failures))


def check_output(source: str, archive: str, overwrite: bool) -> None:
    """Refuses to write where something would be lost or read again.

    Args:
        source: The INPUT.
        archive: Where the archive is to be.
        overwrite: Whether an archive that is there may be replaced.

    Raises:
        InputError: if the archive's place is inside the input or around it, is a file, holds something else, or holds an
            archive that may not be replaced.
    """
    if not archive:
        raise InputError("ARCHIVE is empty; name a new or empty folder")
    source, place = paths.absolute(source), paths.absolute(archive)
    if paths.is_within(place, source) or paths.is_within(source, place):
        raise InputError(f"{archive}: lies inside the input {source} or around it; choose a folder apart from it")
    files, path = paths.filesystem(place)
    if files.exists(path) and not files.isdir(path):
        raise InputError(f"{archive}: is a file; name a new or empty folder for the archive")
    found = ar.Folder(place).sizes_bytes()
    others = [name for name in found if not ar.is_leftover(name)]
    kind = "an unfinished job" if PLAN_FILE in found else "an archive" if ar.MANIFEST_FILE in found else None
    if kind is None and others:
        raise InputError(f"{archive}: holds something else ({min(others)}); choose a new or empty folder")
    if kind is not None and not overwrite:
        finish = "finish it with --resume, " if kind == "an unfinished job" else ""
        raise InputError(f"{archive}: holds {kind} already; {finish}replace it with --overwrite, or choose another folder")


def count_shards(images: int) -> int:
    """As few shards as SHARD_IMAGES allows; it follows from the inputs alone, never from the workers."""
    return -(-images // SHARD_IMAGES)


def plan(source: str, listing: Listing, archive: ar.Folder, model_file: bytes, device: str) -> CompressJob:
    """Writes the job folder, with the inputs cut into `count_shards` shards as equal as can be.

    Args:
        source: The INPUT.
        listing: What it names.
        archive: Where the archive will be.
        model_file: The model's bytes.
        device: "cpu" or "cuda".

    Raises:
        InputError: if the job folder cannot be written.
    """
    shards, model_sha256 = count_shards(len(listing.keys)), fingerprint(model_file)
    try:
        ar.remove_job(archive)
    except OSError as error:
        raise InputError(f"{archive.path}: cannot be written ({error.strerror or error}); choose another place") from error
    ar.write(archive, JOB_MODEL_FILE, model_file)
    ar.write(archive, LISTING_FILE, _listing_to_bytes(listing))
    unlisted = write_failures(archive, shards, listing.failures)
    place, token = paths.absolute(source), secrets.token_hex(8)
    job = CompressJob(archive, token, place, listing.root, shards, model_sha256, device, listing.skipped, unlisted)
    ar.write(archive, PLAN_FILE, job.to_json().encode())
    return job


def _listing_to_bytes(listing: Listing) -> bytes:
    images = len(listing.keys)
    shards = count_shards(images)
    schema = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("label", pa.string())])
    sink, start = pa.BufferOutputStream(), 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for index in range(shards):
            rows = images // shards + (index < images % shards)
            keys = listing.keys[start : start + rows]
            labels = [listing.labels.get(key) for key in keys]
            writer.write_table(pa.table([keys, labels], schema=schema), row_group_size=rows)
            start += rows
    return bytes(sink.getvalue())


def write_failures(archive: ar.Folder, number: int, failures: list[ar.Failure]) -> ar.FileEntry | None:
    """Writes a part of the failures table; no failures make no file.

    Raises:
        InputError: if it cannot be written.
    """
    if not failures:
        return None
    data = ar.failures_to_bytes(failures)
    name, sha256 = ar.write_digested(archive, "failures", number, data)
    return ar.FileEntry(name, len(failures), len(data), sha256)


def resume(source: str, archive: ar.Folder) -> CompressJob:
    """Takes up the plan of a killed job.

    Args:
        source: The INPUT; it must be the killed job's.
        archive: Where the archive will be.

    Returns:
        The job as it was planned.

    Raises:
        InputError: if there is no such job, it is damaged, or it was for another input.
    """
    try:
        job = CompressJob.from_json(archive.read(PLAN_FILE), archive)
        count_images(job, range(job.shards))
        if fingerprint(archive.read(JOB_MODEL_FILE)) != job.model_sha256:
            raise ValueError("its model is not the planned one")
    except FileNotFoundError as error:
        if archive.exists(PLAN_FILE):
            raise InputError(f"{archive.path}: its job is damaged; start anew with --overwrite") from error
        raise InputError(f"{archive.path}: has no job to resume; run the command without --resume") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException) as error:
        raise InputError(f"{archive.path}: its job is damaged; start anew with --overwrite") from error
    if job.source != paths.absolute(source):
        raise InputError(f"{archive.path}: its job was for {job.source}; name that, or start anew with --overwrite")
    return job


def check_owner(job: CompressJob) -> None:
    """Refuses to go on where another job has taken the place of this one.

    Raises:
        InputError: if the plan in the archive is another one, or gone.
    """
    try:
        token = json.loads(job.archive.read(PLAN_FILE))["token"]
    except (OSError, ValueError, TypeError, KeyError):
        token = None
    if token != job.token:
        raise InputError(f"{job.archive.path}: another command has written here meanwhile; nothing more is done")


def count_images(job: CompressJob, shards: Iterable[int]) -> int:
    """Number of images listed for some of the shards of a job."""
    with job.archive.open(LISTING_FILE) as file:
        metadata = pq.ParquetFile(file).metadata
        return sum(metadata.row_group(shard).num_rows for shard in shards)


def read_listing(shard: int, job: CompressJob) -> tuple[list[str], list[str | None]]:
    """Keys and labels of the images of a shard."""
    with job.archive.open(LISTING_FILE) as file:
        table = pq.ParquetFile(file).read_row_group(shard)
    return table.column("key").to_pylist(), table.column("label").to_pylist()


def keep_result(result: ShardResult, job: CompressJob) -> None:
    """Notes in the job folder that a shard is finished.

    Raises:
        InputError: if it cannot be written.
    """
    ar.write(job.archive, f"{DONE_FOLDER}/{result.number:06d}.json", json.dumps(dataclasses.asdict(result)).encode())


def finished_shards(job: CompressJob) -> dict[int, ShardResult]:
    """Results that the job's earlier runs kept, by shard; only those that are readable and whose files are there."""
    sizes_bytes, finished = job.archive.sizes_bytes(), {}
    for name in sizes_bytes:
        if name.startswith(f"{DONE_FOLDER}/"):
            try:
                result = ShardResult.from_json(job.archive.read(name))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            entries = [entry for entry in (result.shard, result.failures) if entry]
            if all(sizes_bytes.get(entry.file) == entry.bytes for entry in entries):
                finished[result.number] = result
    return finished
