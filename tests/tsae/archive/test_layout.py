"""Footers and pages of Parquet: real ones pass; none that passes ends a process in pyarrow, or makes it reserve much."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import types
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae.archive import layout
from tsae.archive import pages as page_checks
from tsae.archive.layout import Column, RowGroup, read_layout
from tsae.archive.pages import check_pages

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("width", pa.uint32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("psnr_db", pa.float32()),
        pa.field("coding", pa.uint8(), nullable=False),
        pa.field("stream", pa.binary(), nullable=False),
        pa.field("lossless", pa.binary()),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)
TYPES = {pa.string(): 6, pa.binary(): 6, pa.float32(): 4}
COLUMNS = [Column(f.name, TYPES.get(f.type, 1), f.nullable, f.name in ("label", "coding")) for f in SCHEMA]
ENCODINGS = {
    "key": "PLAIN",
    "width": "DELTA_BINARY_PACKED",
    "psnr_db": "BYTE_STREAM_SPLIT",
    "stream": "DELTA_LENGTH_BYTE_ARRAY",
    "lossless": "PLAIN",
    "crc32": "PLAIN",
}
GROUPS, ROWS = 3, 40


def values(group: int) -> dict[str, Any]:
    rng = np.random.default_rng(group)
    return {
        "key": [f"{group}/{row:04d}" for row in range(ROWS)],
        "width": rng.integers(20, 200, ROWS),
        "label": [None if row % 7 == 0 else f"class {row % 5}" for row in range(ROWS)],
        "psnr_db": [None if row % 9 == 0 else 30 + row for row in range(ROWS)],
        "coding": rng.integers(0, 3, ROWS),
        "stream": [rng.bytes(30) for _ in range(ROWS)],
        "lossless": [rng.bytes(20) if row % 8 == 0 else None for row in range(ROWS)],
        "crc32": rng.integers(0, 2**32, ROWS),
    }


def write(schema: pa.Schema = SCHEMA, metadata: dict[str, str] | None = None, **options: Any) -> bytes:
    compression = {name: "none" if name in ("stream", "lossless", "crc32") else "zstd" for name in schema.names}
    settings: dict[str, Any] = {
        "use_dictionary": ["label", "coding"],
        "column_encoding": ENCODINGS,
        "compression": compression,
        "write_statistics": ["key"],
        "write_page_checksum": True,
        "store_schema": False,
    }
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **settings | options) as writer:
        writer.add_key_value_metadata(metadata or {"tsae": "{}"})
        for group in range(GROUPS):
            columns = {name: values(group).get(name, [None] * ROWS) for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
    return bytes(sink.getvalue())


def split(file: bytes) -> tuple[bytes, bytes]:
    """The bytes before the footer, and the footer."""
    start = len(file) - 8 - int.from_bytes(file[-8:-4], "little")
    return file[:start], file[start:-8]


DATA, FOOTER = split(write())
LAYOUT = read_layout(FOOTER, len(DATA), COLUMNS)


def pages(group: RowGroup, data: bytes = DATA) -> bytes:
    return data[group.start : group.end]


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"compression": "none"}, {"max_rows_per_page": 7}])
def test_what_pyarrow_writes_passes(options: dict[str, Any]) -> None:
    data, footer = split(write(**options))
    groups = read_layout(footer, len(data), COLUMNS)
    assert [group.rows for group in groups] == [ROWS] * GROUPS
    assert [group.first_key for group in groups] == ["0/0000", "1/0000", "2/0000"]
    assert [group.last_key for group in groups] == ["0/0039", "1/0039", "2/0039"]
    assert (groups[0].start, groups[-1].end) == (4, len(data))
    assert [group.end for group in groups[:-1]] == [group.start for group in groups[1:]]
    for group in groups:
        check_pages(pages(group, data), group)


def test_some_columns_need_only_their_bytes() -> None:
    group = LAYOUT[1].select(["width", "label"])
    assert (group.start, group.end) == (LAYOUT[1].chunks[1].start, LAYOUT[1].chunks[2].end)
    check_pages(pages(group), group)


def test_keys_that_statistics_do_not_tell_exactly_are_none() -> None:
    data, footer = split(write(write_statistics=False))
    assert {(group.first_key, group.last_key) for group in read_layout(footer, len(data), COLUMNS)} == {(None, None)}
    is_exact = b"0/0000\x11\x11"
    inexact = FOOTER.replace(is_exact, b"0/0000\x11\x12")
    assert inexact != FOOTER
    assert read_layout(inexact, len(DATA), COLUMNS)[0].first_key is None
    assert read_layout(FOOTER.replace(b"0/0000", b"\xff" * 6), len(DATA), COLUMNS)[0].first_key is None


def test_later_versions_may_add_nullable_columns() -> None:
    added = [pa.field("time", pa.timestamp("us")), pa.field("digest", pa.binary(16))]
    data, footer = split(write(pa.schema([*SCHEMA, *added])))
    groups = read_layout(footer, len(data), COLUMNS)
    assert [chunk.column.name for chunk in groups[0].chunks] == SCHEMA.names
    assert groups[0].chunks[-1].end < groups[0].end == groups[1].start
    for group in groups:
        check_pages(pages(group, data), group)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (pa.schema([*SCHEMA, pa.field("more", pa.list_(pa.int32()))]), "schema's root"),
        (pa.schema([*SCHEMA, pa.field("more.key", pa.int32())]), "path"),
        (pa.schema([*SCHEMA][:-1]), "must begin as"),
        (pa.schema([*SCHEMA][::-1]), "must begin as"),
        (SCHEMA.set(1, pa.field("width", pa.uint64(), nullable=False)), "must begin as"),
        (SCHEMA.set(1, pa.field("width", pa.uint32())), "must begin as"),
    ],
)
def test_other_columns_are_refused(schema: pa.Schema, reason: str) -> None:
    data, footer = split(write(schema))
    with pytest.raises(ValueError, match=reason):
        read_layout(footer, len(data), COLUMNS)


def test_added_columns_must_be_nullable() -> None:
    with pytest.raises(ValueError, match="nullable"):
        read_layout(FOOTER, len(DATA), COLUMNS[:-1])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compression": "snappy"}, "codec 1"),
        ({"column_encoding": ENCODINGS | {"key": "DELTA_BYTE_ARRAY"}}, "encodings"),
        ({"use_dictionary": ["stream"], "column_encoding": {}}, "a dictionary at"),
        ({"metadata": {"ARROW:schema": "AAAA"}}, "ARROW:schema"),
    ],
)
def test_what_shards_do_not_use_is_refused(options: dict[str, Any], reason: str) -> None:
    data, footer = split(write(**options))
    with pytest.raises(ValueError, match=reason):
        read_layout(footer, len(data), COLUMNS)


def test_pages_without_checksums_are_refused() -> None:
    data, footer = split(write(write_page_checksum=False))
    group = read_layout(footer, len(data), COLUMNS)[0]
    with pytest.raises(ValueError, match="column 'key': checksum missing"):
        check_pages(pages(group, data), group)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("MAX_FOOTER_BYTES", 99, "footer of"), ("MAX_ROWS", ROWS - 1, "40 rows"), ("MAX_ROW_GROUP_BYTES", 999, "at most 999")],
)
def test_limits_hold(limit: str, value: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, limit, value)
    with pytest.raises(ValueError, match=reason):
        read_layout(FOOTER, len(DATA), COLUMNS)


def test_pages_beyond_the_file_are_refused() -> None:
    with pytest.raises(ValueError, match="row group 2: column 'crc32': pages at"):
        read_layout(FOOTER, len(DATA) - 1, COLUMNS)


def test_every_flipped_bit_in_pages_is_refused_or_changes_nothing() -> None:
    group, before = LAYOUT[0], pages(LAYOUT[0])
    rng = random.Random(0)
    passed, messages = [], []
    for at in rng.sample(range(len(before)), 600):
        changed = bytearray(before)
        changed[at] ^= 1 << rng.randrange(8)
        try:
            check_pages(bytes(changed), group)
            passed.append(at)
        except ValueError as error:
            messages.append(str(error))
    assert all(message.startswith("column '") and "\n" not in message for message in messages)
    assert len(passed) < 30  # in headers: statistics and flags that nothing depends on


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def signed(number: int) -> bytes:
    return varint(2 * number if number >= 0 else -2 * number - 1)


def struct(*fields: tuple[int, int, bytes]) -> bytes:
    """A Thrift struct: number, type and value of each field."""
    return b"".join(bytes([wire]) + signed(number) + value for number, wire, value in fields) + b"\0"


def listed(wire: int, items: list[bytes]) -> bytes:
    return bytes([0xF0 | wire]) + varint(len(items)) + b"".join(items)


def page(body: bytes, count: int, encoding: int, kind: int = 0, unpacked_bytes: int | None = None) -> bytes:
    """A page with a checksum that holds."""
    checksum = zlib.crc32(body)
    numbers = [kind, len(body) if unpacked_bytes is None else unpacked_bytes, len(body), checksum - (checksum >> 31 << 32)]
    inner = [count, encoding] if kind == 2 else [count, encoding, 3, 3]
    head = struct(*((number, 5, signed(value)) for number, value in enumerate(inner, 1)))
    fields = [(number, 5, signed(value)) for number, value in enumerate(numbers, 1)]
    return struct(*fields, (7 if kind == 2 else 5, 12, head)) + body


def delta(block: int, parts: int, count: int) -> bytes:
    return varint(block) + varint(parts) + varint(count) + bytes(60)


def group_of(data: bytes, codec: int = 0, *, is_nullable: bool = False) -> RowGroup:
    column = Column("x", 6, is_nullable, may_use_dictionary=True)
    return RowGroup(10, 4, 4 + len(data), None, None, (layout.Chunk(column, 4, 4 + len(data), codec),))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (page(delta(128, 4, 2**31 - 1), 10, 6), "2,147,483,647 values in a page of 10"),  # 8.6 GB in pyarrow 25
        (page(delta(2**32 - 128, 2**27 - 4, 10), 10, 5), "blocks of"),  # 134 MB
        (page(b"\1\0\0\0a", 2**28, 0, kind=2), "a dictionary of 268,435,456 values"),  # 4.3 GB
        (page(bytes(40), 2**31 - 1, 0), "more than 10 values"),
        (page(bytes(40), 9, 0), "pages lack 1 of 10"),
        (page(bytes(40), 0, 0), "a page of 0 values"),
        (page(bytes(40), -1, 0), "a page of -1 values"),
        (page(bytes(40), 10, 0, unpacked_bytes=2**31 - 1), "too large"),
        (page(bytes(40), 10, 0, unpacked_bytes=-1), "too large"),
        (page(bytes(40), 10, 0, unpacked_bytes=41), "said to be 41"),
        (page(bytes(40), 10, 7), "encoding 7"),
        (page(bytes(40), 10, 8), "encoding 8"),
        (page(bytes(40), 10, 0, kind=1), "type 1"),
        (page(bytes(40), 5, 0) + page(b"", 0, 0, kind=2) + page(bytes(40), 5, 0), "must be the first page"),
        (page(bytes(40), 10, 0)[:-1], "bytes are left|bytes; "),
    ],
)
def test_claims_of_pages_that_cost_memory_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_pages(data, group_of(data))


def test_a_delta_head_is_found_behind_levels_and_compression() -> None:
    body = b"\2\0\0\0\x14\1" + delta(128, 4, 2**31 - 1)
    packed = pa.compress(body, "zstd", asbytes=True)
    data = page(packed, 10, 6, unpacked_bytes=len(body))
    with pytest.raises(ValueError, match="2,147,483,647 values"):
        check_pages(data, group_of(data, codec=6, is_nullable=True))
    honest = b"\2\0\0\0\x14\1" + delta(128, 4, 10)
    data = page(pa.compress(honest, "zstd", asbytes=True), 10, 6, unpacked_bytes=len(honest))
    check_pages(data, group_of(data, codec=6, is_nullable=True))


X = Column("x", 1, is_nullable=False)
X_PAGES = b"PAR1" + page(bytes(40), 10, 0)
ROOT = struct((4, 8, b"\6schema"), (5, 5, signed(1)))
LEAF = struct((1, 5, signed(1)), (3, 5, signed(0)), (4, 8, b"\1x"))


def footer_of(
    schema: tuple[bytes, ...] = (ROOT, LEAF), kind: int = 1, column: tuple[Any, ...] = (), file: tuple[Any, ...] = ()
) -> bytes:
    """A footer of one column of ten numbers, with more or other fields."""
    size = signed(len(X_PAGES) - 4)
    metadata = struct(
        *[(1, 5, signed(kind)), (2, 9, listed(5, [signed(0), signed(3)])), (3, 9, listed(8, [b"\1x"])), (4, 5, signed(0))],
        *[(5, 6, signed(10)), (6, 6, size), (7, 6, size), (9, 6, signed(4)), *column],
    )
    group = struct((1, 9, listed(12, [struct((2, 6, signed(0)), (3, 12, metadata))])), (2, 6, size), (3, 6, signed(10)))
    rows = [(1, 5, signed(2)), (2, 9, listed(12, list(schema))), (3, 6, signed(10)), (4, 9, listed(12, [group]))]
    return struct(*rows, *file)


def test_a_footer_made_by_hand_is_read() -> None:
    groups = read_layout(footer_of(), len(X_PAGES), [X])
    assert [(group.rows, group.start, group.end) for group in groups] == [(10, 4, len(X_PAGES))]
    check_pages(X_PAGES[4:], groups[0])


@pytest.mark.parametrize(
    ("footer", "reason"),
    [
        (footer_of((struct((4, 8, b"\6schema"), (5, 5, signed(-1))), LEAF)), "schema's root"),
        (footer_of((*[struct((4, 8, b"\1x"), (5, 5, signed(1)))] * 60_000, LEAF)), "schema: list of 60,001 items"),
        (footer_of(kind=2), "type 2; the schema has 1"),
        (footer_of(column=((12, 12, struct((5, 8, b"\1a"), (6, 8, b"\1a"))),)), "statistics with values of"),
        (footer_of(column=((16, 12, struct((1, 6, signed(5)))),)), "sizes of values"),
        (footer_of(column=((16, 12, struct((2, 9, listed(6, [signed(5)] * 2)))),)), "counts of"),
        (footer_of(column=((16, 12, struct((3, 9, listed(6, [signed(5)] * 2)))),)), "counts of"),
        (footer_of(file=((5, 9, listed(12, [struct((1, 8, b"\0"))] * 10**5)),)), "key_values: list of 100,000 items"),
        (footer_of(file=((8, 12, struct()),)), "encryption"),
        (footer_of(column=((11, 6, signed(4)),)), "a dictionary at"),
    ],
)
def test_footers_that_end_a_process_or_fill_its_memory_are_refused(footer: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_layout(footer, len(X_PAGES), [X])


class Anything:
    """Equal to all: a checksum that holds, for whoever can write one."""

    def __ne__(self, other: object) -> bool:
        return False


def mutated(rng: random.Random, data: bytes, start: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(start, len(data))
        length = rng.choice([0, 0, 1, 1, 4, 8])
        changed[at : at + length] = rng.choice([rng.randbytes(length), b"\xff" * length, b"\x7f" * length, bytes(length)])
        changed[at] ^= 1 << rng.randrange(8) if length == 0 else 0
    return bytes(changed[: len(data)])


def read_with_pyarrow(footer: bytes, data: bytes) -> int:
    """Reads all that pyarrow can tell of what passes; errors are fine, an end of the process is not."""
    groups = read_layout(footer, len(data), COLUMNS)
    metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"))
    for index, group in enumerate(groups):
        for column in range(len(SCHEMA)):
            str(metadata.row_group(index).column(column))
        check_pages(pages(group, data), group)
        file = pq.ParquetFile(pa.BufferReader(data), metadata=metadata, read_dictionary=["label"])
        table = file.read_row_group(index, SCHEMA.names, use_threads=False)
        table.validate(full=True)  # UTF-8, and indices into the dictionary
        assert table.num_rows == len(table.to_pylist()) == group.rows
    return len(groups)


def read_mutations(count: int) -> None:
    """Prints how many mutations were read to the end, and the most bytes that pyarrow held."""
    page_checks.zlib = types.SimpleNamespace(crc32=lambda body: Anything())  # type: ignore[assignment]
    rng, was_read = random.Random(0), 0
    plain = split(write(compression="none"))
    for turn in range(count):
        data, footer = rng.choice([(DATA, FOOTER), plain])
        footer = mutated(rng, footer, 0) if turn % 2 else footer
        data = data if turn % 2 else mutated(rng, data, 4)
        with contextlib.suppress(pa.ArrowException, OSError, ValueError):
            was_read += read_with_pyarrow(footer, data) > 0
    print(was_read, pa.default_memory_pool().max_memory())


def test_nothing_that_passes_ends_the_process_in_pyarrow_or_makes_it_reserve_much() -> None:
    code = f"import runpy; runpy.run_path({__file__!r})['read_mutations'](3000)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-500:]
    was_read, most_bytes = map(int, result.stdout.split())
    assert was_read > 500
    assert most_bytes < 20e6
