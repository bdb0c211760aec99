"""The commit: lists and manifest of a new state, and the one atomic step that makes it the archive's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tsae.archive.access import ArchiveFiles
from tsae.archive.failures import failures_from_bytes, failures_to_bytes
from tsae.archive.files import (
    DIGEST_DIGITS,
    MANIFEST_FILE,
    MODEL_FILE,
    FileEntry,
    read_digested,
    write_digested,
)
from tsae.archive.lists import LIST_SHARDS, ShardEntry, ShardList, list_table, table_to_bytes
from tsae.archive.manifest import FORMAT_VERSION, Counts, ListEntry, Manifest
from tsae.archive.parquet import split_file
from tsae.archive.provenance import Origin, provenance_to_bytes
from tsae.archive.records import PSNR_STEP_DB, Records
from tsae.archive.shards import chunk_crc32s, shard_to_bytes
from tsae.archive.states import kept_if_held
from tsae.errors import BusyError, InputError
from tsae.paths import ConflictError, Folder


def model_place(model_sha256: str, base: Manifest | None) -> str:
    """The name for a model file that disturbs no state that readers see.

    Args:
        model_sha256: Its digest.
        base: The state that is to be replaced; None if there is none.

    Returns:
        `MODEL_FILE`, or another name where `base` has another model there.
    """
    if base is not None and base.model_sha256 == model_sha256:
        return base.model_file
    is_taken = base is not None and base.model_file == MODEL_FILE
    return f"model-{model_sha256[:DIGEST_DIGITS]}.safetensors" if is_taken else MODEL_FILE


def write_shard(
    archive: Folder,
    number: int,
    records: Records,
    origins: Mapping[str, Origin],
    model_sha256: str,
    data: bytes | None = None,
) -> ShardEntry:
    """Writes a shard and its provenance; writing them again changes nothing.

    Args:
        archive: Where to.
        number: Its place in the order of shards.
        records: At least one, sorted by key.
        origins: What they were made from, as far as that is known; no origins make no file.
        model_sha256: Digest of the model that decodes them.
        data: The shard's file, where there is one of these very records; None makes it.

    Raises:
        InputError: if a file cannot be written.
    """
    if data is None:
        data = shard_to_bytes(records, {"format_version": FORMAT_VERSION, "model_sha256": model_sha256})
    file = write_digested(archive, "shards", number, data, len(records))
    known = {key: origins[key] for key in records.keys if key in origins}
    provenance = None
    if known:
        provenance = write_digested(archive, "provenance", number, provenance_to_bytes(known), len(known)).file
    is_measured = not np.isnan(records.psnrs_db).any()
    return ShardEntry(
        **dataclasses.asdict(file),
        first_key=records.keys[0],
        last_key=records.keys[-1],
        source_bytes=sum(origin.size_bytes for origin in known.values()),
        stream_bytes=sum(map(len, records.streams)),
        lossless=sum(image is not None for image in records.lossless),
        lossless_bytes=sum(len(image or b"") for image in records.lossless),
        psnr_min_db=float(records.psnrs_db.min()) if is_measured else None,
        psnr_sum_db=float(records.psnrs_db.sum(dtype=np.float64)) if is_measured else None,
        provenance=provenance,
        footer=split_file(data)[1],
        crc32s=chunk_crc32s(data),
    )


def write_lists(
    archive: Folder, base: ArchiveFiles | None, replaced: Mapping[int, ShardEntry], added: Sequence[ShardEntry]
) -> tuple[ListEntry, ...]:
    """Writes the lists of a new state; those of the old state in which nothing changes are kept as they are.

    Args:
        archive: Where to.
        base: The state to start from; None to start anew.
        replaced: New entries of shards of `base`, by their number in the order of positions.
        added: Shards that come after those of `base`.

    Raises:
        InputError: if a list cannot be written.
        TsaeError: if a list of `base` is damaged.
    """
    lists: list[ListEntry] = []
    todo, start = list(added), 0
    old_lists = base.manifest.lists if base is not None else ()
    for index, entry in enumerate(old_lists):
        numbers = range(start, start + entry.rows)
        start += entry.rows
        room = LIST_SHARDS - entry.rows if index == len(old_lists) - 1 else 0
        if base is not None and (replaced.keys() & set(numbers) or (todo and room > 0)):
            entry = _write_list(archive, index, _list_anew(base, index, numbers, replaced, todo[:room]))
            todo = todo[room:]
        lists.append(entry)
    for start in range(0, len(todo), LIST_SHARDS):
        lists.append(_write_list(archive, len(lists), list_table(todo[start : start + LIST_SHARDS])))
    return tuple(lists)


def _list_anew(
    base: ArchiveFiles, index: int, numbers: range, replaced: Mapping[int, ShardEntry], added: Sequence[ShardEntry]
) -> pa.Table:
    """The table of a list of `base`, whose shards have these numbers, with what differs."""
    if replaced.keys().isdisjoint(numbers):
        table = base.list_table(index)
    else:
        pairs = zip(numbers, base.entries_of(index), strict=True)
        table = list_table([replaced.get(number, old) for number, old in pairs])
    return pa.concat_tables([table, list_table(added)])


def _write_list(archive: Folder, number: int, table: pa.Table) -> ListEntry:
    file = write_digested(archive, "lists", number, table_to_bytes(table), len(table))
    first_key, last_key = pc.min(table.column("first_key")).as_py(), pc.max(table.column("last_key")).as_py()
    images = pc.sum(table.column("rows")).as_py()
    return ListEntry(file.file, file.rows, file.bytes, file.sha256, images, first_key, last_key)


def write_failures(archive: Folder, parts: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    """Joins the parts of a failures table in one file; no parts give none.

    Raises:
        InputError: if it cannot be written.
        FormatError: if a part is missing or damaged.
    """
    if len(parts) <= 1:
        return tuple(parts)
    files = [(read_digested(archive, part.file, part.sha256, part.bytes), f"{archive.path}/{part.file}") for part in parts]
    failures = [failure for file, source in files for failure in failures_from_bytes(file, source)]
    return (write_digested(archive, "failures", 0, failures_to_bytes(failures), len(failures)),)


def count(archive: Folder, lists: Sequence[ListEntry], failures: int, skipped: int) -> Counts:
    """The sums over the shards of some lists, which are read for that.

    Raises:
        TsaeError: if one cannot be read.
    """
    rows = [row for shards in read_lists(archive, lists) for row in shards.rows]
    images = sum(row["rows"] for row in rows)
    is_measured = bool(rows) and all(row["psnr_sum_db"] is not None for row in rows)
    return Counts(
        images=images,
        shards=len(rows),
        failures=failures,
        skipped=skipped,
        source_bytes=sum(row["source_bytes"] for row in rows),
        stream_bytes=sum(row["stream_bytes"] for row in rows),
        lossless=sum(row["lossless"] for row in rows),
        lossless_bytes=sum(row["lossless_bytes"] for row in rows),
        psnr_mean_db=sum(row["psnr_sum_db"] for row in rows) / images if is_measured else None,
        psnr_min_db=min(row["psnr_min_db"] for row in rows) if is_measured else None,
    )


def recount(
    old: Counts, removed: Sequence[ShardEntry], added: Sequence[ShardEntry], failures: int, skipped: int
) -> Counts | None:
    """The sums of a state from those of the one before and what differs, without reading lists.

    It is exact: PSNRs are multiples of 1/64 dB, so sums of them have no rounding, and a mean gives its sum back.

    Args:
        old: Of the state before.
        removed: Shards that are no longer in it.
        added: Shards that are now, those that replace others among them.
        failures: Rows of the failures table now.
        skipped: Input files passed over now.

    Returns:
        None if only `count` can tell: where the shard with the least PSNR went, or one was not measured.
    """
    before = old.psnr_min_db, old.psnr_mean_db
    images = old.images + sum(e.rows for e in added) - sum(e.rows for e in removed)
    is_measured = old.images == 0 or None not in before
    if not is_measured or not images or any(e.psnr_sum_db is None for e in (*added, *removed)):
        return None
    if any(e.psnr_min_db == old.psnr_min_db for e in removed):
        return None
    least_db = [e.psnr_min_db for e in added] + ([] if old.psnr_min_db is None else [old.psnr_min_db])

    def change(name: str) -> int:
        return int(sum(getattr(e, name) for e in added) - sum(getattr(e, name) for e in removed))

    old_sum_db = round((old.psnr_mean_db or 0.0) * old.images / PSNR_STEP_DB) * PSNR_STEP_DB
    sum_db = math.fsum([old_sum_db, *(e.psnr_sum_db or 0.0 for e in added), *(-(e.psnr_sum_db or 0.0) for e in removed)])
    return Counts(
        images=images,
        shards=old.shards + len(added) - len(removed),
        failures=failures,
        skipped=skipped,
        source_bytes=old.source_bytes + change("source_bytes"),
        stream_bytes=old.stream_bytes + change("stream_bytes"),
        lossless=old.lossless + change("lossless"),
        lossless_bytes=old.lossless_bytes + change("lossless_bytes"),
        psnr_mean_db=sum_db / images,
        psnr_min_db=min(value for value in least_db if value is not None),
    )


def read_lists(archive: Folder, lists: Sequence[ListEntry]) -> Iterator[ShardList]:
    """Reads lists, one after the other.

    Raises:
        FormatError: if one is missing or another one.
        CorruptDataError: if one cannot be read.
    """
    for entry in lists:
        yield ShardList(read_digested(archive, entry.file, entry.sha256, entry.bytes), f"{archive.path}/{entry.file}")


def commit(archive: Folder, manifest: Manifest, base: bytes | None) -> None:
    """Makes `manifest` the state of the archive in one step, if no other command has changed it meanwhile.

    All files that it names must be written already. Doing it again changes nothing.

    Args:
        archive: Where to.
        manifest: The new state.
        base: Bytes of the manifest that the new state was made from; None if there was none.

    Raises:
        InputError: if another state was committed meanwhile, or it cannot be written.
    """
    text = manifest.to_json()
    try:
        with kept_if_held(archive, base):
            archive.replace(MANIFEST_FILE, text, expected=base)
    except ConflictError as error:
        if _current(archive) != text:
            raise BusyError(f"{archive.path}: another command has changed it meanwhile; run this one again") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive.path}: cannot be committed ({reason}); finish it with --resume") from error


def _current(archive: Folder) -> bytes | None:
    try:
        return archive.read(MANIFEST_FILE)
    except OSError:
        return None
