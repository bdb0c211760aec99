"""The steps of compressing: plan, then per shard read, encode and write, then commit. Owns their order of work, no format.

A plan is written to the archive's `job` folder: its settings, the model, and the sorted inputs as a Parquet file in which
row group `i` lists the images of shard `i`. A shard's task is thus one number, however large the job is. What a finished
shard adds to the manifest is kept there, too, so that a killed job can go on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import tsae
from tsae import archive as ar
from tsae import paths
from tsae.checkpoint import fingerprint
from tsae.codec import Codec
from tsae.errors import ImageError, InputError
from tsae.images import decode_image, resize
from tsae.inputs import Listing, read_input
from tsae.progress import SharedCount

SHARD_IMAGES = 4096
"""Most images of a shard; it bounds a worker's memory (12 MB of pixels) and the pieces of work that can be spread."""

CHUNK_IMAGES = 256
"""Images encoded between two signs of progress."""

REMOTE_READERS = 16
"""Threads that fetch files of one shard from a remote store, where waiting dominates."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class ShardImages:
    """The images of one shard, resized, and what could not be read.

    Attributes:
        shard: Its number.
        keys: Of the N images that came through, sorted.
        labels: None where an image has none.
        sizes_px: Original width and height, uint32 `[N, 2]`.
        images: uint8 `[N, 32, 32, 3]`.
        source_bytes: Size of their files.
        failures: The others.
    """

    shard: int
    keys: list[str]
    labels: list[str | None]
    sizes_px: NDArray[np.uint32]
    images: NDArray[np.uint8]
    source_bytes: int
    failures: list[ar.Failure]


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedShard:
    """The records of one shard, still to be written."""

    shard: int
    records: ar.Records
    source_bytes: int
    failures: list[ar.Failure]


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What one shard adds to the manifest; entries are None where there is nothing to name."""

    number: int
    shard: ar.ShardEntry | None
    failures: ar.FileEntry | None
    source_bytes: int

    @classmethod
    def from_json(cls, text: bytes) -> ShardResult:
        """Reads the JSON object of the fields that `write_shard` leaves in the job folder."""
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
    source, place = paths.absolute(source), paths.absolute(archive)
    if paths.is_within(place, source) or paths.is_within(source, place):
        raise InputError(f"{archive}: lies inside the input {source} or around it; choose a folder apart from it")
    files, path = paths.filesystem(place)
    if files.exists(path) and not files.isdir(path):
        raise InputError(f"{archive}: is a file; name a new or empty folder for the archive")
    found = ar.Folder(place).sizes_bytes()
    others = [name for name in found if not name.startswith((f"{ar.JOB_FOLDER}/", "shards/", "failures/"))]
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
    archive.remove(ar.JOB_FOLDER)
    shards, model_sha256 = count_shards(len(listing.keys)), fingerprint(model_file)
    ar.write(archive, JOB_MODEL_FILE, model_file)
    ar.write(archive, LISTING_FILE, _listing_to_bytes(listing))
    unlisted = _write_failures(archive, shards, listing.failures)
    job = CompressJob(archive, paths.absolute(source), listing.root, shards, model_sha256, device, listing.skipped, unlisted)
    ar.write(archive, PLAN_FILE, job.to_json().encode())
    return job


def resume(source: str, archive: ar.Folder) -> CompressJob:
    """Takes up the plan of a killed job.

    Args:
        source: The INPUT; it must be the killed job's.
        archive: Where the archive will be.

    Returns:
        The job as it was planned.

    Raises:
        InputError: if there is no such job, or it was for another input.
    """
    try:
        job = CompressJob.from_json(archive.read(PLAN_FILE), archive)
    except FileNotFoundError as error:
        raise InputError(f"{archive.path}: has no job to resume; run the command without --resume") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{archive.path}/{PLAN_FILE}: damaged; start anew with --overwrite") from error
    if job.source != paths.absolute(source):
        raise InputError(f"{archive.path}: its job was for {job.source}; name that, or start anew with --overwrite")
    return job


def count_images(job: CompressJob, shards: Iterable[int]) -> int:
    """Number of images listed for some of the shards of a job."""
    with job.archive.open(LISTING_FILE) as file:
        metadata = pq.ParquetFile(file).metadata
        return sum(metadata.row_group(shard).num_rows for shard in shards)


def finished_shards(job: CompressJob) -> dict[int, ShardResult]:
    """Results that the job's earlier runs left, by shard; only those whose files are still there."""
    sizes_bytes, finished = job.archive.sizes_bytes(), {}
    for name in sizes_bytes:
        if name.startswith(f"{DONE_FOLDER}/"):
            result = ShardResult.from_json(job.archive.read(name))
            entries = [entry for entry in (result.shard, result.failures) if entry]
            if all(sizes_bytes.get(entry.file) == entry.bytes for entry in entries):
                finished[result.number] = result
    return finished


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


def read_images(shard: int, job: CompressJob) -> ShardImages:
    """Reads, decodes and resizes the images of a shard.

    Args:
        shard: Its number in the plan.
        job: The job.

    Returns:
        The images that came through, and the failures.
    """
    with job.archive.open(LISTING_FILE) as file:
        table = pq.ParquetFile(file).read_row_group(shard)
    keys, labels = table.column("key").to_pylist(), table.column("label").to_pylist()
    outcomes = _map_files(functools.partial(_read_image, job.root), keys, job.root)
    rows = [(key, label, *o) for key, label, o in zip(keys, labels, outcomes, strict=True) if not isinstance(o, ar.Failure)]
    return ShardImages(
        shard,
        [row[0] for row in rows],
        [row[1] for row in rows],
        np.array([row[2] for row in rows], np.uint32).reshape(-1, 2),
        np.stack([row[3] for row in rows]) if rows else np.empty((0, 32, 32, 3), np.uint8),
        sum(row[4] for row in rows),
        [outcome for outcome in outcomes if isinstance(outcome, ar.Failure)],
    )


