"""What a Parquet file says of itself, checked before pyarrow acts on it. Owns the limits, and which claims are believed.

A damaged or made-up footer or page header ends the process in pyarrow, or makes it reserve gigabytes: it takes sizes,
counts and kinds at their word. So `read_layout` goes over a footer, and `tsae.archive.pages` over the pages of a row
group, before pyarrow gets them. What pyarrow refuses by itself, with an error, is left to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tsae.archive.thrift import FILE, MAX_CHUNKS, ROW_GROUP, read_struct

MAX_FOOTER_BYTES = 2**23
"""Longest footer. 4,096 row groups of nine columns take 2.3 MB and the keys in their statistics."""

MAX_ROWS = 2**16
"""Most rows of a row group: what pyarrow reserves for rows, before it has seen any, stays in megabytes."""

MAX_ROW_GROUP_BYTES = 2**24
"""Most bytes of a row group, packed or unpacked. pyarrow needs about four times that to read it."""

BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY = 6, 7
REQUIRED, OPTIONAL = 0, 1
UNCOMPRESSED, ZSTD = 0, 6
PLAIN, RLE, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY, BYTE_STREAM_SPLIT = 0, 3, 5, 6, 8, 9
"""Numbers in Parquet's enumerations `Type`, `FieldRepetitionType`, `CompressionCodec` and `Encoding`."""

DELTAS = (DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY)
VALUE_ENCODINGS = (PLAIN, *DELTAS, BYTE_STREAM_SPLIT)
ENCODINGS = (*VALUE_ENCODINGS, RLE, RLE_DICTIONARY)
"""Those that unpack to a few times their size; RLE is for levels. DELTA_BYTE_ARRAY repeats prefixes without limit."""

VALUE_BYTES = {0: 1, 1: 4, 2: 8, 4: 4, 5: 8}
"""Sizes of the types whose values in statistics pyarrow decodes: it ends the process where they are short."""

ARROW_SCHEMA = b"ARROW:schema"
"""Metadata in which pyarrow looks for a schema of its own, in a format that nobody checks here."""


@dataclass(frozen=True)
class Column:
    """What the schema must say of a column.

    Attributes:
        name: Its name.
        physical_type: A number of Parquet's `Type`.
        is_nullable: Whether it is optional.
        may_use_dictionary: Whether its pages may.
        is_self_checked: Whether the reader checks its values by other means, so that a page need not match its checksum.
    """

    name: str
    physical_type: int
    is_nullable: bool
    may_use_dictionary: bool = False
    is_self_checked: bool = False


@dataclass(frozen=True)
class Chunk:
    """Where in the file the pages of one column of a row group are, `[start, end)`, and how they are compressed.

    Unpacked, they are at most `unpacked_bytes` long.
    """

    column: Column
    start: int
    end: int
    codec: int
    unpacked_bytes: int = MAX_ROW_GROUP_BYTES


@dataclass(frozen=True)
class RowGroup:
    """A row group: where in the file its pages are, `[start, end)`, and those of each column that was asked for.

    Its first and last key are the least and greatest value of the first column, if the footer tells them exactly.
    """

    rows: int
    start: int
    end: int
    first_key: str | None
    last_key: str | None
    chunks: tuple[Chunk, ...]

    @property
    def unpacked_bytes(self) -> int:
        """Most bytes that the pages of `chunks` unpack to."""
        return sum(chunk.unpacked_bytes for chunk in self.chunks)

    def select(self, names: Sequence[str]) -> RowGroup:
        """The same with some of the columns only, and no bytes beyond theirs."""
        chunks = tuple(chunk for chunk in self.chunks if chunk.column.name in names)
        return dataclasses.replace(self, start=chunks[0].start, end=chunks[-1].end, chunks=chunks)


