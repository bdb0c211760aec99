"""Thrift's compact protocol, and the structs that Parquet writes in it. Owns how bytes become fields, not what they mean.

Who reads after us takes these bytes at their word: the reader in pyarrow makes room for as many items as a list claims,
does not look at the type of its items, cuts numbers to their width, and merges a field that comes twice. So what it
would read otherwise than we do, we refuse. Fields that a `Struct` does not name are skipped, by it as by us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BOOL, I16, I32, I64, BINARY = 2, 4, 5, 6, 8
"""Kinds of plain fields, as the protocol numbers them. True has a number of its own, 1."""

_TRUE, _I8, _DOUBLE, _LIST, _SET, _STRUCT = 1, 3, 7, 9, 10, 12

MAX_DEPTH = 16
"""Structs and lists within each other; Parquet's own take seven."""

MAX_COLUMNS = 64
"""Most columns of a file; the rest is for later versions."""

MAX_CHUNKS = 2**16
"""Most column chunks of a file, and most row groups: pyarrow takes 1 kB for each."""

_BITS = {I16: 16, I32: 32, I64: 64}


class Struct:
    """A struct that is read: the names and kinds of its fields, which Parquet numbers from 1 in this order."""

    def __init__(self, required: str = "", /, **kinds: Any) -> None:
        """Takes the names of the fields that have to be there, and the kinds of all by name."""
        self.fields: dict[int, tuple[str, Any]] = dict(enumerate(kinds.items(), 1))
        self.required = tuple(required.split())


@dataclass(frozen=True, eq=False)
class ListOf:
    """A list of at most `most` items of one kind. If it `waits`, it is only skipped: its values are where items start."""

    kind: Any
    most: int
    waits: bool = False


def read_struct(data: bytes, layout: Struct, start: int = 0) -> tuple[dict[str, Any], int]:
    """Reads a struct.

    Args:
        data: Bytes that hold it.
        layout: Its fields. A kind is a plain one, a `Struct` or a `ListOf`.
        start: Where in `data` it starts.

    Returns:
        The values of the fields that are there by name, and where in `data` the struct ends.

    Raises:
        ValueError: if the bytes are no such struct, or do not hold all of it.
    """
    try:
        return _read_struct(data, start, layout, MAX_DEPTH)
    except IndexError:
        raise ValueError(f"{len(data) - start:,} bytes; a struct goes on after their end") from None


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads an unsigned number of at most 64 bits.

    Returns:
        The number, and where in `data` it ends.

    Raises:
        ValueError: if it is longer.
        IndexError: if `data` ends before it.
    """
    number = shift = 0
    while (byte := data[at]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("a number of more than 10 bytes")
    number |= byte << shift
    if number >> 64:
        raise ValueError("a number of more than 64 bits")
    return number, at + 1


def _read_struct(data: bytes, at: int, layout: Struct, depth: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    fields = layout.fields
    number = 0
    while head := data[at]:
        wire = head & 15
        number, at = (number + (head >> 4), at + 1) if head > 15 else _read_number(data, at + 1, I16)
        name, kind = fields.get(number, _UNKNOWN)
        if kind is None:
            at = _skip_field(data, at, wire, number, depth)
            continue
        if name in values:
            raise ValueError(f"field {name} comes twice")
        if wire == kind and 4 <= wire <= 6:
            values[name], at = _read_number(data, at, wire)
        else:
            values[name], at = _read_field(data, at, wire, kind, name, depth)
    for required in layout.required:
        if required not in values:
            raise ValueError(f"field {required} is missing")
    return values, at + 1


_UNKNOWN: tuple[str, Any] = ("", None)


def _read_field(data: bytes, at: int, wire: int, kind: Any, name: str, depth: int) -> tuple[Any, int]:
    """A value in a struct: as in a list, but a boolean, which is all in its type."""
    if kind == BOOL and wire in (_TRUE, BOOL):
        return wire == _TRUE, at
    if wire != _wire(kind):
        raise ValueError(f"field {name} of type {wire}; must be {_wire(kind)}")
    try:
        return _read_value(data, at, kind, depth)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _wire(kind: Any) -> int:
    if isinstance(kind, int):
        return kind
    return _STRUCT if isinstance(kind, Struct) else _LIST


def _read_value(data: bytes, at: int, kind: Any, depth: int) -> tuple[Any, int]:
    if kind == BINARY:
        length, at = _read_length(data, at)
        return data[at : at + length], at + length
    if isinstance(kind, int):
        return _read_number(data, at, kind)
    read: Callable[..., tuple[Any, int]] = _read_struct if isinstance(kind, Struct) else _read_list
    return read(data, at, kind, _deeper(depth))


def _read_number(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """A signed number of `kind`'s width, which alternates: 0, -1, 1, -2 and so on."""
    number = data[at]
    if number > 127:
        number, at = read_varint(data, at)
        if number >> _BITS[kind]:
            raise ValueError(f"a number of more than {_BITS[kind]} bits")
        at -= 1
    return (number >> 1) ^ -(number & 1), at + 1


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """A number of bytes, or of items: each takes one byte at least."""
    length, at = read_varint(data, at)
    if length > len(data) - at:
        raise ValueError(f"length {length:,}; {len(data) - at:,} bytes are left")
    return length, at


