"""Verification: every file of an archive against its digest, and every record of a damaged one against its checksum."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tsae.archive.access import ArchiveFiles
from tsae.archive.commit import count
from tsae.archive.files import FILE_NAME, MANIFEST_FILE, PLAN_FILE, RUN_FILE, FileEntry, has_digest
from tsae.archive.lists import ShardEntry
from tsae.archive.manifest import ListEntry
from tsae.archive.parquet import MAGIC
from tsae.archive.records import Records, concatenate, key_fault
from tsae.archive.shards import Shard
from tsae.errors import CorruptDataError, TsaeError
from tsae.paths import Folder

T = TypeVar("T")
U = TypeVar("U")

CHUNK_BYTES = 2**23
"""Read and hashed at a time: a common shard at once, and no more than this of any file in memory."""

MISSING = "is missing"

Decode = Callable[[Records], object]
"""Decodes records, or raises TsaeError."""


@dataclasses.dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    Attributes:
        file: Name relative to the archive.
        key: Of the record that is lost; None where the damage is not, or not known to be, that of one record.
        message: What is wrong, and what it means, on one line.
    """

    file: str
    key: str | None
    message: str


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What came of one file.

    Attributes:
        file: Name relative to the archive.
        bytes: That were read.
        records: Intact ones, where it is a shard.
        damages: What is wrong.
        notes: What a user should know, though nothing is lost.
    """

    file: str
    bytes: int = 0
    records: int = 0
    damages: tuple[Damage, ...] = ()
    notes: tuple[str, ...] = ()


def map_in_threads(function: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """Maps in threads, in order, with at most twice as many items under way as there are workers."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def verify(files: ArchiveFiles, workers: int, decode: Decode | None = None) -> Iterator[FileReport]:
    """Checks all files of an archive, and yields a report for each.

    The manifest itself was checked when it was opened.

    Args:
        files: The archive.
        workers: Threads: hashing a file lets other threads run.
        decode: Called with all records, also of intact shards, to see whether they can be decoded; None is not to.
    """
    named = set(files.manifest.files)
    yield from map_in_threads(lambda check: check(), _checks(files, decode, named), workers)
    yield _find_strangers(files.folder, named)


def _checks(files: ArchiveFiles, decode: Decode | None, named: set[str]) -> Iterator[Callable[[], FileReport]]:
    """What is to be done, file by file; adds to `named` what lists name."""
    manifest, folder = files.manifest, files.folder
    yield functools.partial(_verify_manifest, files)
    model = FileEntry(manifest.model_file, 0, manifest.model_bytes, manifest.model_sha256)
    yield functools.partial(_verify_file, folder, model, "nothing can be decoded without it")
    for entry in manifest.failures:
        yield functools.partial(_verify_file, folder, entry, "it tells what failed; no image is lost")
    for index, listed in enumerate(manifest.lists):
        try:
            for shard in files.entries_of(index):
                named.add(shard.file)
                yield functools.partial(verify_shard, files, shard, decode)
                if shard.provenance is not None:
                    named.add(shard.provenance)
                    yield functools.partial(_verify_provenance, folder, shard.provenance)
            yield functools.partial(FileReport, listed.file, listed.bytes)
        except TsaeError as error:
            named |= {name for name in folder.sizes_bytes() if FILE_NAME.fullmatch(name)}  # some of them may be its own
            yield functools.partial(_lost_list, listed, error)
    for name in filter(RUN_FILE.fullmatch, folder.sizes_bytes()):
        named.add(name)
        yield functools.partial(verify_named, folder, name)


def _verify_manifest(files: ArchiveFiles) -> FileReport:
    """Its digest holds; whether its counts do as well is seen from the lists, as far as they can be read."""
    manifest, size_bytes = files.manifest, len(files.manifest_text)
    failures = sum(entry.rows for entry in manifest.failures)
    try:
        counted = dataclasses.asdict(count(files.folder, manifest.lists, failures, manifest.counts.skipped))
    except TsaeError:
        return FileReport(MANIFEST_FILE, size_bytes)
    claimed = dataclasses.asdict(manifest.counts)
    wrong = [f"{name} {claimed[name]}" for name, value in counted.items() if isinstance(value, int) and claimed[name] != value]
    if not wrong:
        return FileReport(MANIFEST_FILE, size_bytes)
    message = f"its counts ({', '.join(wrong)}) contradict its lists; no image is lost"
    return FileReport(MANIFEST_FILE, size_bytes, damages=(Damage(MANIFEST_FILE, None, message),))


