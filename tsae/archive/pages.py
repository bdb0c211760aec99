"""What the pages of a Parquet file say of themselves, checked before pyarrow acts on it; `tsae.archive.layout` has the why."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tsae.archive.layout import (
    DELTAS,
    MAX_ROW_GROUP_BYTES,
    PLAIN,
    RLE,
    RLE_DICTIONARY,
    UNCOMPRESSED,
    VALUE_ENCODINGS,
    ZSTD,
    Chunk,
    RowGroup,
    refuse,
)
from tsae.archive.thrift import PAGE, read_struct, read_varint

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
"""Numbers in Parquet's enumeration `PageType`."""

MAX_PAGES = 1024
"""Most pages of a column in a row group; pyarrow writes one per 1,024 rows at most."""

MAX_DELTA_BLOCK = 2**12
"""Most values of a block in a delta encoding, for whose parts pyarrow makes room; it writes 128."""


def check_pages(pages: bytes, row_group: RowGroup) -> None:
    """Checks the pages of a row group.

    Args:
        pages: Bytes `[row_group.start, row_group.end)` of the file.
        row_group: What `read_layout` says of them.

    Raises:
        ValueError: if a checksum does not hold or is missing, or if pages claim what the footer does not, or too much.

    Two things stay to be done. Strings that may use a dictionary must be read as one, with `read_dictionary`: an entry
    may be large, and used in each row. And the table needs `validate(full=True)`: pyarrow looks at UTF-8, and at
    indices into such a dictionary, only where they are used.
    """
    refuse(len(pages) != row_group.end - row_group.start, f"{len(pages):,} bytes of pages; the footer has others")
    room = min(MAX_ROW_GROUP_BYTES, row_group.unpacked_bytes)
    for chunk in row_group.chunks:
        try:
            room = _check_chunk(pages, chunk, row_group, room)
        except (ValueError, OSError) as error:
            raise ValueError(f"column {chunk.column.name!r}: {error}") from None


def _check_chunk(pages: bytes, chunk: Chunk, row_group: RowGroup, room: int) -> int:
    """What a chunk leaves of the bytes that a row group may unpack to."""
    rows, has_dictionary = row_group.rows, False
    for number, (page, body) in enumerate(_pages(pages, chunk.start - row_group.start, chunk.end - row_group.start)):
        unpacked_bytes = page["unpacked_bytes"]
        refuse(page.get("crc") is None, "checksum missing")
        room -= unpacked_bytes
        refuse(min(unpacked_bytes, room) < 0, f"a page of {unpacked_bytes:,} bytes is too large")
        is_plain = chunk.codec == UNCOMPRESSED
        refuse(is_plain and unpacked_bytes != len(body), f"a page of {len(body):,} bytes, said to be {unpacked_bytes:,}")
        is_damaged = page["crc"] & 0xFFFFFFFF != zlib.crc32(body)
        refuse(is_damaged and not chunk.column.is_self_checked, "checksum wrong")
        if page["type"] == DICTIONARY_PAGE:
            refuse(number > 0 or not chunk.column.may_use_dictionary, "a dictionary; must be the first page, or not be")
            _check_dictionary(page, row_group.rows)
            has_dictionary = True
        else:
            rows -= _check_data(page, body, chunk, has_dictionary=has_dictionary)
            refuse(rows < 0 or number > MAX_PAGES, f"{number + 1} pages, of more than {row_group.rows:,} values")
    refuse(rows != 0, f"pages lack {rows:,} of {row_group.rows:,} values")
    return room


def _pages(pages: bytes, at: int, end: int) -> Iterator[tuple[dict[str, Any], memoryview]]:
    """Header and body of each page in `[at, end)`."""
    while at < end:
        page, at = read_struct(pages, PAGE, at)
        size_bytes = page["packed_bytes"]
        refuse(not 0 <= size_bytes <= end - at, f"a page of {size_bytes:,} bytes; {end - at:,} are left")
        yield page, memoryview(pages)[at : at + size_bytes]
        at += size_bytes


def _check_dictionary(page: dict[str, Any], rows: int) -> None:
    header = page.get("dictionary", {"encoding": None})
    refuse(header["encoding"] != PLAIN, "a dictionary without PLAIN values")
    refuse(not 0 <= header["num_values"] <= rows, f"a dictionary of {header['num_values']:,} values for {rows:,} rows")


def _check_data(page: dict[str, Any], body: memoryview, chunk: Chunk, *, has_dictionary: bool) -> int:
    """The number of values of a page."""
    header = page.get({DATA_PAGE: "data", DATA_PAGE_V2: "data_v2"}.get(page["type"], ""), {})
    refuse(not header, f"a page of type {page['type']}; must be data")
    values, encoding = header["num_values"], header["encoding"]
    refuse(values < 1, f"a page of {values:,} values")
    is_known = encoding in VALUE_ENCODINGS or (encoding == RLE_DICTIONARY and has_dictionary)
    refuse(not is_known, f"values in encoding {encoding}; must be of {VALUE_ENCODINGS}")
    if page["type"] == DATA_PAGE:
        levels = (header["definition_encoding"], header["repetition_encoding"])
        refuse(levels != (RLE, RLE), f"levels in encodings {levels}; must be {RLE}")
    else:
        level_bytes = header["definition_bytes"]
        is_flat = header["repetition_bytes"] == 0 and header["num_rows"] == values and 0 <= header["num_nulls"] <= values
        refuse(not is_flat, "a page of nested values")
        refuse(not 0 <= level_bytes <= min(len(body), page["unpacked_bytes"]), f"levels of {level_bytes:,} bytes")
    if encoding in DELTAS:
        _check_delta(_values(page, header, body, chunk), values)
    return int(values)


def _values(page: dict[str, Any], header: dict[str, Any], body: memoryview, chunk: Chunk) -> bytes:
    """The unpacked values of a data page, without their levels."""
    level_bytes = header.get("definition_bytes", 0)
    values = bytes(body[level_bytes:])
    if chunk.codec == ZSTD and header.get("is_compressed", True):
        unpacked_bytes = page["unpacked_bytes"] - level_bytes
        values = pa.decompress(values, unpacked_bytes, "zstd", asbytes=True)
    if page["type"] == DATA_PAGE and chunk.column.is_nullable:
        values = values[4 + int.from_bytes(values[:4], "little") :]
    return values


def _check_delta(values: bytes, most: int) -> None:
    """Checks the head of values in a delta encoding: sizes of a block and its parts, and how many values there are."""
    try:
        block, at = read_varint(values, 0)
        parts, at = read_varint(values, at)
        count, at = read_varint(values, at)
    except IndexError:
        raise ValueError(f"{len(values):,} bytes of values; their head is longer") from None
    refuse(block > MAX_DELTA_BLOCK or parts > block, f"blocks of {block:,} values in {parts:,} parts")
    refuse(count > most, f"{count:,} values in a page of {most:,}")
