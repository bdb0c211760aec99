"""Shard files: records as one Parquet file whose bytes depend on the records alone. Owns encodings and row groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tsae.archive.records import RECORD_SCHEMA, Records, records_from_table
from tsae.errors import CorruptDataError, FormatError

ROW_GROUP_BYTES = 240_000
"""Most bytes of a row group, rounded down from 256 kB for what pages add: one image costs one row group to read."""

RECORD_EXTRA_BYTES = 16
"""Estimate of what a record takes beside its stream; measured: 10 to 12 bytes on GTSRB's keys."""

ENCODINGS = {
    "key": "DELTA_BYTE_ARRAY",
    "width": "DELTA_BINARY_PACKED",
    "height": "DELTA_BINARY_PACKED",
    "stream": "DELTA_LENGTH_BYTE_ARRAY",
    "crc32": "PLAIN",
}
DICTIONARIES = ["label", "coding"]
COMPRESSION = {"key": "zstd", "width": "zstd", "height": "zstd", "label": "zstd", "coding": "zstd", "stream": "none", "crc32": "none"}
"""Streams and checksums have nothing left to compress."""


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
    table = records.to_table()
    sink = pa.BufferOutputStream()
    with _writer(sink) as writer:
        writer.add_key_value_metadata({"tsae": json.dumps(metadata, sort_keys=True)})
        start = 0
        for rows in _row_groups(records):
            writer.write_table(table.slice(start, rows), row_group_size=rows)
            start += rows
    return bytes(sink.getvalue())


def _writer(sink: pa.BufferOutputStream) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        RECORD_SCHEMA,
        use_dictionary=DICTIONARIES,
        column_encoding=ENCODINGS,
        compression=COMPRESSION,
        write_statistics=["key"],
        write_page_checksum=True,
        store_schema=False,
    )


def _row_groups(records: Records) -> Iterator[int]:
    """Numbers of rows of the row groups: each is filled up to ROW_GROUP_BYTES, or holds one record."""
    rows = size_bytes = 0
    for stream in records.streams:
        record_bytes = len(stream) + RECORD_EXTRA_BYTES
        if rows and size_bytes + record_bytes > ROW_GROUP_BYTES:
            yield rows
            rows = size_bytes = 0
        rows, size_bytes = rows + 1, size_bytes + record_bytes
    yield rows


class ShardReader:
    """Reads row groups of one shard; cheap to open: the footer is read, no record."""

    def __init__(self, file: Any, source: str) -> None:
        """Reads the footer.

        Args:
            file: A seekable binary file object or a path.
            source: Its path, for messages.

        Raises:
            CorruptDataError: if it is no Parquet file.
        """
        self.source = source
        try:
            self._file = pq.ParquetFile(file, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise CorruptDataError(f"{source}: cannot be read as Parquet ({_one_line(error)}); restore the file") from error

    @property
    def row_groups(self) -> int:
        """Number of row groups."""
        return int(self._file.metadata.num_row_groups)

    @property
    def rows(self) -> int:
        """Number of records."""
        return int(self._file.metadata.num_rows)

    def metadata(self) -> dict[str, Any]:
        """What `shard_to_bytes` was given as metadata.

        Raises:
            FormatError: if the file is no shard.
        """
        try:
            return dict(json.loads((self._file.metadata.metadata or {})[b"tsae"]))
        except (KeyError, ValueError) as error:
            raise FormatError(f"{self.source}: a Parquet file, but no shard of tsae's; restore the file") from error

    def find(self, key: str) -> int | None:
        """The row group whose range of keys includes `key`, by the footer's statistics; None if no one does."""
        column = RECORD_SCHEMA.get_field_index("key")
        for index in range(self.row_groups):
            statistics = self._file.metadata.row_group(index).column(column).statistics
            if statistics is None or not statistics.has_min_max or statistics.min <= key <= statistics.max:
                return index
        return None

    def keys(self) -> list[str]:
        """All keys, in order; no stream is read.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        return list(self._read(lambda: self._file.read(columns=["key"])).column("key").to_pylist())

    def columns(self, names: list[str]) -> pa.Table:
        """The named columns of all records.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        return self._read(lambda: self._file.read(columns=names))

    def read(self, row_group: int) -> tuple[Records, Any]:
        """The records of a row group, and for each whether its checksum holds, bool `[N]`.

        Raises:
            CorruptDataError: if the group cannot be read at all.
        """
        table = self._read(lambda: self._file.read_row_group(row_group))
        try:
            return records_from_table(table)
        except CorruptDataError as error:
            raise CorruptDataError(f"{self.source}: row group {row_group}: {error}") from error

    def _read(self, read: Any) -> pa.Table:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            raise CorruptDataError(f"{self.source}: damaged ({_one_line(error)}); restore the file") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close(force=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