def _lost_list(entry: ListEntry, error: TsaeError) -> FileReport:
    message = f"{_tail(error, entry.file)}: its {entry.images:,} records in {entry.rows:,} shards are not found without it"
    return FileReport(entry.file, damages=(Damage(entry.file, None, message),))


def _tail(error: Exception, file: str) -> str:
    """An error's text without the file's path and the remedy, which the report gives."""
    text = str(error)
    return (text.partition(f"{file}: ")[2] or text).rpartition("; ")[0] or text


def file_fault(folder: Folder, entry: FileEntry, tail: bytes = b"") -> str | None:
    """What is wrong with a file as a whole, or None if it is as it was written.

    Args:
        folder: The archive.
        entry: What the file must be.
        tail: What its last bytes must be.
    """
    try:
        size_bytes = folder.stat(entry.file).size_bytes
        if size_bytes not in (entry.bytes, -1):
            return f"has {size_bytes:,} bytes instead of {entry.bytes:,}"
        sha256, last = _hash(folder, entry.file, entry.bytes, len(tail))
    except OSError as error:
        return _reason(error)
    if sha256 != entry.sha256:
        return "does not match its SHA-256"
    return None if last == tail else "does not end as its list says"


def _reason(error: OSError) -> str:
    return MISSING if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"


def _hash(folder: Folder, name: str, size_bytes: int, tail_bytes: int) -> tuple[str, bytes]:
    """SHA-256 of the first bytes of a file, hexadecimal, and the last of those."""
    sha256, tail = hashlib.sha256(), b""
    for start in range(0, size_bytes, CHUNK_BYTES):
        data = folder.read_range(name, start, min(CHUNK_BYTES, size_bytes - start))
        sha256.update(data)
        tail = (tail + data[-tail_bytes:])[-tail_bytes:] if tail_bytes else b""
    return sha256.hexdigest(), tail


def shard_fault(folder: Folder, entry: ShardEntry) -> str | None:
    """What is wrong with a shard as a whole, or None if it is as it was written."""
    return file_fault(folder, entry, entry.footer + len(entry.footer).to_bytes(4, "little") + MAGIC)


def verify_shard(files: ArchiveFiles, entry: ShardEntry, decode: Decode | None = None) -> FileReport:
    """Checks a shard against its entry; in a damaged one, tells the records that are lost."""
    fault = shard_fault(files.folder, entry)
    if fault is None and decode is None:
        return FileReport(entry.file, entry.bytes, entry.rows)
    intact, lost = 0, list[Damage]()
    try:
        for records, damages in salvage(files.open_entry(entry)):
            undecodable = _decode(records, decode) if decode is not None else []
            intact += len(records) - len(undecodable)
            lost += damages + undecodable
    except TsaeError as error:
        fault = fault or _tail(error, entry.file)
    lost = [dataclasses.replace(damage, file=entry.file) for damage in lost]
    if not intact and all(damage.key is None for damage in lost):
        lost = []
    if fault is not None:
        what = f"{intact:,} of {entry.rows:,} records are intact" if intact or lost else _all_lost(entry)
        lost.insert(0, Damage(entry.file, None, f"{fault}: {what}"))
    return FileReport(entry.file, entry.bytes, intact, tuple(lost))


def _all_lost(entry: ShardEntry) -> str:
    return f"all {entry.rows:,} records, {entry.first_key[:100]!r} to {entry.last_key[:100]!r}, are lost"


