"""The steps of decompressing: per shard read, decode and write image files. Owns which of them are to be written.

Networks are imported when the first image is decoded: the process that plans may never need them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import posixpath
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import paths, png
from tsae.config import IMAGE_SIZE_PX
from tsae.errors import CorruptDataError, InputError, TsaeError
from tsae.images import MAX_PIXELS, encode_image
from tsae.jobs.output_names import find_whole_names, output_name
from tsae.progress import SharedCount, Tally

if TYPE_CHECKING:
    from tsae.codec import Codec

CHUNK_IMAGES = 256
"""Images decoded between two signs of progress."""

FATAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Operating system errors that the next image would meet as well: the job ends instead of failing image by image."""

MODEL_SIZE_PX = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)


@dataclasses.dataclass(frozen=True)
class DecompressJob:
    """What all steps need to know; travels to the workers.

    Attributes:
        archive: What is read.
        manifest_text: The manifest of the state that was planned with.
        model_sha256: Hex digits of the archive's model.
        output: Folder for the image files.
        select: Glob that keys must match; None is all.
        restore_size: Whether to scale images back to their original sizes.
        overwrite: Whether files that are there already are written anew.
        whole_names: Keys whose output keeps the key's own ending, because another output would have the same name.
        report: Name of the file beside the output folder by which a process elsewhere tells what came of the job.
        progress: Where finished images are counted; None where nobody watches.
    """

    archive: ar.Folder
    manifest_text: bytes
    model_sha256: str
    output: ar.Folder
    select: str | None
    restore_size: bool
    overwrite: bool
    whole_names: frozenset[str]
    report: str
    progress: SharedCount | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ShardRecords:
    """The records of one shard that are still to be written as images, and those that cannot be.

    Attributes:
        records: N of them.
        present: Number of images whose files are there already.
        failures: Damaged records.
    """

    records: ar.Records
    present: int
    failures: list[ar.Failure]

    def counts(self) -> dict[str, int]:
        """What was done, by names of metrics."""
        return {"images_read": len(self.records), "images_present": self.present}


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedShard:
    """Images of one shard, still to be written; `images` is uint8 `[N, 32, 32, 3]`."""

    records: ar.Records
    images: NDArray[np.uint8]
    present: int
    failures: list[ar.Failure]

    def counts(self) -> dict[str, int]:
        """What was done, by names of metrics."""
        return {"images_decoded": len(self.records)}


@dataclasses.dataclass(frozen=True)
class WriteResult:
    """What came of one shard: numbers of images, and the failures."""

    written: int
    present: int
    failures: tuple[ar.Failure, ...]

    def counts(self) -> dict[str, int]:
        """What was done, by names of metrics."""
        return {"images_written": self.written, "images_failed": len(self.failures)}


def plan(archive: str, output: str, select: str | None, restore_size: bool, overwrite: bool) -> tuple[DecompressJob, int, int]:
    """Checks archive and output, and finds output names that would meet.

    Args:
        archive: Path or URL of the archive.
        output: Path or URL of the folder for the images.
        select: Glob that keys must match; None is all.
        restore_size: Whether to scale images back to their original sizes.
        overwrite: Whether files that are there already are written anew.

    Returns:
        The job, its number of shards, and its number of images.

    Raises:
        FormatError: if there is no archive.
        InputError: if the output is not a folder, cannot be reached, lies inside the archive, or no key matches.
    """
    if not output:
        raise InputError("OUTDIR is empty; name a folder for the images, . for this one")
    files = ar.ArchiveFiles(paths.absolute(archive))
    if paths.is_within(paths.absolute(output), paths.absolute(archive)):
        raise InputError(f"{output}: lies inside the archive {archive}; choose a folder outside")
    _check_is_folder(output)
    keys = _readable_keys(files)
    selected = sum(ar.matches(key, select) for key in keys)
    if select is not None and not selected:
        raise InputError(f"--select {select}: matches none of {len(keys)} keys; see them with tsae ls {archive}")
    output_folder = ar.Folder(paths.absolute(output))
    model_sha256, whole = files.manifest.model_sha256, find_whole_names(keys)
    _, report = _beside(output_folder.path, f".report-{secrets.token_hex(8)}.json")
    job = DecompressJob(
        files.folder, files.manifest_text, model_sha256, output_folder, select, restore_size, overwrite, whole, report
    )
    return job, files.shards, selected


