"""Repair: every intact record of a damaged archive into a new one. Owns what is salvaged and how, not the checks.

Intact shards are copied byte for byte. Of a damaged one, the records whose checksums hold are written anew. Should manifest or
lists be lost, shards are known to be intact by the digests in their names.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tsae
from tsae import archive as ar
from tsae import paths
from tsae.errors import CorruptDataError, FormatError, InputError, TsaeError
from tsae.progress import Progress

MOST_WORKERS = 4
"""Threads that read whole shards: they keep some 10 MB each, and Python lets one at a time look at records."""


@dataclasses.dataclass(frozen=True)
class Salvage:
    """What was saved.

    Attributes:
        path: Of the new archive.
        manifest: Its state.
        lost: Keys of the records that are lost, as far as they are known.
        notes: What else could not be carried over.
    """

    path: str
    manifest: ar.Manifest
    lost: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; of the manifest the number of images."""
        return {"path": self.path, "images": self.manifest.images, "lost": self.lost, "notes": self.notes}

    def describe(self) -> list[str]:
        """Lines for people."""
        source = self.manifest.settings.source
        command = shlex.join(["tsae", "compress", source, self.path])
        again = f"; the flags that made it and `{command}` bring them back" if source else ""
        lost = f", {len(self.lost):,} lost (see its failures table){again}" if self.lost else ""
        return [*(f"note: {note}" for note in self.notes), f"repaired: {self.path}: {self.manifest.images:,} images{lost}"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Saved:
    """What is left of one shard.

    Attributes:
        entry: What a list says of it; None where no list does.
        data: The whole file, where it is intact.
        records: The intact records.
        origins: What they were made from, as far as that is known.
        lost: Keys of the others, as far as they are known, with what happened to them.
    """

    entry: ar.ShardEntry | None
    data: bytes | None
    records: ar.Records
    origins: dict[str, ar.Origin]
    lost: dict[str, str]


def check_place(archive: ar.Folder, output: str) -> ar.Folder:
    """The place for the new archive: a new or empty folder, or one in which a repair was interrupted.

    Raises:
        InputError: if it is something else, or lies inside the old archive.
    """
    place = paths.absolute(output)
    if not output or paths.is_within(place, archive.path):
        raise InputError(f"--repair {output!r}: must be a folder apart from {archive.path}; name a new one")
    try:
        found = ar.Folder(place).sizes_bytes()
    except NotADirectoryError as error:
        raise InputError(f"--repair {output}: is a file; name a new or empty folder") from error
    rest = [name for name in found if not ar.is_leftover(name)]
    # The model comes last: where it lies alone, it is not ours.
    is_ours = not rest or (rest == [ar.MODEL_FILE] and len(found) > 1)
    if ar.PLAN_FILE in found or not is_ours:
        raise InputError(f"--repair {output}: is there already; name a new or empty folder")
    return ar.Folder(place)


def repair(archive: ar.Folder, output: ar.Folder, workers: int) -> Salvage:
    """Writes a new archive of all intact records of a damaged one, which is left as it is.

    What is lost becomes a row of the new archive's failures table, where its key is known: a run that brings the new
    archive up to date tries it again.

    Args:
        archive: The damaged archive.
        output: Place for the new one, as `check_place` gave it.
        workers: Threads that read.

    Raises:
        TsaeError: if the model or all records are lost, or the new archive cannot be written.
    """
    notes: list[str] = []
    files = _open(archive, notes)
    model_sha256 = files.manifest.model_sha256 if files is not None else _model_of_shards(archive)
    model = _find_model(archive, model_sha256)
    entries, lost = _save_shards(archive, files, output, model_sha256, workers, notes)
    if not entries and (files is None or files.manifest.images):
        raise FormatError(f"{archive.path}: no intact record was found; restore it from a copy")
    failures = _failures(archive, files, lost, notes)
    parts = [ar.write_digested(output, "failures", 0, ar.failures_to_bytes(failures), len(failures))] if failures else []
    lists = ar.write_lists(output, None, {}, entries)
    skipped = files.manifest.counts.skipped if files is not None else 0
    manifest = dataclasses.replace(
        files.manifest if files is not None else _manifest_of(model),
        model_file=ar.MODEL_FILE,
        model_bytes=len(model),
        model_sha256=model_sha256,
        created_by=f"tsae {tsae.__version__}",
        counts=ar.count(output, lists, len(failures), skipped),
        lists=lists,
        failures=tuple(parts),
    )
    ar.write(output, ar.MODEL_FILE, model)
    ar.commit(output, manifest, None)
    ar.clean_up(output, manifest, None)
    return Salvage(output.path, manifest, sorted(lost), notes)


def _open(archive: ar.Folder, notes: list[str]) -> ar.ArchiveFiles | None:
    """The archive; None where its manifest is lost."""
    try:
        return ar.ArchiveFiles(archive.path)
    except (CorruptDataError, FormatError) as error:
        if isinstance(error, FormatError) and not ar.has_lost_manifest(archive):
            raise
    notes.append("with the manifest, its settings are lost: to add to the new archive, make it anew with --overwrite")
    return None


def _model_of_shards(archive: ar.Folder) -> str:
    """Digest of the model that shards say they need, in footers that lists keep or in their own.

    Raises:
        FormatError: if none of these is intact.
    """
    for source in _sources(archive, None, False, []):
        try:
            return str(_open_shard(archive, source, _read_intact(archive, source)).metadata().get("model_sha256"))
        except TsaeError:
            continue
    raise FormatError(f"{archive.path}: neither its manifest nor a shard is intact; restore it from a copy")


def _named(archive: ar.Folder, folder: str) -> list[str]:
    """Files of a kind by their numbers."""
    names = [name for name in archive.sizes_bytes() if name.startswith(f"{folder}/") and ar.FILE_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: (ar.file_number(name), name))


def _read_named(archive: ar.Folder, name: str) -> bytes | None:
    """A file, if it is what its name says."""
    try:
        data = archive.read(name)
    except OSError:
        return None
    return data if ar.is_named_after(name, data) else None


def _find_model(archive: ar.Folder, sha256: str) -> bytes:
    """The model: from the archive, or the one of that digest that comes with tsae.

    Raises:
        FormatError: if it is lost.
    """
    for name in archive.sizes_bytes():
        if name.startswith("model") and name.endswith(".safetensors"):
            try:
                data = archive.read(name)
            except OSError:
                continue
            if ar.digest(data) == sha256:
                return data
    from tsae.zoo import ZOO, read_model_file

    for name, entry in ZOO.items():
        if entry.sha256 == sha256:
            return read_model_file(name)
    raise FormatError(f"{archive.path}: its model (SHA-256 {sha256}) is lost; put a copy there as {ar.MODEL_FILE}")


def _save_shards(
    archive: ar.Folder, files: ar.ArchiveFiles | None, output: ar.Folder, model_sha256: str, workers: int, notes: list[str]
) -> tuple[list[ar.ShardEntry], dict[str, str]]:
    """Entries of the new shards, and the keys that are lost with what happened to them."""
    is_complete = files is not None and _has_all_lists(files)
    total = files.shards if files is not None else len(_named(archive, "shards"))
    entries: list[ar.ShardEntry] = []
    lost: dict[str, str] = {}
    seen: set[str] = set()
    with Progress(total, "repairing", "shards") as progress:
        read = functools.partial(_read_shard, archive, model_sha256)
        for saved in ar.map_in_threads(read, _sources(archive, files, is_complete, notes), min(workers, MOST_WORKERS)):
            lost |= saved.lost
            if not is_complete:  # else no two shards have the same key
                saved = _without(saved, seen)
                seen.update(saved.records.keys)
            if len(saved.records):
                entries.append(_write(saved, output, len(entries), model_sha256))
            progress.update(1)
    return entries, {key: message for key, message in lost.items() if key not in seen}


def _has_all_lists(files: ar.ArchiveFiles) -> bool:
    try:
        return sum(1 for _ in files.entries()) == files.shards
    except TsaeError:
        return False


def _sources(
    archive: ar.Folder, files: ar.ArchiveFiles | None, is_complete: bool, notes: list[str]
) -> Iterator[ar.ShardEntry | str]:
    """The shards that readable lists name, then names of others that are there, should lists be lost."""
    known = set()
    for read in _lists(archive, files):
        try:
            for entry in read():
                if entry.file not in known:
                    known.add(entry.file)
                    yield entry
        except TsaeError:
            continue
    others = [] if is_complete else [name for name in _named(archive, "shards") if name not in known]
    if others:
        notes.append(f"{len(others):,} shards were found without a list: records that had been replaced may be among them")
    yield from others


def _lists(archive: ar.Folder, files: ar.ArchiveFiles | None) -> Iterator[Callable[[], Iterable[ar.ShardEntry]]]:
    if files is not None:
        yield from (functools.partial(files.entries_of, index) for index in range(len(files.manifest.lists)))
        return
    for name in _named(archive, "lists"):
        if (data := _read_named(archive, name)) is not None:
            yield functools.partial(ar.read_list, data, name)


def _read_shard(archive: ar.Folder, model_sha256: str, source: ar.ShardEntry | str) -> _Saved:
    """Reads what is intact of a shard that is known by its entry, or only by its name."""
    entry, name = (None, source) if isinstance(source, str) else (source, source.file)
    data = _read_intact(archive, source)
    origins = ar.read_origins(archive, entry.provenance) if entry is not None else {}
    parts, lost = [], dict.fromkeys(origins, f"lost in {name}: it cannot be read")
    try:
        shard = _open_shard(archive, source, data)
        if shard.metadata().get("model_sha256") != model_sha256:
            raise CorruptDataError(f"{name}: of another model")
        for records, damages in ar.salvage(shard):
            parts.append(records)
            lost |= {damage.key: f"lost in {name}: {damage.message}" for damage in damages if damage.key is not None}
    except TsaeError:
        pass  # what is lost is known by its origins
    found = ar.concatenate(parts)
    keys = set(found.keys)
    return _Saved(entry, data, found, origins, {key: message for key, message in lost.items() if key not in keys})


def _read_intact(archive: ar.Folder, source: ar.ShardEntry | str) -> bytes | None:
    """A shard's file, if it is as it was written."""
    if isinstance(source, str):
        return _read_named(archive, source)
    try:
        data = archive.read(source.file)
    except OSError:
        return None
    return data if ar.digest(data) == source.sha256 else None


def _open_shard(archive: ar.Folder, source: ar.ShardEntry | str, data: bytes | None) -> ar.Shard:
    """A shard by its entry's footer, or by its own where it is intact.

    Raises:
        CorruptDataError: if it cannot be opened.
    """
    if not isinstance(source, str):
        read_range = functools.partial(archive.read_range, source.file)
        return ar.Shard(source.footer, source.data_bytes, read_range, source.file, source.crc32s)
    if data is None:
        raise CorruptDataError(f"{source}: damaged, and no list is left that tells its footer")
    return ar.Shard.of_file(data, source)


def _without(saved: _Saved, seen: set[str]) -> _Saved:
    """The same without the records of some keys."""
    rows = [row for row, key in enumerate(saved.records.keys) if key not in seen]
    if len(rows) == len(saved.records):
        return saved
    return dataclasses.replace(saved, data=None, records=saved.records.take(rows))


def _write(saved: _Saved, output: ar.Folder, number: int, model_sha256: str) -> ar.ShardEntry:
    """Writes a shard: the very bytes, where all of them are good."""
    is_whole = saved.data is not None and not saved.lost
    written = ar.write_shard(output, number, saved.records, saved.origins, model_sha256, saved.data if is_whole else None)
    # Without provenance, only the list has known how large the files were.
    return dataclasses.replace(written, source_bytes=saved.entry.source_bytes) if is_whole and saved.entry else written


def _failures(archive: ar.Folder, files: ar.ArchiveFiles | None, lost: dict[str, str], notes: list[str]) -> list[ar.Failure]:
    """The failures that were there, and the records that are lost."""
    names = _named(archive, "failures") if files is None else [entry.file for entry in files.manifest.failures]
    failures = []
    for name in names:
        if (data := _read_named(archive, name)) is not None:
            failures += ar.failures_from_bytes(data, name)
        else:
            notes.append(f"{name}: damaged; the failures in it are no longer known")
    known = {failure.path for failure in failures}
    return failures + [ar.Failure(key, "read", "CorruptDataError", lost[key]) for key in lost if key not in known]


def _manifest_of(model: bytes) -> ar.Manifest:
    """What is known of an archive by its model alone."""
    from tsae.checkpoint import model_from_bytes

    read = model_from_bytes(model, ar.MODEL_FILE)
    return ar.Manifest(
        requires=(),
        model=read.name,
        model_file=ar.MODEL_FILE,
        model_bytes=len(model),
        model_sha256=ar.digest(model),
        latent_shape=read.weights.latent_shape,
        preprocessing=read.preprocessing.to_json(),
        settings=ar.Settings(source="", root="", verify=False, min_psnr_db=None),
        created_by="",
        counts=ar.Counts(0, 0, 0, 0, 0, 0, 0, 0, None, None),
        lists=(),
        failures=(),
    )