def salvage(shard: Shard) -> Iterator[tuple[Records, list[Damage]]]:
    """The intact records of each row group of a shard, and a damage, of no file, for each other one.

    A row group that does not even tell its keys has one damage in all.
    """
    for row_group in range(shard.row_groups):
        try:
            records, intact = shard.read(row_group)
        except CorruptDataError as error:
            yield concatenate([]), _lost_group(shard, row_group, error)
            continue
        rows = [row for row, key in enumerate(records.keys) if intact[row] and not key_fault(key)]
        lost = sorted(set(range(len(records))) - set(rows))
        reasons = [key_fault(records.keys[row]) or "its checksum does not match" for row in lost]
        damages = [Damage("", records.keys[row], f"the record is lost: {why}") for row, why in zip(lost, reasons, strict=True)]
        yield records.take(rows) if lost else records, damages


def _lost_group(shard: Shard, row_group: int, error: CorruptDataError) -> list[Damage]:
    """What is lost with a row group that cannot be read: by key where at least its keys can be."""
    reason = _tail(error, shard.source)
    try:
        return [Damage("", key, f"the record is lost: {reason}") for key in shard.keys(row_group)]
    except CorruptDataError:
        first, last, rows = shard.describe(row_group)
        return [Damage("", None, f"{rows:,} records, {first!r:.100} to {last!r:.100}, are lost: {reason}")]


def _decode(records: Records, decode: Decode) -> list[Damage]:
    """A damage, of no file, for each record that cannot be decoded."""
    try:
        if len(records):
            decode(records)
        return []
    except TsaeError as error:
        if len(records) == 1:
            return [Damage("", records.keys[0], f"the record cannot be decoded: {error}")]
    return [damage for row in range(len(records)) for damage in _decode(records.take([row]), decode)]


def _verify_file(folder: Folder, entry: FileEntry, meaning: str) -> FileReport:
    fault = file_fault(folder, entry)
    damages = (Damage(entry.file, None, f"{fault}; {meaning}"),) if fault else ()
    return FileReport(entry.file, entry.bytes, damages=damages)


def _verify_provenance(folder: Folder, name: str) -> FileReport:
    meaning = "only a rerun needs it, and would compress its images again"
    report = verify_named(folder, name)
    if any(damage.message == MISSING for damage in report.damages):
        return FileReport(name, notes=(f"provenance is left out, all or in part: {meaning}",))
    damages = tuple(dataclasses.replace(damage, message=f"{damage.message}; {meaning}") for damage in report.damages)
    return dataclasses.replace(report, damages=damages)


def verify_named(folder: Folder, name: str) -> FileReport:
    """Checks a file of which nothing else is known against the digest in its name."""
    try:
        size_bytes = folder.stat(name).size_bytes
        is_intact = has_digest(name, _hash(folder, name, size_bytes, 0)[0])
    except OSError as error:
        return FileReport(name, damages=(Damage(name, None, _reason(error)),))
    damages = () if is_intact else (Damage(name, None, "does not match the digest in its name"),)
    return FileReport(name, size_bytes, damages=damages)


def verify_without_manifest(folder: Folder, workers: int) -> Iterator[FileReport]:
    """What can be said of an archive whose manifest is lost: whether files are what their names say."""
    names = [name for name in folder.sizes_bytes() if FILE_NAME.fullmatch(name)]
    return map_in_threads(functools.partial(verify_named, folder), names, workers)


def has_lost_manifest(folder: Folder) -> bool:
    """Whether a folder without a manifest was an archive: a job that did not end has its plan, other folders no lists."""
    try:
        found = folder.sizes_bytes()
    except NotADirectoryError:
        return False
    has_lists = any(name.startswith("lists/") and FILE_NAME.fullmatch(name) for name in found)
    return has_lists and not {MANIFEST_FILE, PLAN_FILE} & found.keys()


def _find_strangers(folder: Folder, named: set[str]) -> FileReport:
    """Notes on files that are there though the archive does not need them."""
    found = folder.sizes_bytes()
    notes = []
    if PLAN_FILE in found:
        notes.append("an unfinished job is there; its command finishes it with --resume")
    elif extra := sorted(found.keys() - named):
        verb = "file is" if len(extra) == 1 else "files are"
        notes.append(f"{len(extra):,} {verb} not part of the archive, such as {extra[0]!r:.200}")
    return FileReport("", notes=tuple(notes))