def _read_list_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Number of items, their type, and where the first starts."""
    head = data[at]
    if head >> 4 == 15:
        count, at = _read_length(data, at + 1)
        return count, head & 15, at
    return head >> 4, head & 15, at + 1


def _read_list(data: bytes, at: int, kind: ListOf, depth: int) -> tuple[list[Any], int]:
    count, wire, at = _read_list_head(data, at)
    expected = _wire(kind.kind)
    if wire != expected or count > kind.most:
        raise ValueError(f"list of {count:,} items of type {wire}; must be at most {kind.most:,} of type {expected}")
    items = []
    for _ in range(count):
        start = at
        value, at = (start, _skip(data, at, wire, depth)) if kind.waits else _read_value(data, at, kind.kind, depth)
        items.append(value)
    return items, at


def _deeper(depth: int) -> int:
    if not depth:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return depth - 1


def _skip_field(data: bytes, at: int, wire: int, number: int, depth: int) -> int:
    if not 1 <= number < 2**15:
        raise ValueError(f"field {number}; must be 1 to {2**15 - 1:,}")
    return at if wire in (_TRUE, BOOL) else _skip(data, at, wire, depth)


def _skip(data: bytes, at: int, wire: int, depth: int) -> int:
    """Where a value of type `wire` ends; if that is after the end of `data`, the next byte to be read is missing."""
    if I16 <= wire <= I64:
        return _skip_varint(data, at)
    if wire == BINARY:
        length, at = _read_length(data, at)
        return at + length
    if wire == _STRUCT:
        return _skip_struct(data, at, _deeper(depth))
    if wire in (_LIST, _SET):
        return _skip_list(data, at, _deeper(depth))
    if wire in (_TRUE, BOOL, _I8, _DOUBLE):
        return at + (8 if wire == _DOUBLE else 1)
    raise ValueError(f"type {wire}; not one that Parquet uses")


def _skip_varint(data: bytes, at: int) -> int:
    last = at + 9
    while data[at] > 127:
        if at == last:
            raise ValueError("a number of more than 10 bytes")
        at += 1
    return at + 1


def _skip_struct(data: bytes, at: int, depth: int) -> int:
    while head := data[at]:
        wire = head & 15
        at = at + 1 if head > 15 else _skip_varint(data, at + 1)
        if I16 <= wire <= I64:
            at = _skip_varint(data, at)
        elif wire > BOOL or not wire:
            at = _skip(data, at, wire, depth)
    return at + 1


def _skip_list(data: bytes, at: int, depth: int) -> int:
    count, wire, at = _read_list_head(data, at)
    for _ in range(count):
        at = _skip(data, at, wire, depth)
    return at


# fmt: off
_STATISTICS = Struct(
    max=BINARY, min=BINARY, null_count=I64, distinct_count=I64,
    max_value=BINARY, min_value=BINARY, max_is_exact=BOOL, min_is_exact=BOOL,
)
_KEY_VALUES = ListOf(Struct("key", key=BINARY, value=BINARY), 1000)
_ENCODING_STATS = Struct("page_type encoding count", page_type=I32, encoding=I32, count=I32)
_COLUMN = Struct(
    "type encodings path codec num_values unpacked_bytes packed_bytes data_page",
    type=I32, encodings=ListOf(I32, 100), path=ListOf(BINARY, 1), codec=I32,
    num_values=I64, unpacked_bytes=I64, packed_bytes=I64, key_values=_KEY_VALUES,
    data_page=I64, index_page=I64, dictionary_page=I64, statistics=_STATISTICS,
    encoding_stats=ListOf(_ENCODING_STATS, 100), bloom_filter=I64, bloom_bytes=I32,
    sizes=Struct(bytes=I64, repetitions=ListOf(I64, 9), definitions=ListOf(I64, 9)),
    places=Struct(box=Struct(), types=ListOf(I32, 100)),
)
_CHUNK = Struct(
    "file_offset column",
    file_path=BINARY, file_offset=I64, column=_COLUMN, offset_index=I64, offset_index_bytes=I32,
    column_index=I64, column_index_bytes=I32, encryption=Struct(), encrypted_column=BINARY,
)
_SORTING = Struct("column is_descending nulls_first", column=I32, is_descending=BOOL, nulls_first=BOOL)
ROW_GROUP = Struct(
    "chunks unpacked_bytes num_rows",
    chunks=ListOf(_CHUNK, MAX_COLUMNS), unpacked_bytes=I64, num_rows=I64,
    sorting=ListOf(_SORTING, MAX_COLUMNS), file_offset=I64, packed_bytes=I64, ordinal=I16,
)
_SCHEMA_ELEMENT = Struct(
    "name",
    type=I32, type_bytes=I32, repetition=I32, name=BINARY, num_children=I32,
    converted_type=I32, scale=I32, precision=I32, field_id=I32, logical_type=Struct(),
)
FILE = Struct(
    "version schema num_rows row_groups",
    version=I32, schema=ListOf(_SCHEMA_ELEMENT, 1 + MAX_COLUMNS), num_rows=I64,
    row_groups=ListOf(ROW_GROUP, MAX_CHUNKS, waits=True),
    key_values=_KEY_VALUES, created_by=BINARY, orders=ListOf(Struct(), MAX_COLUMNS), encryption=Struct(), signing_key=BINARY,
)
_DATA_PAGE = Struct(
    "num_values encoding definition_encoding repetition_encoding",
    num_values=I32, encoding=I32, definition_encoding=I32, repetition_encoding=I32, statistics=_STATISTICS,
)
_DATA_PAGE_V2 = Struct(
    "num_values num_nulls num_rows encoding definition_bytes repetition_bytes",
    num_values=I32, num_nulls=I32, num_rows=I32, encoding=I32,
    definition_bytes=I32, repetition_bytes=I32, is_compressed=BOOL, statistics=_STATISTICS,
)
_DICTIONARY_PAGE = Struct("num_values encoding", num_values=I32, encoding=I32, is_sorted=BOOL)
PAGE = Struct(
    "type unpacked_bytes packed_bytes",
    type=I32, unpacked_bytes=I32, packed_bytes=I32, crc=I32, data=_DATA_PAGE,
    index=Struct(), dictionary=_DICTIONARY_PAGE, data_v2=_DATA_PAGE_V2,
)
# fmt: on
