"""Records: their checksums notice every change, and their table comes back."""

import dataclasses
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tsae.archive import Coding, Records, check_key
from tsae.archive.records import RECORD_SCHEMA, records_from_table
from tsae.errors import CorruptDataError

Make = Callable[..., Records]

ONE = Records(
    ["a/é.png"],
    np.array([40], np.uint32),
    np.array([50], np.uint32),
    ["stop"],
    np.array([Coding.LATENTS_INT8], np.uint8),
    [b"\x01\x02\xff"],
)


def test_the_checksum_is_the_one_the_format_describes() -> None:
    key, label = "a/é.png".encode(), b"stop"
    by_hand = struct.pack("<I", 8) + struct.pack("<I", 40) + struct.pack("<I", 50) + b"\x01" + struct.pack("<I", 5)
    assert ONE.checksums().tolist() == [zlib.crc32(by_hand + key + label + b"\x01\x02\xff")]
    assert ONE.checksums().dtype == np.uint32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys", ["a/e.png"]),
        ("keys", ["a/é.pngs"]),
        ("widths", np.array([41], np.uint32)),
        ("heights", np.array([40], np.uint32)),
        ("labels", ["stoq"]),
        ("labels", [""]),
        ("labels", [None]),
        ("codings", np.array([2], np.uint8)),
        ("streams", [b"\x01\x02\xfe"]),
        ("streams", [b"\x01\x02"]),
        ("streams", [b""]),
    ],
)
def test_the_checksum_notices_a_change_of_any_field(field: str, value: Any) -> None:
    changed = dataclasses.replace(ONE, **{field: value})
    assert changed.checksums()[0] != ONE.checksums()[0]
    table = changed.to_table().set_column(6, RECORD_SCHEMA.field("crc32"), [pa.array(ONE.checksums())])
    assert records_from_table(table)[1].tolist() == [False]


def test_no_label_and_an_empty_label_differ() -> None:
    none, empty = (dataclasses.replace(ONE, labels=[label]) for label in (None, ""))
    assert none.checksums()[0] != empty.checksums()[0]


def test_bytes_cannot_wander_from_one_field_to_the_next() -> None:
    moved = [
        dataclasses.replace(ONE, keys=["a/é.pn"], labels=["gstop"]),
        dataclasses.replace(ONE, labels=["sto"], streams=[b"p\x01\x02\xff"]),
        dataclasses.replace(ONE, widths=ONE.heights, heights=ONE.widths),
    ]
    assert ONE.checksums()[0] not in [records.checksums()[0] for records in moved]


def test_the_table_comes_back(make_records: Make) -> None:
    records = make_records(9)
    table = records.to_table()
    assert table.schema.equals(RECORD_SCHEMA)
    back, intact = records_from_table(table)
    assert intact.tolist() == [True] * 9
    assert back.keys == records.keys
    assert back.labels == records.labels
    assert back.streams == records.streams
    for name in ("widths", "heights", "codings"):
        np.testing.assert_array_equal(getattr(back, name), getattr(records, name))


def test_take_gives_the_records_asked_for_in_that_order(make_records: Make) -> None:
    records = make_records(5)
    taken = records.take([3, 0])
    assert len(taken) == 2
    assert taken.keys == [records.keys[3], records.keys[0]]
    assert taken.streams == [records.streams[3], records.streams[0]]
    assert taken.labels == [records.labels[3], records.labels[0]]
    np.testing.assert_array_equal(taken.checksums(), records.checksums()[[3, 0]])


def test_only_the_damaged_record_is_named(make_records: Make) -> None:
    records = make_records(4)
    wrong = records.checksums() ^ np.array([0, 0, 1, 0], np.uint32)
    table = records.to_table().set_column(6, RECORD_SCHEMA.field("crc32"), [pa.array(wrong)])
    assert records_from_table(table)[1].tolist() == [True, True, False, True]


@pytest.mark.parametrize("name", RECORD_SCHEMA.names)
def test_a_table_without_a_column_is_refused(name: str) -> None:
    with pytest.raises(CorruptDataError, match="columns"):
        records_from_table(ONE.to_table().drop_columns([name]))


@pytest.mark.parametrize("name", [field.name for field in RECORD_SCHEMA if not field.nullable])
def test_a_table_with_an_empty_cell_is_refused(name: str) -> None:
    index = RECORD_SCHEMA.get_field_index(name)
    column = pa.nulls(1, RECORD_SCHEMA.field(name).type)
    with pytest.raises(CorruptDataError):
        records_from_table(ONE.to_table().set_column(index, name, column))


@pytest.mark.parametrize(
    ("name", "column"), [("width", pa.array(["x"])), ("crc32", pa.array([-1])), ("stream", pa.array([[1]]))]
)
def test_a_table_of_other_types_is_refused(name: str, column: pa.Array) -> None:
    with pytest.raises(CorruptDataError):
        records_from_table(ONE.to_table().set_column(RECORD_SCHEMA.get_field_index(name), name, column))


@pytest.mark.parametrize("name", ["key", "label"])
def test_text_that_is_not_utf_8_is_refused(name: str) -> None:
    column = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
    with pytest.raises(CorruptDataError, match="UTF-8"):
        records_from_table(ONE.to_table().set_column(RECORD_SCHEMA.get_field_index(name), name, column))


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"])
def test_keys_that_leave_the_folder_are_refused(key: str) -> None:
    with pytest.raises(CorruptDataError):
        check_key(key)


@pytest.mark.parametrize("key", ["a", "a/b.png", "..a/b..", "...", " ", "a b\n.png", "ü"])
def test_odd_but_harmless_keys_are_taken(key: str) -> None:
    check_key(key)
