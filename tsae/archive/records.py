"""What a shard holds about each image: columns, codings and the checksum of a record. Owns the schema, not the files."""

from __future__ import annotations

import dataclasses
import enum
import struct
import zlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsae.errors import CorruptDataError


class Coding(enum.IntEnum):
    """How a record's stream is to be read; numbers are never reused."""

    LATENTS_INT8 = 1
    """Quantised latents as they are: int8, C order `[C, H, W]`."""


RECORD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("width", pa.uint32(), nullable=False),
        pa.field("height", pa.uint32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("coding", pa.uint8(), nullable=False),
        pa.field("stream", pa.binary(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)


def key_fault(key: str) -> str | None:
    """Why a string cannot be a key, or None if it can: keys become file names, on any machine, below any folder."""
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not UTF-8, which a key must be; rename the file"
    if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        return "the name is no relative path below a folder, which a key must be; rename the file"
    return None


def check_key(key: str) -> None:
    """Refuses what is stored as a key but cannot be one.

    Raises:
        CorruptDataError: with the fault.
    """
    if fault := key_fault(key):
        raise CorruptDataError(f"key {key!r}: {fault}")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Records of N images, by column.

    Attributes:
        keys: Paths below the input's root, sorted within a shard.
        widths: Of the original images, in px, uint32 `[N]`.
        heights: Of the original images, in px, uint32 `[N]`.
        labels: None where an image has none.
        codings: `Coding` numbers, uint8 `[N]`.
        streams: The coded images.
    """

    keys: list[str]
    widths: NDArray[np.uint32]
    heights: NDArray[np.uint32]
    labels: list[str | None]
    codings: NDArray[np.uint8]
    streams: list[bytes]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.keys)

    def take(self, positions: list[int]) -> Records:
        """The records at `positions`, in that order."""
        return Records(
            [self.keys[i] for i in positions],
            self.widths[positions],
            self.heights[positions],
            [self.labels[i] for i in positions],
            self.codings[positions],
            [self.streams[i] for i in positions],
        )

    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32 (zlib's) of each record, uint32 `[N]`.

        It covers, little-endian and in this order: length of the key (u32), width (u32), height (u32), coding (u8),
        length of the label plus one or 0 for none (u32), key, label (both UTF-8), stream.
        """
        rows = zip(self.keys, self.widths, self.heights, self.labels, self.codings, self.streams, strict=True)
        return np.fromiter((_checksum(*row) for row in rows), np.uint32, len(self))

    def to_table(self) -> pa.Table:
        """The records as a table of `RECORD_SCHEMA`."""
        columns = [self.keys, self.widths, self.heights, self.labels, self.codings, self.streams, self.checksums()]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, RECORD_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=RECORD_SCHEMA)


def concatenate(parts: list[Records]) -> Records:
    """The records of all parts, in order; no parts give no records."""
    return Records(
        [key for part in parts for key in part.keys],
        np.concatenate([np.empty(0, np.uint32), *(part.widths for part in parts)]),
        np.concatenate([np.empty(0, np.uint32), *(part.heights for part in parts)]),
        [label for part in parts for label in part.labels],
        np.concatenate([np.empty(0, np.uint8), *(part.codings for part in parts)]),
        [stream for part in parts for stream in part.streams],
    )


def _checksum(key: str, width: int, height: int, label: str | None, coding: int, stream: bytes) -> int:
    name, tag = key.encode(), b"" if label is None else label.encode()
    head = struct.pack("<IIIBI", len(name), width, height, coding, 0 if label is None else len(tag) + 1)
    return zlib.crc32(stream, zlib.crc32(head + name + tag))


def records_from_table(table: pa.Table) -> tuple[Records, NDArray[np.bool_]]:
    """Reads a table of `RECORD_SCHEMA`.

    Args:
        table: As read from a shard.

    Returns:
        The records, and for each whether its checksum holds, bool `[N]`.

    Raises:
        CorruptDataError: if columns are missing or of other types, or there are nulls where none may be.
    """
    try:
        table = table.select(RECORD_SCHEMA.names).cast(RECORD_SCHEMA).combine_chunks()
    except (KeyError, pa.ArrowException, ValueError) as error:
        raise CorruptDataError(f"columns are not those of a shard ({error}); restore the file") from error
    column = {name: table.column(name) for name in RECORD_SCHEMA.names}
    if any(column[field.name].null_count for field in RECORD_SCHEMA if not field.nullable):
        raise CorruptDataError("empty cells where a value is required; restore the file")
    numbers = {name: column[name].to_numpy() for name in ("width", "height", "coding", "crc32")}
    try:
        keys, labels = column["key"].to_pylist(), column["label"].to_pylist()
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"a key or label is not UTF-8 ({error}); restore the file") from error
    records = Records(keys, numbers["width"], numbers["height"], labels, numbers["coding"], column["stream"].to_pylist())
    return records, records.checksums() == numbers["crc32"]
