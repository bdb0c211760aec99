"""What a shard holds about each image: columns, codings and the checksum of a record. Owns the schema, not the files."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsae.errors import CorruptDataError


class Coding(enum.IntEnum):
    """How a record's stream is to be read; numbers are never reused."""

    LATENTS_INT8 = 1
    """Quantised latents as they are: int8, C order `[C, H, W]`."""


ENTROPY_CODED = range(2, 34)
"""Codings of entropy-coded latents: 2 at quality 1, 3 at quality 2, and so on; the model says how many there are."""


RECORD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("width", pa.uint32(), nullable=False),
        pa.field("height", pa.uint32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("psnr_db", pa.float32()),
        pa.field("coding", pa.uint8(), nullable=False),
        pa.field("stream", pa.binary(), nullable=False),
        pa.field("lossless", pa.binary()),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)

PSNR_STEP_DB = 1 / 64
"""Stored PSNR is a multiple of this: short to store, exact in float32, and finer than anyone sees."""

EXACT_PSNR_DB = 100.0
"""Stored for an image that comes back exactly. One grey level in one of 3,072 values is 83 dB, the largest other PSNR."""

NO_PSNR_BITS = 0x7FC00000
"""What the checksum takes for a PSNR that was not measured: float32's quiet NaN."""

MAX_KEY_BYTES = 4096
"""Longest key in UTF-8: what Linux takes as a path."""

MAX_LABEL_BYTES = 4096
"""Longest label in UTF-8: room for any name, too little to fill a reader's memory from a dictionary."""

DRIVE = re.compile(r"[A-Za-z]:($|/)")
"""A first part of this form would be a drive on Windows."""


def stored_psnr_db(psnr_db: NDArray[np.float64]) -> NDArray[np.float32]:
    """PSNR as records hold it: rounded down to `PSNR_STEP_DB`, so that a floor that holds for it holds for the image.

    Args:
        psnr_db: float64 `[N]` in dB; infinite for exact images.

    Returns:
        float32 `[N]` in dB, at most `EXACT_PSNR_DB`.
    """
    steps = np.floor(np.minimum(psnr_db, EXACT_PSNR_DB) / PSNR_STEP_DB)
    return np.asarray(steps * PSNR_STEP_DB, np.float32)


def key_fault(key: str) -> str | None:
    """Why a string cannot be a key, or None if it can: keys become file names, on any machine, below any folder."""
    try:
        size_bytes = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "the name is not UTF-8, which a key must be; rename the file"
    if size_bytes > MAX_KEY_BYTES:
        return f"the name has {size_bytes} bytes, a key at most {MAX_KEY_BYTES}; rename the file"
    if "\0" in key or DRIVE.match(key) or any(part in ("", ".", "..") for part in key.split("/")):
        return "the name is no relative path below a folder, which a key must be; rename the file"
    return None


def check_key(key: str) -> None:
    """Refuses what is stored as a key but cannot be one.

    Raises:
        CorruptDataError: with the fault.
    """
    if fault := key_fault(key):
        text = key if len(key) <= 100 else key[:100] + "..."
        raise CorruptDataError(f"key {text!r}: {fault}")


