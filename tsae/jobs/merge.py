"""Merging shards: the records of many, sorted by key, in few new ones; in memory of a fixed size, whatever their number.

Records stay what they are to the byte, and what is known of their files goes along. Nothing is decoded.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Sequence, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tsae import archive as ar
from tsae.errors import CorruptDataError, FormatError
from tsae.jobs.choice import IsRemoved
from tsae.jobs.plan import cut

BUFFER_BYTES = 2**27
"""Bytes of records that are held at once, some 500,000; a copy of them is made when they are sorted. More than that are
merged in several passes over the shards, each of which reads those that may have the keys that come next."""

ORIGIN_COLUMNS = (pa.field("size_bytes", pa.uint64()), pa.field("version", pa.string()), pa.field("sha256", pa.binary()))
"""What is known of the file of each record; a digest that is null says that all but the size is not known."""

SCHEMA = pa.schema([*ar.RECORD_SCHEMA, *ORIGIN_COLUMNS])


@dataclasses.dataclass
class Account:
    """What goes in or comes out, so that nothing can be lost on the way.

    Attributes:
        records: How many.
        sum: Of a checksum of each record's key and contents, in any order.
    """

    records: int = 0
    sum: int = 0

    def add(self, keys: Sequence[str], crc32s: Sequence[int]) -> None:
        """Counts some records."""
        self.records += len(keys)
        self.sum += sum(zlib.crc32(key.encode(), crc32) for key, crc32 in zip(keys, crc32s, strict=True))


class Merger:
    """Some shards of a state, to be merged."""

    def __init__(self, files: ar.ArchiveFiles, numbers: Set[int], is_removed: IsRemoved | None) -> None:
        """Reads nothing yet.

        Args:
            files: The state.
            numbers: Of the shards.
            is_removed: Which records are left out; None leaves out none.
        """
        self._files, self._numbers, self._is_removed = files, numbers, is_removed
        self._read: dict[int, Account] = {}

    def write(self, records: int, first_number: int) -> Iterator[ar.ShardEntry]:
        """Writes the new shards, as many and as large as a first compression would make them.

        Args:
            records: How many there are, those left out excepted.
            first_number: Of the first new shard.

        Yields:
            The entry of each, when it has been written and read back.

        Raises:
            TsaeError: if a shard is damaged, or one cannot be written.
        """
        sizes, written, last = [len(task.rows) for task in cut(range(records))], Account(), None
        done = 0
        while done < len(sizes):
            table, start = self._next(last, sizes[done:]), 0
            while done < len(sizes) and start + sizes[done] <= len(table):
                entry = _write(self._files, first_number + done, table.slice(start, sizes[done]))
                last = self._check(entry, last, written)
                start, done = start + sizes[done], done + 1
                yield entry
            if not start:
                raise self._fault("fewer records than it says")
        read = Account(sum(x.records for x in self._read.values()), sum(x.sum for x in self._read.values()))
        if read != written or read.records != records:
            raise self._fault("records that do not come out as they went in")

    def _fault(self, what: str) -> FormatError:
        return FormatError(f"{self._files.folder.path}: {what}; check it with tsae verify")

    def _next(self, last: str | None, sizes: Sequence[int]) -> pa.Table:
        """The records that come after the key `last`, sorted: enough for the next new shard at least."""
        tables, size_bytes, limit_bytes, bound = [SCHEMA.empty_table()], 0, BUFFER_BYTES, None
        for number, entry in enumerate(self._files.entries()):
            is_before = last is not None and entry.last_key <= last
            if number not in self._numbers or is_before or (bound is not None and entry.first_key > bound):
                continue
            table = _between(self._table(number, entry), last, bound)
            tables.append(table)
            size_bytes += table.nbytes
            if size_bytes > limit_bytes:
                tables = [_sorted(tables)]
                if len(tables[0]) >= sizes[0]:
                    tables = [_cut_down(tables[0], sizes)]
                    bound = tables[0].column("key")[-1].as_py()
                size_bytes = tables[0].nbytes
                limit_bytes = max(BUFFER_BYTES, 2 * size_bytes)
        return _sorted(tables)

    def _table(self, number: int, entry: ar.ShardEntry) -> pa.Table:
        """The records of a shard that stay, with what is known of their files."""
        table = _with_origins(_read_records(self._files, entry), entry, ar.read_origins(self._files.folder, entry.provenance))
        if self._is_removed is not None:
            stays = ~self._is_removed(table.column("key").to_pylist())
            table = table if stays.all() else table.filter(pa.array(stays))
        if number not in self._read:
            account = self._read[number] = Account()
            account.add(table.column("key").to_pylist(), table.column("crc32").to_pylist())
        return table

    def _check(self, entry: ar.ShardEntry, last: str | None, written: Account) -> str:
        """Reads back a new shard; returns its last key."""
        folder = self._files.folder
        data = ar.read_digested(folder, entry.file, entry.sha256, entry.bytes)
        rows = ar.Shard.of_file(data, f"{folder.path}/{entry.file}").columns(["key", "crc32"])
        written.add([row["key"] for row in rows], [row["crc32"] for row in rows])
        if last is not None and entry.first_key <= last:
            raise self._fault(f"the key {ar.shown(entry.first_key)} twice")
        return entry.last_key


def _read_records(files: ar.ArchiveFiles, entry: ar.ShardEntry) -> pa.Table:
    """All records of a shard, each known to be intact."""
    try:
        shard = files.open_entry(entry)
        if added := shard.added_columns():
            raise FormatError(f"{entry.file}: a newer tsae has written columns {added} there; update tsae")
        tables = [shard.table(group) for group in range(shard.row_groups)]
        for group, table in enumerate(tables):
            records, is_intact = shard.check(table, group)
            if not is_intact.all():
                key = ar.shown(records.keys[int(is_intact.argmin())])
                raise CorruptDataError(f"{shard.source}: the record of {key} does not match its checksum; restore the file")
    except CorruptDataError as error:
        raise CorruptDataError(f"{error}, or save what is intact with tsae verify {files.folder.path} --repair OUT") from error
    return pa.concat_tables([table.select(ar.RECORD_SCHEMA.names).cast(ar.RECORD_SCHEMA) for table in tables])


def _with_origins(table: pa.Table, entry: ar.ShardEntry, origins: dict[str, ar.Origin]) -> pa.Table:
    """Adds what is known of the files; of the sizes at least their sum is always known."""
    known = [origins.get(key) for key in table.column("key").to_pylist()]
    rest, lacking = entry.source_bytes - sum(origin.size_bytes for origin in known if origin), known.count(None)
    shares = iter([rest * (i + 1) // lacking - rest * i // lacking for i in range(lacking)] if rest > 0 else [0] * lacking)
    columns = [
        [origin.size_bytes if origin else next(shares) for origin in known],
        [origin.version if origin else None for origin in known],
        [origin.sha256 if origin else None for origin in known],
    ]
    for column, field in zip(columns, ORIGIN_COLUMNS, strict=True):
        table = table.append_column(field, pa.array(column, field.type))
    return table


def _between(table: pa.Table, last: str | None, bound: str | None) -> pa.Table:
    """The records after one key, up to another."""
    keys = table.column("key")
    if last is not None:
        table, keys = table.filter(pc.greater(keys, last)), keys.filter(pc.greater(keys, last))
    return table if bound is None else table.filter(pc.less_equal(keys, bound))


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables).combine_chunks()
    return table.take(pc.sort_indices(table, [("key", "ascending")]))


def _cut_down(table: pa.Table, sizes: Sequence[int]) -> pa.Table:
    """The first records, for as many whole new shards as half the buffer holds, and for one at least."""
    rows = sizes[0]
    for size in sizes[1:]:
        if rows + size > len(table) or table.slice(0, rows + size).nbytes > BUFFER_BYTES // 2:
            break
        rows += size
    return table.take(pa.array(np.arange(rows)))  # a copy, so that the memory of the rest is given back


def _write(files: ar.ArchiveFiles, number: int, table: pa.Table) -> ar.ShardEntry:
    records, is_intact = ar.records_from_table(table.select(ar.RECORD_SCHEMA.names))
    assert is_intact.all()  # noqa: S101 - they were when they were read
    for key, after in itertools.pairwise(records.keys):
        if key == after:
            raise FormatError(f"{files.folder.path}: the key {ar.shown(key)} is there twice; save it with tsae verify --repair")
    facts = zip(*(table.column(field.name).to_pylist() for field in ORIGIN_COLUMNS), strict=True)
    rows = list(zip(records.keys, facts, strict=True))
    origins = {key: ar.Origin(*origin) for key, origin in rows if origin[2] is not None}
    entry = ar.write_shard(files.folder, number, records, origins, files.manifest.model_sha256)
    return dataclasses.replace(entry, source_bytes=sum(origin[0] for _, origin in rows))
