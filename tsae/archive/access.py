"""Access to the records of a committed archive: by key, by position, by shard, all of them. Owns finding, not decoding.

A position is a record's place in the order of commits, and of keys within a shard; later commits add positions at the end.
"""

from __future__ import annotations

import bisect
import dataclasses
import fnmatch
import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tsae.archive.failures import Failure, failures_from_bytes
from tsae.archive.files import read_digested
from tsae.archive.lists import ShardEntry, ShardList
from tsae.archive.manifest import Manifest, read_manifest_text
from tsae.archive.provenance import Origin, read_origins
from tsae.archive.records import RECORD_SCHEMA, Records, concatenate, key_fault
from tsae.archive.shards import Shard
from tsae.errors import CorruptDataError, FormatError
from tsae.paths import Folder

T = TypeVar("T")

OPEN_LISTS = 16
"""Lists kept in memory, of some 5 MB each: 67 million images."""

OPEN_SHARDS = 512
"""Shards whose footers are kept parsed, some 100 kB each: two million images."""

OPEN_GROUPS = 1024
"""Row groups whose keys are kept, some 50 kB each, where a key may lie in several shards: after many small updates."""


def matches(key: str, glob: str | None) -> bool:
    """Whether a glob matches a key; `*` also matches `/`, and None matches all."""
    return glob is None or fnmatch.fnmatchcase(key, glob)


def _kept(count: int, method: Callable[..., T]) -> Callable[..., T]:
    """A method whose last results are kept as long as its object lives, which they do not keep alive."""
    found = weakref.WeakMethod(method)

    @functools.lru_cache(count)
    def call(*args: int) -> T:
        live = found()
        assert live is not None  # noqa: S101 (for the type checker: who calls has the object)
        return live(*args)

    return call


def _explain(message: str, folder: Folder, manifest_text: bytes) -> str:
    """A message on a missing or wrong file, or what is behind it if the archive is no longer the one opened."""
    try:
        is_current = read_manifest_text(folder) == manifest_text
    except FormatError:
        is_current = True
    return message if is_current else f"{folder.path}: was changed since it was opened; open it again"


@dataclasses.dataclass(frozen=True)
class _RangeReader:
    """Reads from one file of a state."""

    folder: Folder
    manifest_text: bytes
    name: str

    def __call__(self, start: int, length: int) -> bytes:
        try:
            return self.folder.read_range(self.name, start, length)
        except OSError as error:
            message = f"{self.folder.path}/{self.name}: cannot be read ({error.strerror or error}); restore the file"
            raise CorruptDataError(_explain(message, self.folder, self.manifest_text)) from error