def shown(key: str) -> str:
    """The start of a key for a message of one line: with what could move the cursor of a terminal escaped."""
    return key[:100] if key[:100].isprintable() else repr(key[:100])


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Records of N images, by column.

    Attributes:
        keys: Paths below the input's root, sorted within a shard.
        widths: Of the original images, in px, uint32 `[N]`.
        heights: Of the original images, in px, uint32 `[N]`.
        labels: None where an image has none.
        psnrs_db: Of the images decoded from `streams`, as `stored_psnr_db`, float32 `[N]`; NaN where not measured.
        codings: `Coding` numbers, uint8 `[N]`.
        streams: The coded images.
        lossless: The images as WebP files, exact to the pixel, where they are stored so as well; None where not.
    """

    keys: list[str]
    widths: NDArray[np.uint32]
    heights: NDArray[np.uint32]
    labels: list[str | None]
    psnrs_db: NDArray[np.float32]
    codings: NDArray[np.uint8]
    streams: list[bytes]
    lossless: list[bytes | None]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.keys)

    def take(self, positions: Sequence[int]) -> Records:
        """The records at `positions`, in that order."""
        rows = np.asarray(positions, np.intp)
        return Records(*(_take(column, rows) for column in self.columns()))

    def columns(self) -> tuple[Any, ...]:
        """The fields in their order, which is that of `RECORD_SCHEMA` without the checksum."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def sizes_bytes(self) -> list[int]:
        """What is stored of each image: its stream, and its lossless file if there is one."""
        return [len(stream) + len(exact or b"") for stream, exact in zip(self.streams, self.lossless, strict=True)]

    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32 (zlib's) of each record, uint32 `[N]`; `docs/FORMAT.md` says what it covers."""
        columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in self.columns()]
        columns[4] = np.where(np.isnan(self.psnrs_db), np.uint32(NO_PSNR_BITS), self.psnrs_db.view(np.uint32)).tolist()
        return np.fromiter((_checksum(*row) for row in zip(*columns, strict=True)), np.uint32, len(self))

    def to_table(self) -> pa.Table:
        """The records as a table of `RECORD_SCHEMA`."""
        arrays = [
            pa.array(column, field.type, from_pandas=True)
            for column, field in zip((*self.columns(), self.checksums()), RECORD_SCHEMA, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=RECORD_SCHEMA)


_LATENTS_INT8 = int(Coding.LATENTS_INT8)
"""As a plain integer, which is compared faster."""


def int8_latents(records: Records, latent_shape: Sequence[int]) -> NDArray[np.int8]:
    """The integers that streams of coding `LATENTS_INT8` hold.

    Args:
        records: N of them.
        latent_shape: `[C, H, W]` of one image, from the manifest or the model.

    Returns:
        int8 `[N, C, H, W]`.

    Raises:
        CorruptDataError: if a coding is another or a stream has the wrong length; the message names the key.
    """
    size_bytes = math.prod(latent_shape)
    for key, coding, stream in zip(records.keys, records.codings.tolist(), records.streams, strict=True):
        if coding != _LATENTS_INT8 or len(stream) != size_bytes:
            raise CorruptDataError(
                f"{shown(key)}: coding {coding} with {len(stream)} bytes, this tsae decodes coding "
                f"{_LATENTS_INT8} with {size_bytes}; restore the file or update tsae"
            )
    return np.frombuffer(b"".join(records.streams), np.int8).reshape(len(records), *latent_shape)


def bare_records(streams: Sequence[bytes], codings: NDArray[np.uint8], lossless: Sequence[bytes | None]) -> Records:
    """Records of coded images of which nothing else is known yet: their keys are their numbers.

    Args:
        streams: N of them.
        codings: uint8 `[N]`.
        lossless: N files, or None.
    """
    n = len(streams)
    sizes, psnrs_db = np.zeros(n, np.uint32), np.full(n, np.nan, np.float32)
    return Records([str(i) for i in range(n)], sizes, sizes, [None] * n, psnrs_db, codings, list(streams), list(lossless))


def concatenate(parts: Sequence[Records]) -> Records:
    """The records of all parts, in order; no parts give no records."""
    return Records(*(_join(column) for column in zip(*(part.columns() for part in (_NONE, *parts)), strict=True)))


_NONE = Records([], np.empty(0, np.uint32), np.empty(0, np.uint32), [], np.empty(0, np.float32), np.empty(0, np.uint8), [], [])


def _take(column: Any, rows: NDArray[np.intp]) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]


def _join(columns: tuple[Any, ...]) -> Any:
    return np.concatenate(columns) if isinstance(columns[0], np.ndarray) else list(itertools.chain(*columns))


def _checksum(
    key: str, width: int, height: int, label: str | None, psnr_bits: int, coding: int, stream: bytes, lossless: bytes | None
) -> int:
    name, tag, exact = key.encode(), (label or "").encode(), lossless or b""
    optional = (0 if label is None else len(tag) + 1, 0 if lossless is None else len(exact) + 1)
    head = struct.pack("<IIIIBII", len(name), width, height, psnr_bits, coding, *optional)
    return zlib.crc32(stream, zlib.crc32(head + name + tag + exact))


def records_from_table(table: pa.Table) -> tuple[Records, NDArray[np.bool_]]:
    """Reads a table of `RECORD_SCHEMA`.

    Args:
        table: As read from a shard; columns that this version does not know are left out.

    Returns:
        The records, and for each whether its checksum holds, bool `[N]`.

    Raises:
        CorruptDataError: if columns are missing or of other types, or there are nulls where none may be.
    """
    try:
        columns = [_column(table.column(field.name), field) for field in RECORD_SCHEMA]
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"a key or label is not UTF-8 ({error}); restore the file") from error
    except (KeyError, pa.ArrowException, ValueError) as error:
        raise CorruptDataError(f"columns are not those of a shard ({error}); restore the file") from error
    records = Records(*columns[:-1])
    return records, records.checksums() == columns[-1]


def _column(column: pa.ChunkedArray, field: pa.Field) -> Any:
    """Numbers as an array, with NaN for null; all else as a list.

    Raises:
        ValueError: if it is of another type than the field, or has nulls where none may be.
    """
    if field.type in TEXT:
        return column_values(column, field)
    _check_column(column, field)
    return np.array(column.to_numpy())


def _check_column(column: pa.ChunkedArray, field: pa.Field) -> None:
    if column.null_count and not field.nullable:
        raise ValueError(f"{field.name} has empty cells")
    if column.type != field.type and not pa.types.is_dictionary(column.type):
        raise ValueError(f"{field.name} is {column.type}, not {field.type}")


def column_values(column: pa.ChunkedArray, field: pa.Field) -> list[Any]:
    """A column as a list, with None for null.

    A dictionary is looked up without copying: its entries times the rows could be any size.

    Raises:
        ValueError: if it is of another type than the field, or has nulls where none may be.
    """
    _check_column(column, field)
    if pa.types.is_dictionary(column.type):
        array = column.unify_dictionaries().combine_chunks()
        entries = [None, *array.dictionary.cast(field.type).to_pylist()]
        if max((len(entry.encode()) for entry in entries if entry), default=0) > MAX_LABEL_BYTES:
            raise ValueError(f"a {field.name} of more than {MAX_LABEL_BYTES} bytes")
        return [entries[i] for i in array.indices.cast(pa.int64()).fill_null(-1).to_numpy() + 1]
    return list(column.to_pylist())


TEXT = (pa.string(), pa.binary())
