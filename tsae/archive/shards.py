"""Shard files: records as Parquet whose bytes depend on the records alone. Owns encodings and row groups."""

from __future__ import annotations

import bisect
import functools
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsae.archive.files import MAX_SHARD_RECORDS
from tsae.archive.layout import RowGroup, read_layout
from tsae.archive.parquet import TableFile, TableReader, split_file
from tsae.archive.records import RECORD_SCHEMA, Records, column_values, records_from_table
from tsae.errors import CorruptDataError

ROW_GROUP_BYTES = 250_000
"""Most bytes of a row group, rounded down from 256 kB for what pages add: one image costs one row group to read."""

MAX_UNPACKED_BYTES = 2**28
"""Most bytes of a shard, unpacked: five times what 4,096 records with lossless images and the longest keys and labels take.
Some steps hold a whole shard, and zstd packs 16 MiB of zeros in a kilobyte."""

RECORD_EXTRA_BYTES = 36
"""Bound of what a record takes beside streams, key and label: 5 numbers and 4 lengths, of 4 bytes each at most."""

SHARD_FILE = TableFile(
    "a shard",
    RECORD_SCHEMA,
    dictionaries=("label", "coding"),
    encodings=(
        ("width", "DELTA_BINARY_PACKED"),
        ("height", "DELTA_BINARY_PACKED"),
        ("psnr_db", "BYTE_STREAM_SPLIT"),
        ("stream", "DELTA_LENGTH_BYTE_ARRAY"),
    ),
    incompressible=("stream", "lossless", "crc32"),
    statistics=("key",),
    self_checked=("stream", "lossless", "crc32"),
)
"""Encodings measured for size on 4,096 keys and sizes of GTSRB; plain keys, because prefixes could expand without bound."""


def shard_to_bytes(records: Records, metadata: dict[str, Any]) -> bytes:
    """Writes a shard.

    Args:
        records: At least one, sorted by key.
        metadata: JSON values to keep in the file's key-value metadata under `tsae`.

    Returns:
        The Parquet file; equal arguments give equal bytes (with the same pyarrow).

    Raises:
        ValueError: if the keys are not sorted, repeat, or there are none.
    """
    if not records.keys or any(a >= b for a, b in zip(records.keys, records.keys[1:], strict=False)):
        raise ValueError("a shard needs records with sorted, different keys")
    return SHARD_FILE.to_bytes(records.to_table(), _row_groups(records), metadata)


def _row_groups(records: Records) -> Iterator[int]:
    """Numbers of rows of the row groups: each is filled up to ROW_GROUP_BYTES, or holds one record."""
    rows = size_bytes = 0
    columns = zip(records.keys, records.labels, records.streams, records.lossless, strict=True)
    for key, label, stream, lossless in columns:
        text_bytes = len(key.encode()) + len((label or "").encode())
        record_bytes = text_bytes + len(stream) + len(lossless or b"") + RECORD_EXTRA_BYTES
        if rows and size_bytes + record_bytes > ROW_GROUP_BYTES:
            yield rows
            rows = size_bytes = 0
        rows, size_bytes = rows + 1, size_bytes + record_bytes
    yield rows


def chunk_crc32s(file: bytes) -> bytes:
    """CRC-32 of the bytes of each column of each row group of a shard: u32, little-endian, row group after row group."""
    start, footer = split_file(file)
    chunks = [chunk for group in read_layout(footer, start, SHARD_FILE.columns()) for chunk in group.chunks]
    return struct.pack(f"<{len(chunks)}I", *(zlib.crc32(file[chunk.start : chunk.end]) for chunk in chunks))


ReadRange = Callable[[int, int], bytes]
"""Gives so many bytes of a file from an offset; raises OSError."""