def _check_is_folder(output: str) -> None:
    try:
        kind = paths.kind(output)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"{output}: cannot be reached ({reason}); check path, permissions and network") from error
    if kind == "file":
        raise InputError(f"{output}: is a file; name a folder for the images")


def _readable_keys(files: ar.ArchiveFiles) -> list[str]:
    """The keys of all shards but damaged ones, which become failures when their turn comes."""
    keys: list[str] = []
    for shard in range(files.shards):
        with contextlib.suppress(TsaeError):
            keys += files.shard(shard).keys()
    return keys


def leads_out(output: str, folder: str) -> bool:
    """Whether links in an output folder would take the files of a folder below it, "" for itself, out of it."""
    return not paths.is_within(paths.absolute(paths.join(output, folder)) if folder else output, output)


def read_records(shard: int, job: DecompressJob) -> ShardRecords:
    """Reads the records of a shard whose images are missing, or there as another record or model gave them.

    Args:
        shard: Its place in the manifest.
        job: The job.

    Returns:
        The records, and a failure for each one that is damaged or whose place is taken; where not even the keys of a
        row group or a shard can be read, one failure that names the file.
    """
    try:
        files = _open_archive(job.archive, job.manifest_text)
        reader, size_bytes = files.shard(shard), files.entry(shard).bytes
    except TsaeError as error:
        return ShardRecords(ar.concatenate([]), 0, [_failure(f"shard {shard}", "read", error)])
    parts = [_read_row_group(reader, row_group, job) for row_group in range(reader.row_groups)]
    present, failures = sum(part.present for part in parts), [failure for part in parts for failure in part.failures]
    _count(job, images=present + len(failures), failed=len(failures), bytes_in=size_bytes)
    return ShardRecords(ar.concatenate([part.records for part in parts]), present, failures)


def _read_row_group(reader: ar.Shard, row_group: int, job: DecompressJob) -> ShardRecords:
    try:
        records, intact = reader.read(row_group)
    except CorruptDataError as error:
        return ShardRecords(ar.concatenate([]), 0, _lost(reader, row_group, error, job))
    rows = [row for row, key in enumerate(records.keys) if ar.matches(key, job.select)]
    records, intact = records.take(rows), intact[rows]
    kept, present, failures = [], 0, []
    for row, (key, there) in enumerate(zip(records.keys, _find_outputs(records, job), strict=True)):
        if there is True:
            present += 1
        elif there is False:
            failures.append(ar.Failure(key, "write", "FileExistsError", TAKEN))
        elif intact[row]:
            kept.append(row)
        else:
            failures.append(ar.Failure(key, "read", "CorruptDataError", DAMAGED))
    return ShardRecords(records.take(kept), present, failures)


DAMAGED = "the record does not match its checksum; restore the archive"
LINKED = "its folder is a link that leads out of the output folder; choose another folder, or remove the link"
TAKEN = "its place holds something else than this image; choose another folder, or write anew with --overwrite"


def _lost(reader: ar.Shard, row_group: int, error: CorruptDataError, job: DecompressJob) -> list[ar.Failure]:
    """A failure for each key of an unreadable row group, or one for the group if not even its keys can be read."""
    try:
        keys = [key for key in reader.keys(row_group) if ar.matches(key, job.select)]
    except CorruptDataError:
        keys = [f"{reader.source} row group {row_group}"]
    return [_failure(key, "read", error) for key in keys]


@functools.lru_cache(maxsize=1)
def _open_archive(archive: ar.Folder, manifest_text: bytes) -> ar.ArchiveFiles:
    return ar.ArchiveFiles(archive.path, manifest_text)


def _failure(path: str, stage: str, error: Exception) -> ar.Failure:
    return ar.Failure(path, stage, type(error).__name__, str(error))


