"""The steps of compressing, after `tsae.jobs.plan`: per shard read, encode and write, then commit. Owns no format."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

import tsae
from tsae import archive as ar
from tsae import paths
from tsae.codec import Codec
from tsae.errors import ImageError, InputError
from tsae.images import decode_image, resize
from tsae.inputs import read_input
from tsae.jobs import plan
from tsae.jobs.plan import CompressJob, ShardResult

CHUNK_IMAGES = 256
"""Images encoded between two signs of progress."""

REMOTE_READERS = 16
"""Threads that fetch files of one shard from a remote store, where waiting dominates."""

T = TypeVar("T")


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


def read_images(shard: int, job: CompressJob) -> ShardImages:
    """Reads, decodes and resizes the images of a shard.

    Args:
        shard: Its number in the plan.
        job: The job.

    Returns:
        The images that came through, and the failures.
    """
    plan.check_owner(job)
    keys, labels = plan.read_listing(shard, job)
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


def _map_files(function: Callable[[str], T], keys: list[str], root: str) -> list[T]:
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
    codec = Codec.from_bytes(archive.read(plan.JOB_MODEL_FILE), f"{archive.path}/{plan.JOB_MODEL_FILE}", device)
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
        InputError: if a file cannot be written, such as on a full disk, or another job has taken this one's place.
    """
    plan.check_owner(job)
    entry = None
    if encoded.records:
        keys = encoded.records.keys
        data = ar.shard_to_bytes(encoded.records, {"format_version": ar.FORMAT_VERSION, "model_sha256": job.model_sha256})
        name, sha256 = ar.write_digested(job.archive, "shards", encoded.shard, data)
        stream_bytes = sum(map(len, encoded.records.streams))
        entry = ar.ShardEntry(name, len(keys), len(data), sha256, keys[0], keys[-1], stream_bytes)
    failures = plan.write_failures(job.archive, encoded.shard, encoded.failures)
    result = ShardResult(encoded.shard, entry, failures, encoded.source_bytes)
    plan.keep_result(result, job)
    return result


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
    plan.check_owner(job)
    by_number = plan.finished_shards(job) | {result.number: result for result in results}
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
    ar.commit(job.archive, manifest, job.archive.read(plan.JOB_MODEL_FILE))
    return manifest
