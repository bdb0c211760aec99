"""Lists: the level between manifest and shards. Each names up to 1,024 shards, with what finds and opens a record in them.

A list keeps a copy of each shard's footer. So one read opens any number of shards, nothing that a damaged shard says of
itself has to be believed, and the records of a shard whose own footer is damaged or cut off can still be read.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tsae.archive.files import MAX_LIST_SHARDS, FileEntry, check_name
from tsae.archive.parquet import TAIL_BYTES, TableFile, TableReader
from tsae.errors import CorruptDataError

LIST_SHARDS = MAX_LIST_SHARDS
"""Most shards of a list: 4 million images, in about 2 MB that take milliseconds to read."""

GROUP_SHARDS = 64
GROUP_BYTES = 2**22
"""Most shards in a row group of a list file, and bytes of their footers, which bounds what reading it takes at a time."""

LAZY = ["footer", "crc32s"]
"""Columns that are only read for the shard that is opened."""

LIST_FILE = TableFile(
    "a list of shards",
    pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            pa.field("rows", pa.uint32(), nullable=False),
            pa.field("bytes", pa.uint64(), nullable=False),
            pa.field("sha256", pa.binary(32), nullable=False),
            pa.field("first_key", pa.string(), nullable=False),
            pa.field("last_key", pa.string(), nullable=False),
            pa.field("source_bytes", pa.uint64(), nullable=False),
            pa.field("stream_bytes", pa.uint64(), nullable=False),
            pa.field("lossless", pa.uint32(), nullable=False),
            pa.field("lossless_bytes", pa.uint64(), nullable=False),
            pa.field("psnr_min_db", pa.float32()),
            pa.field("psnr_sum_db", pa.float64()),
            pa.field("provenance", pa.string()),
            pa.field("footer", pa.binary(), nullable=False),
            pa.field("crc32s", pa.binary(), nullable=False),
        ]
    ),
)


@dataclasses.dataclass(frozen=True)
class ShardEntry(FileEntry):
    """A shard, as a list names it.

    Attributes:
        first_key: Smallest key.
        last_key: Largest key.
        source_bytes: Size of the image files that its records were made from.
        stream_bytes: Sum of its streams' lengths.
        lossless: Number of records that hold their image losslessly as well.
        lossless_bytes: Sum of those images' lengths.
        psnr_min_db: Least PSNR of its images; None where one was not measured.
        psnr_sum_db: Sum of the PSNRs of its images; None where one was not measured.
        provenance: Name of the file that says what the records were made from; None if there is none.
        footer: Copy of the Parquet file's footer.
        crc32s: Of the file's column chunks, as `tsae.archive.shards.chunk_crc32s` gives them.
    """

    first_key: str
    last_key: str
    source_bytes: int
    stream_bytes: int
    lossless: int
    lossless_bytes: int
    psnr_min_db: float | None
    psnr_sum_db: float | None
    provenance: str | None
    footer: bytes = dataclasses.field(repr=False)
    crc32s: bytes = dataclasses.field(repr=False)

    @property
    def data_bytes(self) -> int:
        """Size of the shard before its footer."""
        return self.bytes - len(self.footer) - TAIL_BYTES


def list_to_bytes(entries: Sequence[ShardEntry]) -> bytes:
    """The list file of some shards, in their order; equal entries give equal bytes."""
    return table_to_bytes(list_table(entries))


def list_table(entries: Sequence[ShardEntry]) -> pa.Table:
    """What a list file holds of some shards."""
    columns = [[getattr(entry, name) for entry in entries] for name in LIST_FILE.schema.names]
    columns[LIST_FILE.schema.get_field_index("sha256")] = [bytes.fromhex(entry.sha256) for entry in entries]
    return pa.table(columns, schema=LIST_FILE.schema)


def table_to_bytes(table: pa.Table) -> bytes:
    """The list file of what `list_table` gives."""
    return LIST_FILE.to_bytes(table, _row_groups(pc.binary_length(table.column("footer")).to_pylist()))


def _row_groups(footers_bytes: Sequence[int]) -> Iterator[int]:
    """Numbers of rows of the row groups: each is filled up to GROUP_SHARDS or GROUP_BYTES, or holds one entry."""
    rows = size_bytes = 0
    for footer_bytes in footers_bytes:
        if rows == GROUP_SHARDS or (rows and size_bytes + footer_bytes > GROUP_BYTES):
            yield rows
            rows = size_bytes = 0
        rows, size_bytes = rows + 1, size_bytes + footer_bytes
    if rows:
        yield rows


class ShardList:
    """The shards of one list file, in their order. Safe to share between threads."""

    def __init__(self, file: bytes, source: str) -> None:
        """Reads all but the footers.

        Args:
            file: The whole file, known to be the one that was written.
            source: Its path, for messages.

        Raises:
            CorruptDataError: if it is no list.
        """
        self.source = source
        """Path of the file."""
        self.rows: list[dict[str, Any]]
        """Entries in order, as fields by name, without footers."""
        self._file = file
        self._table = TableReader.of_file(LIST_FILE, file, source)
        names = [name for name in LIST_FILE.schema.names if name not in LAZY]
        groups = [self._table.read(i, self._read, names) for i in range(len(self._table.row_groups))]
        try:
            self.rows = [row for group in groups for row in group.to_pylist()]
            for row in self.rows:
                _check_row(row)
        except ValueError as error:
            raise CorruptDataError(f"{source}: {error}; restore the file") from error
        self.ends = list(itertools.accumulate(row["rows"] for row in self.rows))
        self._group_ends = list(itertools.accumulate(group.rows for group in self._table.row_groups))

    def _read(self, start: int, length: int) -> bytes:
        return self._file[start : start + length]

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.rows)

    def files(self) -> set[str]:
        """Names of the shards and of their provenance."""
        return {row[name] for row in self.rows for name in ("file", "provenance") if row[name] is not None}

    def candidates(self, key: str) -> list[int]:
        """The shards whose range of keys includes `key`, the last one first."""
        rows = self.rows
        return [i for i in reversed(range(len(rows))) if rows[i]["first_key"] <= key <= rows[i]["last_key"]]

    def entry(self, index: int) -> ShardEntry:
        """A shard's entry.

        Raises:
            CorruptDataError: if its footer cannot be read.
        """
        group = bisect.bisect_right(self._group_ends, index)
        row = index - (self._group_ends[group - 1] if group else 0)
        lazy = self._table.read(group, self._read, LAZY).slice(row, 1).to_pylist()[0]
        return self._entry(self.rows[index], lazy)

    def entries(self) -> Iterator[ShardEntry]:
        """All entries in order.

        Raises:
            CorruptDataError: if footers cannot be read.
        """
        index = 0
        for group in range(len(self._table.row_groups)):
            for lazy in self._table.read(group, self._read, LAZY).to_pylist():
                yield self._entry(self.rows[index], lazy)
                index += 1

    def table(self) -> pa.Table:
        """What the file holds, as `list_table` gives it: nothing becomes an object of its own.

        Raises:
            CorruptDataError: if footers cannot be read.
        """
        groups = range(len(self._table.row_groups))
        return pa.concat_tables([self._table.read(group, self._read, LIST_FILE.schema.names) for group in groups])

    def _entry(self, row: dict[str, Any], lazy: dict[str, Any]) -> ShardEntry:
        return ShardEntry(**{**row, **lazy, "sha256": row["sha256"].hex()})


def _check_row(row: dict[str, Any]) -> None:
    """Raises ValueError unless names stay inside the archive and numbers make sense."""
    check_name(row["file"], "shards")
    if row["provenance"] is not None:
        check_name(row["provenance"], "provenance")
    if row["first_key"] > row["last_key"] or row["rows"] == 0:
        raise ValueError(f"{row['file']} claims keys or rows that no shard has")
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        raise ValueError(f"{row['file']} claims a PSNR that is no number")


def read_list(file: bytes, source: str) -> list[ShardEntry]:
    """All entries of a list file.

    Raises:
        CorruptDataError: if it is no list.
    """
    return list(ShardList(file, source).entries())