class Shard:
    """One shard, known by its footer. Reads row groups on demand; holds no open file, safe to share between threads."""

    def __init__(self, footer: bytes, data_bytes: int, read_range: ReadRange, source: str, crc32s: bytes | None = None) -> None:
        """Checks what the footer claims; reads no record.

        Args:
            footer: Of the shard's Parquet file.
            data_bytes: Size of the file before the footer.
            read_range: Reads from the file.
            source: Its path, for messages.
            crc32s: What `chunk_crc32s` gave for the file; None where the whole file is known to be right.

        Raises:
            CorruptDataError: if it is no shard, or a damaged one.
        """
        self.source = source
        self._table = TableReader(SHARD_FILE, footer, data_bytes, source)
        self._read_range = read_range
        self._ends = np.cumsum([group.rows for group in self._table.row_groups]).tolist()
        if not self._ends:
            raise CorruptDataError(f"{source}: a shard without records; restore the file")
        if self.rows > MAX_SHARD_RECORDS:
            raise CorruptDataError(f"{source}: {self.rows} records, at most {MAX_SHARD_RECORDS} are read; restore the file")
        unpacked_bytes = sum(group.unpacked_bytes for group in self._table.row_groups)
        if unpacked_bytes > MAX_UNPACKED_BYTES:
            most = f"at most {MAX_UNPACKED_BYTES} are read"
            raise CorruptDataError(f"{source}: {unpacked_bytes} bytes of records, {most}; restore the file")
        if crc32s is not None and len(crc32s) != 4 * len(RECORD_SCHEMA) * self.row_groups:
            raise CorruptDataError(f"{source}: {len(crc32s)} bytes of checksums are not those of its columns; restore the file")
        self._crc32s = crc32s

    @classmethod
    def of_file(cls, file: bytes, source: str) -> Shard:
        """A shard whose whole file is at hand.

        Raises:
            CorruptDataError: if it is no shard, or a damaged one.
        """
        try:
            start, footer = split_file(file)
        except ValueError as error:
            raise CorruptDataError(f"{source}: not a shard ({error}); restore the file") from error
        return cls(footer, start, lambda offset, length: file[offset : offset + length], source)

    @property
    def row_groups(self) -> int:
        """Number of row groups."""
        return len(self._ends)

    @property
    def rows(self) -> int:
        """Number of records."""
        return int(self._ends[-1])

    def added_columns(self) -> list[str]:
        """Columns that a later version has added, which this one does not read."""
        return self._table.added_columns()

    def column_bytes(self) -> dict[str, int]:
        """Bytes that each column takes in the file, by name."""
        sizes = dict.fromkeys(RECORD_SCHEMA.names, 0)
        for group in self._table.row_groups:
            for chunk in group.chunks:
                sizes[chunk.column.name] = sizes.get(chunk.column.name, 0) + chunk.end - chunk.start
        return sizes

    def metadata(self) -> dict[str, Any]:
        """What `shard_to_bytes` was given as metadata; empty if nothing."""
        return self._table.metadata()

    @functools.cached_property
    def _first_keys(self) -> list[str]:
        """Of each row group: from the footer, or read where a key is too long for it."""
        first_keys = [group.first_key for group in self._table.row_groups]
        return [self.keys(i)[0] if key is None else key for i, key in enumerate(first_keys)]

    def group_of(self, key: str) -> int | None:
        """The only row group that can hold a key; None if none can.

        Raises:
            CorruptDataError: if keys have to be read and cannot be.
        """
        row_group = bisect.bisect_right(self._first_keys, key) - 1
        return row_group if row_group >= 0 else None

    def locate(self, row: int) -> tuple[int, int]:
        """Row group, and row in it, of a row of the shard."""
        row_group = bisect.bisect_right(self._ends, row)
        return row_group, row - self.start_of(row_group)

    def start_of(self, row_group: int) -> int:
        """The row of the shard that a row group starts with."""
        return int(self._ends[row_group - 1]) if row_group else 0

    def describe(self, row_group: int) -> tuple[str | None, str | None, int]:
        """First key, last key and number of records of a row group, as its footer has them."""
        group = self._table.row_groups[row_group]
        return group.first_key, group.last_key, group.rows

    def keys(self, row_group: int | None = None) -> list[str]:
        """All keys, or those of a row group, in order; no stream is read.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        groups = range(self.row_groups) if row_group is None else [row_group]
        return [key for group in groups for key in self.table(group, ["key"]).column("key").to_pylist()]

    def columns(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The named columns of all records, in order.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        return [row for group in range(self.row_groups) for row in self.rows_of(self.table(group, names), group, names)]

    def rows_of(self, table: pa.Table, row_group: int, names: Sequence[str]) -> list[dict[str, Any]]:
        """The named columns of some rows of a row group that were read with `table`.

        Raises:
            CorruptDataError: if they are not what those columns hold.
        """
        try:
            columns = [column_values(table.column(name), RECORD_SCHEMA.field(name)) for name in names]
        except (ValueError, pa.ArrowException) as error:
            raise CorruptDataError(f"{self.source}: row group {row_group}: {error}; restore the file") from error
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def table(self, row_group: int, names: Sequence[str] | None = None) -> pa.Table:
        """The named columns of a row group, or all of them, as they are stored: no record's checksum is looked at.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        group = self._table.row_groups[row_group].select(RECORD_SCHEMA.names if names is None else names)
        try:
            pages = self._read_range(group.start, group.end - group.start)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise CorruptDataError(f"{self.source}: cannot be read ({reason}); restore the file") from error
        other = self._other_columns(row_group, group, pages)
        if not all(name in SHARD_FILE.self_checked for name in other):
            raise CorruptDataError(f"{self.source}: row group {row_group}: {', '.join(other)} damaged; restore the file")
        table = self._table.read(row_group, lambda start, length: pages, names)
        if other and names is None and self.check(table, row_group)[1].all():
            # Nothing is damaged, so these are records of another time, with the same keys.
            raise CorruptDataError(f"{self.source}: row group {row_group} is of another state; restore the file")
        return table

    def streams(self, row_group: int) -> pa.Table:
        """Coding, stream and lossless image of a row group's records, known to be as they were written, all of them.

        Raises:
            CorruptDataError: if one byte of these columns is not, or that is not known.
        """
        names = ["coding", "stream", "lossless"]
        group = self._table.row_groups[row_group].select(names)
        try:
            pages = self._read_range(group.start, group.end - group.start)
        except OSError as error:
            raise CorruptDataError(f"{self.source}: cannot be read ({error.strerror or error}); restore the file") from error
        if self._crc32s is None or self._other_columns(row_group, group, pages):
            raise CorruptDataError(f"{self.source}: row group {row_group}: streams damaged; restore the file")
        return self._table.read(row_group, lambda start, length: pages, names)

    def _other_columns(self, row_group: int, group: RowGroup, pages: bytes) -> list[str]:
        """The columns whose bytes are not those that were written."""
        if self._crc32s is None:
            return []
        columns = len(RECORD_SCHEMA)
        crc32s = struct.unpack_from(f"<{columns}I", self._crc32s, 4 * columns * row_group)
        written = dict(zip(RECORD_SCHEMA.names, crc32s, strict=True))
        found = {c.column.name: zlib.crc32(pages[c.start - group.start : c.end - group.start]) for c in group.chunks}
        return [name for name, crc32 in found.items() if written[name] != crc32]

    def read(self, row_group: int) -> tuple[Records, NDArray[np.bool_]]:
        """The records of a row group, and for each whether its checksum holds, bool `[N]`.

        Raises:
            CorruptDataError: if the group cannot be read at all.
        """
        return self.check(self.table(row_group), row_group)

    def check(self, table: pa.Table, row_group: int) -> tuple[Records, NDArray[np.bool_]]:
        """The same for some rows of a row group that were read with `table`.

        Raises:
            CorruptDataError: if they are no records.
        """
        try:
            return records_from_table(table)
        except CorruptDataError as error:
            raise CorruptDataError(f"{self.source}: row group {row_group}: {error}") from error