def read_layout(footer: bytes, data_bytes: int, columns: Sequence[Column]) -> tuple[RowGroup, ...]:
    """Checks a footer.

    Args:
        footer: Parquet's FileMetaData, without length and `PAR1`.
        data_bytes: Size of the file before the footer.
        columns: The first columns that the file must have; others may follow, if they may be null.

    Returns:
        Its row groups.

    Raises:
        ValueError: if it is none, contradicts itself or `columns`, or claims more than the limits of this module.
    """
    refuse(len(footer) > MAX_FOOTER_BYTES, f"footer of {len(footer):,} bytes; must be at most {MAX_FOOTER_BYTES:,}")
    file, end = read_struct(footer, FILE)
    starts = file["row_groups"]
    leaves = _leaves(file, columns)
    refuse(end != len(footer), f"footer of {len(footer):,} bytes; its fields take {end:,}")
    refuse(len(starts) * len(leaves) > MAX_CHUNKS, f"{len(starts):,} row groups of {len(leaves)} columns are too many")
    groups, at = [], len(b"PAR1")
    for index, start in enumerate(starts):
        try:
            groups.append(_row_group(read_struct(footer, ROW_GROUP, start)[0], leaves, at, data_bytes, len(columns)))
        except ValueError as error:
            raise ValueError(f"row group {index}: {error}") from None
        at = groups[-1].end
    refuse(sum(group.rows for group in groups) != file["num_rows"], f"{file['num_rows']:,} rows; row groups have others")
    return tuple(groups)


def refuse(is_wrong: bool, reason: str, *values: Any) -> None:
    """Raises `reason`, a format for `values` where it is checked so often that to write it each time would cost."""
    if is_wrong:
        raise ValueError(reason.format(*values) if values else reason)


def _leaves(file: dict[str, Any], columns: Sequence[Column]) -> list[Column]:
    """The columns of a footer: `columns`, and what follows them."""
    root, *elements = file["schema"] or [{}]
    refuse("encryption" in file or "signing_key" in file, "the footer speaks of encryption; must not")
    refuse(any(pair["key"] == ARROW_SCHEMA for pair in file.get("key_values", ())), f"metadata has {ARROW_SCHEMA!r}; must not")
    refuse(not elements or root.get("num_children") != len(elements), f"{len(elements)} columns; the schema's root has others")
    refuse(bool(root.keys() - {"name", "num_children", "repetition", "field_id"}), "the schema's root is no plain one")
    refuse(len(file.get("orders", elements)) != len(elements), f"{len(elements)} columns; orders are of others")
    leaves = [_leaf(element) for element in elements]
    names = [leaf.name for leaf in leaves]
    wanted = [Column(c.name, c.physical_type, c.is_nullable, may_use_dictionary=True) for c in columns]
    refuse(leaves[: len(columns)] != wanted, f"columns {names!r:.200}; must begin as {[column.name for column in columns]!r}")
    refuse(len(set(names)) < len(names), f"columns {names!r:.200}; must differ")
    added = leaves[len(columns) :]
    refuse(not all(leaf.is_nullable for leaf in added), f"columns {names!r:.200}; added ones must be nullable")
    return [*columns, *added]


def _leaf(element: dict[str, Any]) -> Column:
    name = element["name"].decode()
    what = f"column {name!r:.100}"
    refuse(not name or "." in name, f"{what}: pyarrow would take its name for a path")
    refuse("num_children" in element or element.get("type") not in range(8), f"{what}: must be of a type of Parquet's")
    refuse(element.get("repetition") not in (REQUIRED, OPTIONAL), f"{what}: must be required or optional")
    refuse(element.get("converted_type", 0) not in range(22), f"{what}: converted type {element.get('converted_type')}")
    if element["type"] == FIXED_LEN_BYTE_ARRAY:
        refuse(not 0 < element.get("type_bytes", 0) < MAX_ROWS, f"{what}: values of {element.get('type_bytes')} bytes")
    return Column(name, element["type"], element["repetition"] == OPTIONAL, may_use_dictionary=True)