def _find_outputs(records: ar.Records, job: DecompressJob) -> list[bool | None]:
    """Of each record, whether what is in its output's place is its output; None where one is to be written."""
    if job.overwrite:
        return [None] * len(records)
    is_missing = functools.cache(job.output.is_missing)
    names = [output_name(key, job.whole_names) for key in records.keys]
    heads = [None if is_missing(posixpath.dirname(name)) else _read_head(name, job) for name in names]
    found: list[bool | None] = [None] * len(records)
    rows = [row for row, head in enumerate(heads) if head is not None]
    there = records.take(rows)
    for row, size_px, tag in zip(rows, _sizes_px(there), output_tags(there, job), strict=True):
        found[row] = _is_output(heads[row] or b"", size_px if job.restore_size else MODEL_SIZE_PX, tag)
    return found


def _read_head(name: str, job: DecompressJob) -> bytes | None:
    """The first bytes in the place of an output; None if nothing is there."""
    try:
        return job.output.read(name, png.HEAD_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # a folder, or a name that no file can have: nothing that may be replaced
        return b""


def _is_output(head: bytes, size_px: tuple[int, int], tag: str) -> bool | None:
    """Whether a file is the output of this size and tag; None for one of another record or model: it is stale."""
    there_px, there_tag = png.read_head(head) or (None, None)
    if there_tag is None:
        return False
    return there_px == size_px if there_tag == tag else None


def _sizes_px(records: ar.Records) -> Iterator[tuple[int, int]]:
    return zip(records.widths.tolist(), records.heights.tolist(), strict=True)


TAG_MODEL_DIGITS = 16
"""Hex digits of the model's digest in an output's tag: 64 bits, which two models do not share by chance."""


def output_tags(records: ar.Records, job: DecompressJob) -> list[str]:
    """What the output of each record tells of its origin: the record's CRC-32, and the start of the model's SHA-256."""
    return [f"{crc32:08x} {job.model_sha256[:TAG_MODEL_DIGITS]}" for crc32 in records.checksums().tolist()]


def decode_images(shard: ShardRecords, job: DecompressJob) -> DecodedShard:
    """Decodes the records of a shard; those that the model cannot decode become failures.

    Args:
        shard: As read.
        job: The job.
    """
    codec = load_codec(job)
    try:
        for key in shard.records.keys:
            ar.check_key(key)
        return DecodedShard(shard.records, codec.decode(shard.records), shard.present, shard.failures)
    except CorruptDataError:
        return _decode_one_by_one(shard, codec)


def _decode_one_by_one(shard: ShardRecords, codec: Codec) -> DecodedShard:
    """Tells the records that cannot be decoded from the others."""
    good, failures = [], list(shard.failures)
    for row, key in enumerate(shard.records.keys):
        try:
            ar.check_key(key)
            record = shard.records.take([row])
            codec.latents(record) if record.lossless[0] is None else codec.decode(record)
            good.append(row)
        except CorruptDataError as error:
            failures.append(_failure(key, "decode", error))
    records = shard.records.take(good)
    return DecodedShard(records, codec.decode(records), shard.present, failures)


def check_model(job: DecompressJob) -> None:
    """Refuses an unusable model before anything is written.

    Raises:
        FormatError: as `load_codec`.
    """
    load_codec(job)


def load_codec(job: DecompressJob) -> Codec:
    """The archive's codec; loaded once per process.

    Raises:
        FormatError: if the model is missing or not the archive's.
    """
    return _load_codec(job.archive, job.manifest_text)


@functools.lru_cache(maxsize=1)
def _load_codec(archive: ar.Folder, manifest_text: bytes) -> Codec:
    from tsae.codec import Codec

    files = _open_archive(archive, manifest_text)
    return Codec.from_bytes(files.model_file(), f"{archive.path}/{files.manifest.model_file}")


def decompress_shard(shard: int, job: DecompressJob) -> WriteResult:
    """All steps of one shard: what a process of the local engine does."""
    return write_images(decode_images(read_records(shard, job), job), job)


def write_images(shard: DecodedShard, job: DecompressJob) -> WriteResult:
    """Writes a PNG file for each image of a shard; each appears whole or not at all.

    Raises:
        InputError: if the output takes no more files, such as a full disk.
    """
    failures, records = list(shard.failures), shard.records
    is_outside = functools.cache(functools.partial(leads_out, job.output.path))
    chunk = Tally()
    for done, (key, file) in enumerate(zip(records.keys, _encode(shard, job), strict=True), 1):
        name = output_name(key, job.whole_names)
        if is_outside(posixpath.dirname(name)):
            file = ar.Failure(key, "write", "FileExistsError", LINKED)
        written = file if isinstance(file, ar.Failure) else _write(key, name, file, job)
        if isinstance(written, ar.Failure):
            failures.append(written)
            chunk = chunk.plus(Tally(1, failed=1))
        else:
            chunk = chunk.plus(Tally(1, bytes_out=written))
        if done % CHUNK_IMAGES == 0 or done == len(records):
            _count(job, **chunk._asdict())
            chunk = Tally()
    return WriteResult(len(records) + len(shard.failures) - len(failures), shard.present, tuple(failures))


def _encode(shard: DecodedShard, job: DecompressJob) -> Iterator[bytes | ar.Failure]:
    """The PNG file of each image, or why there is none."""
    tags = output_tags(shard.records, job)
    if not job.restore_size:
        yield from png.encode(shard.images, tags)
        return
    for key, image, size_px, tag in zip(shard.records.keys, shard.images, _sizes_px(shard.records), tags, strict=True):
        if 0 < size_px[0] * size_px[1] <= MAX_PIXELS:
            yield encode_image(image, "png", size_px, tag)
        else:
            size = f"{size_px[0]} x {size_px[1]} is not within {MAX_PIXELS} pixels"
            yield ar.Failure(key, "write", "CorruptDataError", f"recorded size {size}; leave out --restore-size")


def _write(key: str, name: str, file: bytes, job: DecompressJob) -> int | ar.Failure:
    """How many bytes were written, or why none."""
    try:
        job.output.write(name, file)
    except OSError as error:
        if error.errno in FATAL_ERRORS:
            raise InputError(f"{job.output.path}: cannot be written ({error.strerror}); make room and run it again") from error
        return ar.Failure(key, "write", type(error).__name__, error.strerror or str(error))
    return len(file)


def _count(job: DecompressJob, **tally: int) -> None:
    if job.progress is not None:
        job.progress.add(**tally)


FAILURES_ENDING = ".failures.parquet"


def failures_file(output: str) -> str:
    """Path of the failures table that lies beside an output folder."""
    return paths.absolute(output) + FAILURES_ENDING


def _beside(output: str, ending: str) -> tuple[ar.Folder, str]:
    """The folder that an output folder lies in, and a name there that begins with its own."""
    folder, _, name = f"{paths.absolute(output)}{ending}".rpartition("/")
    return ar.Folder(folder or "/"), name


def read_failures(output: str) -> list[ar.Failure]:
    """The failures table beside an output folder.

    Raises:
        FormatError: if it is none.
    """
    return ar.failures_from_bytes(paths.read_file(failures_file(output)), failures_file(output))


def write_failures(results: Iterable[WriteResult], job: DecompressJob) -> WriteResult:
    """Adds up what came of the shards, and writes the failures table, or removes an old one where nothing failed.

    Raises:
        InputError: if the table cannot be written.
    """
    results = list(results)
    failures = tuple(failure for result in results for failure in result.failures)
    folder, name = _beside(job.output.path, FAILURES_ENDING)
    if failures:
        ar.write(folder, name, ar.failures_to_bytes(failures))
    else:
        folder.remove([name])
    return WriteResult(sum(r.written for r in results), sum(r.present for r in results), failures)


def write_report(result: WriteResult, job: DecompressJob) -> WriteResult:
    """Tells a process elsewhere what came of the job; doing it again changes nothing.

    Raises:
        InputError: if that cannot be written.
    """
    counts = {"written": result.written, "present": result.present, "failed": len(result.failures)}
    ar.write(_beside(job.output.path, "")[0], job.report, json.dumps(counts).encode())
    return result


def take_report(job: DecompressJob) -> dict[str, int]:
    """Reads and removes what `write_report` has written: numbers of images that were written, present and failed.

    Raises:
        InputError: if there is none.
    """
    folder, _ = _beside(job.output.path, "")
    try:
        counts: dict[str, int] = json.loads(folder.read(job.report))
        folder.remove([job.report])
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{job.output.path}: the runner left no report ({reason}); run it again to see what is there"
        ) from error
    return counts