def _map_files(function: Any, keys: list[str], root: str) -> list[Any]:
    if not paths.is_url(root):
        return [function(key) for key in keys]
    with ThreadPoolExecutor(REMOTE_READERS) as pool:
        return list(pool.map(function, keys))


def _read_image(root: str, key: str) -> tuple[tuple[int, int], NDArray[np.uint8], int] | ar.Failure:
    """Original size in px, pixels and file size in bytes of one image; or why not."""
    stage = "read"
    try:
        data = read_input(root, key)
        stage = "decode"
        image = decode_image(data)
        return image.size, resize(image), len(data)
    except ImageError as error:
        return ar.Failure(key, stage, type(error).__name__, str(error))


def load_codec(job: CompressJob) -> Codec:
    """The job's codec; loaded once per process.

    Raises:
        ModelError: if the job's model file is not the planned one or cannot be used.
    """
    return _load_codec(job.archive, job.model_sha256, job.device)


@functools.lru_cache(maxsize=1)
def _load_codec(archive: ar.Folder, sha256: str, device: str) -> Codec:
    codec = Codec.from_bytes(archive.read(JOB_MODEL_FILE), f"{archive.path}/{JOB_MODEL_FILE}", device)
    if codec.sha256 != sha256:
        raise InputError(f"{archive.path}: another job writes here; wait for it, or choose another place")
    return codec


def encode_images(images: ShardImages, job: CompressJob) -> EncodedShard:
    """Encodes the images of a shard.

    Args:
        images: As read.
        job: The job.

    Returns:
        Their records, in the same order, and the failures unchanged.
    """
    codec = load_codec(job)
    streams: list[bytes] = []
    for start in range(0, len(images.keys), CHUNK_IMAGES):
        streams += codec.encode(images.images[start : start + CHUNK_IMAGES])
        _count(job, min(CHUNK_IMAGES, len(images.keys) - start))
    _count(job, len(images.failures))
    codings = np.full(len(streams), int(codec.coding), np.uint8)
    widths, heights = images.sizes_px.T
    records = ar.Records(images.keys, widths, heights, images.labels, codings, streams)
    return EncodedShard(images.shard, records, images.source_bytes, images.failures)


def _count(job: CompressJob, images: int) -> None:
    if job.progress is not None:
        job.progress.add(images)


def write_shard(encoded: EncodedShard, job: CompressJob) -> ShardResult:
    """Writes a shard and its part of the failures table; writing them again changes nothing.

    Raises:
        InputError: if a file cannot be written, such as on a full disk.
    """
    entry = None
    if encoded.records:
        keys = encoded.records.keys
        data = ar.shard_to_bytes(encoded.records, {"format_version": ar.FORMAT_VERSION, "model_sha256": job.model_sha256})
        name, sha256 = ar.write_digested(job.archive, "shards", encoded.shard, data)
        stream_bytes = sum(map(len, encoded.records.streams))
        entry = ar.ShardEntry(name, len(keys), len(data), sha256, keys[0], keys[-1], stream_bytes)
    failures = _write_failures(job.archive, encoded.shard, encoded.failures)
    result = ShardResult(encoded.shard, entry, failures, encoded.source_bytes)
    ar.write(job.archive, f"{DONE_FOLDER}/{encoded.shard:06d}.json", json.dumps(dataclasses.asdict(result)).encode())
    return result


def _write_failures(archive: ar.Folder, number: int, failures: list[ar.Failure]) -> ar.FileEntry | None:
    if not failures:
        return None
    data = ar.failures_to_bytes(failures)
    name, sha256 = ar.write_digested(archive, "failures", number, data)
    return ar.FileEntry(name, len(failures), len(data), sha256)


def commit_archive(results: Iterable[ShardResult], job: CompressJob) -> ar.Manifest:
    """Makes the written shards an archive.

    Args:
        results: Of the shards of this run, in any order; a shard that a runner ran twice may come twice. Those of
            earlier runs of the job are added.
        job: The job.

    Returns:
        The manifest that was committed.

    Raises:
        InputError: if a file cannot be written.
    """
    by_number = finished_shards(job) | {result.number: result for result in results}
    if by_number.keys() != set(range(job.shards)):
        raise InputError(f"{job.archive.path}: {len(by_number)} of {job.shards} shards are written; finish it with --resume")
    unique = [by_number[number] for number in range(job.shards)]
    failures = [*(result.failures for result in unique), job.unlisted]
    codec = load_codec(job)
    manifest = ar.Manifest(
        model=codec.name,
        model_sha256=job.model_sha256,
        preprocessing=codec.preprocessing.to_json(),
        created_by=f"tsae {tsae.__version__}",
        skipped=job.skipped,
        source_bytes=sum(result.source_bytes for result in unique),
        shards=tuple(result.shard for result in unique if result.shard),
        failures=tuple(entry for entry in failures if entry),
    )
    ar.commit(job.archive, manifest, job.archive.read(JOB_MODEL_FILE))
    return manifest