def _row_group(group: dict[str, Any], leaves: list[Column], at: int, data_bytes: int, ours: int) -> RowGroup:
    """A row group whose pages start at `at` or later."""
    rows = group["num_rows"]
    refuse(not 1 <= rows <= MAX_ROWS, f"{rows:,} rows; must be 1 to {MAX_ROWS:,}")
    refuse(len(group["chunks"]) != len(leaves), f"{len(group['chunks'])} columns; the schema has {len(leaves)}")
    unpacked_bytes = sum(chunk["column"]["unpacked_bytes"] for chunk in group["chunks"] if "column" in chunk)
    refuse(not 0 <= unpacked_bytes <= MAX_ROW_GROUP_BYTES, f"{unpacked_bytes:,} bytes, at most {MAX_ROW_GROUP_BYTES:,}")
    chunks: list[Chunk] = []
    for leaf, chunk in zip(leaves, group["chunks"], strict=True):
        try:
            chunks.append(_chunk(chunk, leaf, rows, at, data_bytes, is_ours=len(chunks) < ours))
        except ValueError as error:
            raise ValueError(f"column {leaf.name!r}: {error}") from None
        at = chunks[-1].end
    size_bytes = at - chunks[0].start
    refuse(size_bytes > MAX_ROW_GROUP_BYTES, f"{size_bytes:,} bytes of pages, at most {MAX_ROW_GROUP_BYTES:,}")
    return RowGroup(rows, chunks[0].start, at, *_key_range(group["chunks"][0]["column"]), tuple(chunks[:ours]))


def _chunk(chunk: dict[str, Any], leaf: Column, rows: int, at: int, data_bytes: int, *, is_ours: bool) -> Chunk:
    column = chunk.get("column", {})
    is_elsewhere = "file_path" in chunk or "encryption" in chunk or "encrypted_column" in chunk
    refuse(is_elsewhere or not column, "its pages are elsewhere")
    refuse(column["type"] != leaf.physical_type, "type {}; the schema has {}", column["type"], leaf.physical_type)
    refuse(column["path"] != [leaf.name.encode()], "path {!r:.100}; the schema has another", column["path"])
    refuse(column["num_values"] != rows, "{:,} values in {:,} rows", column["num_values"], rows)
    codecs, encodings = ((UNCOMPRESSED, ZSTD), ENCODINGS) if is_ours else (range(8), range(10))
    refuse(column["codec"] not in codecs, "codec {}; must be of {}", column["codec"], codecs)
    is_known = all(encoding in encodings for encoding in column["encodings"])
    refuse(not is_known, "encodings {!r:.100}; must be of {}", column["encodings"], encodings)
    refuse(column["unpacked_bytes"] < 0, "{:,} bytes", column["unpacked_bytes"])
    _check_statistics(column, leaf)
    start = column.get("dictionary_page", column["data_page"])
    end = start + column["packed_bytes"]
    is_before = "dictionary_page" not in column or (leaf.may_use_dictionary and start < column["data_page"])
    refuse(not is_before, "a dictionary at {:,}; must be before the other pages, or not at all", start)
    is_inside = at <= start <= column["data_page"] < end <= data_bytes
    refuse(not is_inside, "pages at {:,} to {:,}; must be in {:,} to {:,}", start, end, at, data_bytes)
    return Chunk(leaf, start, end, column["codec"], column["unpacked_bytes"])


def _check_statistics(column: dict[str, Any], leaf: Column) -> None:
    """Checks what the reading of a row group ignores, but ends the process when it is asked for."""
    ends = [value for value in column.get("statistics", {}).values() if isinstance(value, bytes)]
    if leaf.physical_type != BYTE_ARRAY:
        wrong = [len(value) for value in ends if len(value) != VALUE_BYTES.get(leaf.physical_type)]
        refuse(bool(wrong), f"statistics with values of {wrong} bytes")
    sizes = column.get("sizes")
    if not sizes:
        return
    refuse("bytes" in sizes and leaf.physical_type != BYTE_ARRAY, "sizes of values that all have the same")
    levels = [(len(sizes.get("repetitions", ())), 1), (len(sizes.get("definitions", ())), 1 + leaf.is_nullable)]
    refuse(any(count not in (0, expected) for count, expected in levels), f"counts of {levels} levels")


def _key_range(column: dict[str, Any]) -> tuple[str | None, str | None]:
    statistics = column.get("statistics", {})
    is_text = column["type"] == BYTE_ARRAY
    keys = [statistics.get(f"{end}_value") if is_text and statistics.get(f"{end}_is_exact") else None for end in ("min", "max")]
    try:
        first, last = (None if key is None else key.decode() for key in keys)
    except UnicodeDecodeError:
        return None, None
    return first, last
