"""Shard files: records as one Parquet file whose bytes depend on the records alone. Owns encodings and row groups.

Pages carry Parquet's checksums, records their own. The footer has none in Parquet, and a damaged one can bring down
the process that parses it; so a seal lies right before it, where readers of Parquet do not look:

```
PAR1  pages ...  "TSAE"  CRC-32 of all that follows it, u32 little-endian  footer  length of the footer, u32  PAR1
```
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tsae.archive.records import RECORD_SCHEMA, Records, records_from_table
from tsae.errors import CorruptDataError, FormatError

ROW_GROUP_BYTES = 250_000
"""Most bytes of a row group, rounded down from 256 kB for what pages add: one image costs one row group to read."""

RECORD_EXTRA_BYTES = 32
"""Bound of what a record takes beside stream, key and label: 5 numbers and 3 lengths, of 4 bytes each at most."""

SEAL = b"TSAE"
TAIL_BYTES = 8
"""Of Parquet: length of the footer, and `PAR1`; a seal is as long."""

T = TypeVar("T")

ENCODINGS = {
    "key": "DELTA_BYTE_ARRAY",
    "width": "DELTA_BINARY_PACKED",
    "height": "DELTA_BINARY_PACKED",
    "stream": "DELTA_LENGTH_BYTE_ARRAY",
    "crc32": "PLAIN",
}
DICTIONARIES = ["label", "coding"]
COMPRESSION = {
    "key": "zstd",
    "width": "zstd",
    "height": "zstd",
    "label": "zstd",
    "coding": "zstd",
    "stream": "none",
    "crc32": "none",
}
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
    return _seal(bytes(sink.getvalue()))


def _seal(file: bytes) -> bytes:
    """Puts the seal between pages and footer: offsets in a footer count from the start, so it stays true."""
    footer = len(file) - TAIL_BYTES - int.from_bytes(file[-8:-4], "little")
    return file[:footer] + SEAL + zlib.crc32(file[footer:]).to_bytes(4, "little") + file[footer:]


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
    for key, label, stream in zip(records.keys, records.labels, records.streams, strict=True):
        record_bytes = len(stream) + len(key.encode()) + len((label or "").encode()) + RECORD_EXTRA_BYTES
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
            file: A seekable binary file object; closed by `close`.
            source: Its path, for messages.

        Raises:
            CorruptDataError: if it is no shard, or a damaged one.
        """
        self.source = source
        footer = self._read(lambda: _read_footer(file))
        self._file: pq.ParquetFile = self._read(
            lambda: pq.ParquetFile(file, metadata=pq.read_metadata(pa.BufferReader(footer)), page_checksum_verification=True)
        )
        if self._file.schema_arrow.names != RECORD_SCHEMA.names or not self.row_groups:
            raise CorruptDataError(f"{source}: columns or rows are not those of a shard; restore the file")

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
            FormatError: if there is none.
        """
        try:
            return dict(json.loads((self._file.metadata.metadata or {})[b"tsae"]))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise FormatError(f"{self.source}: no metadata of tsae's; restore the file") from error

    def key_range(self) -> tuple[str, str]:
        """The smallest and the largest key.

        Raises:
            CorruptDataError: if they have to be read and cannot be.
        """
        return self._key_range(0)[0], self._key_range(self.row_groups - 1)[1]

    def find(self, key: str) -> int | None:
        """The row group whose range of keys includes `key`; None if no one does.

        Raises:
            CorruptDataError: if keys have to be read and cannot be.
        """
        for index in range(self.row_groups):
            low, high = self._key_range(index)
            if low <= key <= high:
                return index
        return None

    def _key_range(self, row_group: int) -> tuple[str, str]:
        """The smallest and the largest key of a row group: from the footer, or read where they are too long for it."""
        statistics = self._file.metadata.row_group(row_group).column(0).statistics
        if statistics is not None and statistics.has_min_max:
            return statistics.min, statistics.max
        keys = self.keys(row_group)
        return keys[0], keys[-1]

    def keys(self, row_group: int | None = None) -> list[str]:
        """All keys, or those of a row group, in order; no stream is read.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        groups = range(self.row_groups) if row_group is None else [row_group]
        return self._read(lambda: list(self._file.read_row_groups(groups, ["key"]).column("key").to_pylist()))

    def columns(self, names: list[str]) -> list[dict[str, Any]]:
        """The named columns of all records, in order.

        Raises:
            CorruptDataError: if they cannot be read.
        """
        return self._read(lambda: list(self._file.read(columns=names).to_pylist()))

    def read(self, row_group: int) -> tuple[Records, NDArray[np.bool_]]:
        """The records of a row group, and for each whether its checksum holds, bool `[N]`.

        Raises:
            CorruptDataError: if the group cannot be read at all.
        """
        table = self._read(lambda: self._file.read_row_group(row_group))
        try:
            return records_from_table(table)
        except CorruptDataError as error:
            raise CorruptDataError(f"{self.source}: row group {row_group}: {error}") from error

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptDataError(f"{self.source}: damaged, or not a shard ({reason}); restore the file") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close(force=True)


def _read_footer(file: Any) -> bytes:
    """The footer of a shard as a Parquet file without pages.

    Raises:
        ValueError: if it does not match its seal.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(size_bytes - TAIL_BYTES, 0))
    tail = file.read(TAIL_BYTES)
    sealed_bytes = 2 * TAIL_BYTES + int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or sealed_bytes > size_bytes:
        raise ValueError("it does not end as a Parquet file does")
    file.seek(size_bytes - sealed_bytes)
    sealed: bytes = file.read(sealed_bytes)
    seal, footer = sealed[:TAIL_BYTES], sealed[TAIL_BYTES:]
    if seal != SEAL + zlib.crc32(footer).to_bytes(4, "little"):
        raise ValueError("its footer does not match its seal")
    return b"PAR1" + footer