class ArchiveFiles:
    """One committed state of an archive. Safe to share between threads, and to pickle: the state goes along.

    Nothing but the manifest is read before it is needed, and no file stays open.
    """

    def __init__(self, path: str, manifest_text: bytes | None = None) -> None:
        """Reads the manifest.

        Args:
            path: Local path or URL of the archive.
            manifest_text: The manifest's bytes, where they are known already.

        Raises:
            FormatError: if there is no archive of this version.
        """
        self.folder = Folder(path)
        self.manifest_text = read_manifest_text(self.folder) if manifest_text is None else manifest_text
        self.manifest = Manifest.from_json(self.manifest_text, f"{path}/manifest.json")
        self._image_ends = list(itertools.accumulate(entry.images for entry in self.manifest.lists))
        self._shard_ends = list(itertools.accumulate(entry.rows for entry in self.manifest.lists))
        self._list: Callable[[int], ShardList] = _kept(OPEN_LISTS, self._read_list)
        self._shard: Callable[[int, int], Shard] = _kept(OPEN_SHARDS, self._open_shard)
        self._group_keys: Callable[[int, int, int], frozenset[str]] = _kept(OPEN_GROUPS, self._read_group_keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return ArchiveFiles, (self.folder.path, self.manifest_text)

    def model_file(self) -> bytes:
        """The bytes of the model, known to be those that the archive was written with.

        Raises:
            FormatError: if the file is missing or is another one.
        """
        return self._whole_file(self.manifest.model_file, self.manifest.model_sha256, self.manifest.model_bytes)

    def _whole_file(self, name: str, sha256: str, size_bytes: int) -> bytes:
        try:
            return read_digested(self.folder, name, sha256, size_bytes)
        except FormatError as error:
            raise FormatError(_explain(str(error), self.folder, self.manifest_text)) from error

    def _read_list(self, index: int) -> ShardList:
        entry = self.manifest.lists[index]
        found = ShardList(self._whole_file(entry.file, entry.sha256, entry.bytes), f"{self.folder.path}/{entry.file}")
        ends = [min(row["first_key"] for row in found.rows), max(row["last_key"] for row in found.rows)] if found.rows else []
        if (len(found), found.ends[-1:], ends) != (entry.rows, [entry.images], [entry.first_key, entry.last_key]):
            raise CorruptDataError(f"{found.source}: not what the manifest says of it; restore the file")
        return found

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._shard_ends[-1] if self._shard_ends else 0

    def entry(self, shard: int) -> ShardEntry:
        """What the archive says of a shard, by its number in the order of positions.

        Raises:
            TsaeError: if its list is missing or damaged.
        """
        index = bisect.bisect_right(self._shard_ends, shard)
        return self._list(index).entry(shard - (self._shard_ends[index - 1] if index else 0))

    def facts(self, shard: int) -> dict[str, Any]:
        """The same without what opens it: an entry's fields by name, which cost no further reading.

        Raises:
            TsaeError: if its list is missing or damaged.
        """
        index = bisect.bisect_right(self._shard_ends, shard)
        return self._list(index).rows[shard - (self._shard_ends[index - 1] if index else 0)]

    def rows_before(self, shard: int) -> int:
        """The position of a shard's first record.

        Raises:
            TsaeError: if its list is missing or damaged.
        """
        index = bisect.bisect_right(self._shard_ends, shard)
        row = shard - (self._shard_ends[index - 1] if index else 0)
        return (self._image_ends[index - 1] if index else 0) + (self._list(index).ends[row - 1] if row else 0)

    def entries(self) -> Iterator[ShardEntry]:
        """All shards' entries in the order of positions.

        Raises:
            TsaeError: if a list is missing or damaged.
        """
        for index in range(len(self.manifest.lists)):
            yield from self._list(index).entries()

    def entries_of(self, index: int) -> Iterator[ShardEntry]:
        """The entries of one list in their order.

        Raises:
            TsaeError: if it is missing or damaged.
        """
        return self._list(index).entries()

    def list_table(self, index: int) -> pa.Table:
        """The same as a table, see `tsae.archive.lists.list_table`.

        Raises:
            TsaeError: if it is missing or damaged.
        """
        return self._list(index).table()

    def shard(self, shard: int) -> Shard:
        """A shard, by its number in the order of positions.

        Raises:
            TsaeError: if its list is missing or damaged, or says of it what cannot be.
        """
        index = bisect.bisect_right(self._shard_ends, shard)
        return self._shard(index, shard - (self._shard_ends[index - 1] if index else 0))

    def _open_shard(self, index: int, row: int) -> Shard:
        return self.open_entry(self._list(index).entry(row))

    def open_entry(self, entry: ShardEntry) -> Shard:
        """The shard that an entry names.

        Raises:
            CorruptDataError: if the entry contradicts itself.
        """
        source = f"{self.folder.path}/{entry.file}"
        read_range = _RangeReader(self.folder, self.manifest_text, entry.file)
        shard = Shard(entry.footer, entry.data_bytes, read_range, source, entry.crc32s)
        keys = zip((shard.describe(0)[0], shard.describe(-1)[1]), (entry.first_key, entry.last_key), strict=True)
        is_other = any(found not in (None, named) for found, named in keys)
        if is_other or (shard.rows, shard.metadata().get("model_sha256")) != (entry.rows, self.manifest.model_sha256):
            raise CorruptDataError(f"{source}: not the shard that the archive names; restore the file")
        return shard

    def records(self, keys: Iterable[str]) -> Records:
        """The records of some keys, in the order asked for, reading each row group that holds one of them once.

        Args:
            keys: Any iterable of keys but a single one.

        Raises:
            KeyError: if there is no such key.
            TsaeError: if one is damaged.
            ValueError: for a single key.
        """
        if isinstance(keys, str):
            raise ValueError(f"{keys!r} is one key, where several are expected; give [key]")
        keys = list(keys)
        for key in keys:
            if key_fault(key):
                raise KeyError(key)
        found: dict[str, Records] = {}
        open_keys = dict.fromkeys(keys)
        for lookup in range(len(self.manifest.lists), 0, -1):
            if open_keys:
                self._find_in_list(lookup - 1, open_keys, found)
        for key in open_keys:
            raise KeyError(key)
        return concatenate([found[key] for key in keys])

    def has(self, key: str) -> bool:
        """Whether there is a record of a key; only keys are read.

        Raises:
            TsaeError: if what has to be read is damaged.
        """
        return self.shard_of(key) is not None

    def shard_of(self, key: str) -> int | None:
        """The number, in the order of positions, of the shard that has a key; None if none has. Only keys are read.

        Raises:
            TsaeError: if what has to be read is damaged.
        """
        for index, entry in enumerate(self.manifest.lists):
            if not key_fault(key) and entry.first_key <= key <= entry.last_key:
                for shard in self._list(index).candidates(key):
                    row_group = self._shard(index, shard).group_of(key)
                    if row_group is not None and key in self._group_keys(index, shard, row_group):
                        return shard + (self._shard_ends[index - 1] if index else 0)
        return None

    def _read_group_keys(self, index: int, shard: int, row_group: int) -> frozenset[str]:
        return frozenset(self._shard(index, shard).keys(row_group))

    def to_table(self) -> pa.Table:
        """All records in the order of positions, each known to be intact, as a table of the shards' columns.

        Raises:
            TsaeError: if a record is damaged.
        """
        shards = map(self.shard, range(self.shards))
        groups = [(shard, row_group) for shard in shards for row_group in range(shard.row_groups)]
        tables = [_intact(shard, row_group, shard.table(row_group)).to_table() for shard, row_group in groups]
        return pa.concat_tables(tables) if tables else RECORD_SCHEMA.empty_table()

    def _find_in_list(self, index: int, open_keys: dict[str, None], found: dict[str, Records]) -> None:
        """Moves the keys that a list's shards hold from `open_keys` to `found`."""
        lists, entry = self.manifest.lists, self.manifest.lists[index]
        inside = [key for key in open_keys if entry.first_key <= key <= entry.last_key]
        wanted: dict[tuple[int, int], list[str]] = {}
        unsure = set()
        for key in inside:
            groups = [(shard, self._shard(index, shard).group_of(key)) for shard in self._list(index).candidates(key)]
            places = [(shard, row_group) for shard, row_group in groups if row_group is not None]
            for place in places:
                wanted.setdefault(place, []).append(key)
            if len(places) > 1 or sum(other.first_key <= key <= other.last_key for other in lists) > 1:
                unsure.add(key)
        for (shard, row_group), group_keys in sorted(wanted.items()):
            rest = [key for key in group_keys if key in open_keys]
            if unsure.issuperset(rest):  # most places have none of them: the streams there are not worth reading
                rest = [key for key in rest if key in self._group_keys(index, shard, row_group)]
            for key, record in _pick_keys(self._shard(index, shard), row_group, rest):
                found[key] = record
                del open_keys[key]

    def records_at(self, positions: Sequence[int]) -> Records:
        """The records at some positions, in the order asked for, reading each row group that holds one of them once.

        Raises:
            IndexError: if there is no such position; negative ones are not looked for.
            TsaeError: if one is damaged.
        """
        wanted: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        for place, position in enumerate(positions):
            index, shard, row_group, row = self._locate(position)
            wanted.setdefault((index, shard, row_group), []).append((place, row))
        parts, places = [], []
        for (index, shard, row_group), rows in sorted(wanted.items()):
            parts.append(_pick_rows(self._shard(index, shard), row_group, [row for _, row in rows]))
            places += [place for place, _ in rows]
        order = sorted(range(len(places)), key=places.__getitem__)
        return concatenate(parts).take(order)

    def place(self, position: int) -> tuple[int, int, int]:
        """Shard, row group in it, and row in that, of a position; only lists and footers are read.

        Raises:
            IndexError: if there is no such position; negative ones are not looked for.
            TsaeError: if its list is missing or damaged.
        """
        index, shard, row_group, row = self._locate(position)
        return shard + (self._shard_ends[index - 1] if index else 0), row_group, row

    def _locate(self, position: int) -> tuple[int, int, int, int]:
        """List, shard in it, row group in that, and row in that, of a position."""
        if not 0 <= position < self.manifest.images:
            raise IndexError(f"position {position} of {self.manifest.images}")
        index = bisect.bisect_right(self._image_ends, position)
        row = position - (self._image_ends[index - 1] if index else 0)
        ends = self._list(index).ends
        shard = bisect.bisect_right(ends, row)
        row -= ends[shard - 1] if shard else 0
        return index, shard, *self._shard(index, shard).locate(row)

    def shard_records(self, shard: int) -> Records:
        """All records of a shard.

        Raises:
            TsaeError: if it, or a record of it, is damaged.
        """
        reader = self.shard(shard)
        return concatenate([_intact(reader, group, reader.table(group)) for group in range(reader.row_groups)])

    def origins(self, shard: int) -> dict[str, Origin]:
        """What the records of a shard were made from, by key; empty where that was left out, or is damaged."""
        return read_origins(self.folder, self.entry(shard).provenance)

    def keys(self) -> Iterator[str]:
        """All keys in the order of positions.

        Raises:
            TsaeError: if a shard cannot be read.
        """
        for shard in range(self.shards):
            yield from self.shard(shard).keys()

    def rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """The named columns of all records in the order of positions.

        Raises:
            TsaeError: if a shard cannot be read.
        """
        for shard in range(self.shards):
            yield from self.shard(shard).columns(columns)

    def failures(self) -> list[Failure]:
        """The failures table, sorted by path.

        Raises:
            FormatError: if a file of it cannot be read, or is not the one that the manifest names.
        """
        found = []
        for entry in self.manifest.failures:
            data = self._whole_file(entry.file, entry.sha256, entry.bytes)
            found += failures_from_bytes(data, f"{self.folder.path}/{entry.file}")
        return sorted(found, key=lambda failure: failure.path)


def _pick_keys(shard: Shard, row_group: int, keys: list[str]) -> Iterator[tuple[str, Records]]:
    """Those of some keys that a row group has, and their records; the group is read once."""
    if keys:
        table = shard.table(row_group)
        rows = pc.index_in(pa.array(keys, pa.string()), table.column("key").combine_chunks()).to_pylist()
        there = [(key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
        records = _intact(shard, row_group, table.take(pa.array([row for _, row in there], pa.int64())))
        yield from ((key, records.take([i])) for i, (key, _) in enumerate(there))


def _pick_rows(shard: Shard, row_group: int, rows: list[int]) -> Records:
    return _intact(shard, row_group, shard.table(row_group).take(rows))


def _intact(shard: Shard, row_group: int, table: pa.Table) -> Records:
    """Rows of a row group as records.

    Raises:
        CorruptDataError: if one is damaged; the message names its key.
    """
    records, intact = shard.check(table, row_group)
    if not intact.all():
        key = records.keys[int(intact.argmin())]
        raise CorruptDataError(f"{shard.source}: the record of {key[:100]!r} does not match its checksum; restore the file")
    return records
