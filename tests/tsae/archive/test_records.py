"""Records: their checksums notice every change, and their table comes back."""

import dataclasses
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import EXACT_PSNR_DB, Coding, Records, check_key, concatenate, int8_latents, key_fault, stored_psnr_db
from tsae.archive.records import MAX_LABEL_BYTES, PSNR_STEP_DB, RECORD_SCHEMA, records_from_table
from tsae.errors import CorruptDataError

Make = Callable[..., Records]

ONE = Records(
    ["a/é.png"],
    np.array([40], np.uint32),
    np.array([50], np.uint32),
    ["stop"],
    np.array([31.25], np.float32),
    np.array([Coding.LATENTS_INT8], np.uint8),
    [b"\x01\x02\xff"],
    [b"exact"],
)

NOT_MEASURED = np.array([np.nan], np.float32)


def record(
    key: str, width: int, height: int, label: str | None, psnr: float, coding: int, stream: bytes, lossless: bytes | None
) -> Records:
    return Records(
        [key],
        np.array([width], np.uint32),
        np.array([height], np.uint32),
        [label],
        np.array([psnr], np.float32),
        np.array([coding], np.uint8),
        [stream],
        [lossless],
    )


def with_checksums_of(changed: Records, original: Records) -> pa.Table:
    index = RECORD_SCHEMA.get_field_index("crc32")
    return changed.to_table().set_column(index, RECORD_SCHEMA.field("crc32"), [pa.array(original.checksums())])


def test_sizes_are_those_of_streams_and_lossless_files() -> None:
    assert concatenate([ONE, record("b.png", 1, 1, None, 30.0, 1, b"12", None)]).sizes_bytes() == [3 + 5, 2]


# The checksum


def test_the_checksum_is_the_one_the_format_describes() -> None:
    key, label = "a/é.png".encode(), b"stop"
    by_hand = struct.pack("<I", 8) + struct.pack("<I", 40) + struct.pack("<I", 50) + struct.pack("<f", 31.25) + b"\x01"
    by_hand += struct.pack("<I", 5) + struct.pack("<I", 6) + key + label + b"exact" + b"\x01\x02\xff"
    assert ONE.checksums().tolist() == [zlib.crc32(by_hand)]
    assert ONE.checksums().dtype == np.uint32
    none = dataclasses.replace(ONE, labels=[None], psnrs_db=NOT_MEASURED, lossless=[None])
    by_hand = struct.pack("<III", 8, 40, 50) + b"\x00\x00\xc0\x7f" + b"\x01" + bytes(8) + key + b"\x01\x02\xff"
    assert none.checksums().tolist() == [zlib.crc32(by_hand)]


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
        ("psnrs_db", np.array([31.265625], np.float32)),
        ("psnrs_db", NOT_MEASURED),
        ("codings", np.array([2], np.uint8)),
        ("streams", [b"\x01\x02\xfe"]),
        ("streams", [b"\x01\x02"]),
        ("streams", [b""]),
        ("lossless", [b"exacu"]),
        ("lossless", [b""]),
        ("lossless", [None]),
    ],
)
def test_the_checksum_notices_a_change_of_any_field(field: str, value: Any) -> None:
    changed = dataclasses.replace(ONE, **{field: value})
    assert changed.checksums()[0] != ONE.checksums()[0]
    assert records_from_table(with_checksums_of(changed, ONE))[1].tolist() == [False]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FIELDS = {
    "key": TEXT,
    "width": st.integers(0, 2**32 - 1),
    "height": st.integers(0, 2**32 - 1),
    "label": st.none() | TEXT,
    "psnr": st.just(float("nan")) | st.floats(-1000, 1000, width=32),
    "coding": st.integers(0, 255),
    "stream": st.binary(max_size=20),
    "lossless": st.none() | st.binary(max_size=20),
}


@given(st.fixed_dictionaries(FIELDS), st.sampled_from(sorted(FIELDS)), st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_another_value_of_any_field_gives_another_checksum(fields: dict[str, Any], name: str, data: st.DataObject) -> None:
    other = data.draw(FIELDS[name].filter(lambda value: repr(value) != repr(fields[name])))
    before, after = record(**fields), record(**fields | {name: other})
    assert before.checksums()[0] != after.checksums()[0]
    assert records_from_table(with_checksums_of(after, before))[1].tolist() == [False]
    assert records_from_table(before.to_table())[1].tolist() == [True]


def test_no_label_and_an_empty_label_differ() -> None:
    for field in ("labels", "lossless"):
        none, empty = (dataclasses.replace(ONE, **{field: [value]}) for value in (None, "" if field == "labels" else b""))
        assert none.checksums()[0] != empty.checksums()[0]


def test_bytes_cannot_wander_from_one_field_to_the_next() -> None:
    moved = [
        dataclasses.replace(ONE, keys=["a/é.pn"], labels=["gstop"]),
        dataclasses.replace(ONE, labels=["sto"], lossless=[b"pexact"]),
        dataclasses.replace(ONE, lossless=[b"exac"], streams=[b"t\x01\x02\xff"]),
        dataclasses.replace(ONE, widths=ONE.heights, heights=ONE.widths),
    ]
    assert ONE.checksums()[0] not in [records.checksums()[0] for records in moved]


def test_every_nan_is_the_same_nan() -> None:
    """Parquet has none at all there: null comes back as whatever NaN pyarrow likes."""
    other = np.array([0xFFC00001], np.uint32).view(np.float32)
    one, two = (dataclasses.replace(ONE, psnrs_db=psnrs_db) for psnrs_db in (NOT_MEASURED, other))
    assert one.checksums()[0] == two.checksums()[0]
    assert one.to_table().column("psnr_db").null_count == 1


# PSNR


def test_stored_psnr_is_rounded_down() -> None:
    step = PSNR_STEP_DB
    given_db = np.array([30.0, 30.0 + step, np.nextafter(30.0 + step, 0), 29.999, np.inf, 99.99, 0.001, -3.01])
    stored = stored_psnr_db(given_db)
    assert stored.tolist() == [30.0, 30.0 + step, 30.0, 30.0 - step, EXACT_PSNR_DB, 99.984375, 0.0, -3.015625]
    assert stored.dtype == np.float32


@given(st.floats(-200, 99.99) | st.just(float("inf")))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_floor_that_holds_for_the_stored_psnr_holds_for_the_image(psnr: float) -> None:
    (stored,) = stored_psnr_db(np.array([psnr])).tolist()
    assert stored <= psnr < stored + PSNR_STEP_DB or (psnr, stored) == (np.inf, EXACT_PSNR_DB)
    assert (stored / PSNR_STEP_DB).is_integer()


# Tables


def test_the_table_comes_back(make_records: Make) -> None:
    records = make_records(9)
    records.psnrs_db[4] = np.nan
    table = records.to_table()
    assert table.schema.equals(RECORD_SCHEMA)
    back, intact = records_from_table(table)
    assert intact.tolist() == [True] * 9
    for name in ("keys", "labels", "streams", "lossless"):
        assert getattr(back, name) == getattr(records, name)
    for name in ("widths", "heights", "psnrs_db", "codings"):
        np.testing.assert_array_equal(getattr(back, name), getattr(records, name))
        assert getattr(back, name).dtype == getattr(records, name).dtype
    assert table.column("psnr_db").null_count == 1
    assert {None} < set(back.lossless)


def test_take_gives_the_records_asked_for_in_that_order(make_records: Make) -> None:
    records = make_records(5)
    taken = records.take([3, 0])
    assert len(taken) == 2
    assert taken.keys == [records.keys[3], records.keys[0]]
    assert taken.streams == [records.streams[3], records.streams[0]]
    assert taken.labels == [records.labels[3], records.labels[0]]
    assert taken.lossless == [records.lossless[3], None]
    np.testing.assert_array_equal(taken.checksums(), records.checksums()[[3, 0]])
    assert len(records.take([])) == 0


def test_concatenating_keeps_all_and_their_order(make_records: Make) -> None:
    one, two = make_records(3, "a/"), make_records(4, "b/")
    both = concatenate([one, two])
    assert both.to_table().equals(pa.concat_tables([one.to_table(), two.to_table()]))
    assert concatenate([]).to_table().equals(RECORD_SCHEMA.empty_table())
    assert concatenate([]).checksums().tolist() == []


def test_only_the_damaged_record_is_named(make_records: Make) -> None:
    records = make_records(4)
    wrong = records.checksums() ^ np.array([0, 0, 1, 0], np.uint32)
    index = RECORD_SCHEMA.get_field_index("crc32")
    table = records.to_table().set_column(index, RECORD_SCHEMA.field("crc32"), [pa.array(wrong)])
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
    ("name", "column"),
    [
        ("width", pa.array(["x"])),
        ("crc32", pa.array([-1])),
        ("stream", pa.array([[1]])),
        ("psnr_db", pa.array([1.5])),
        ("lossless", pa.array(["x"])),
    ],
)
def test_a_table_of_other_types_is_refused(name: str, column: pa.Array) -> None:
    with pytest.raises(CorruptDataError):
        records_from_table(ONE.to_table().set_column(RECORD_SCHEMA.get_field_index(name), name, column))


@pytest.mark.parametrize("name", ["key", "label"])
def test_text_that_is_not_utf_8_is_refused(name: str) -> None:
    column = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
    with pytest.raises(CorruptDataError, match="UTF-8"):
        records_from_table(ONE.to_table().set_column(RECORD_SCHEMA.get_field_index(name), name, column))


@pytest.mark.parametrize(
    ("label", "is_fine"), [("é" * (MAX_LABEL_BYTES // 2), True), ("é" * (MAX_LABEL_BYTES // 2) + "x", False)]
)
def test_a_label_beyond_the_limit_is_refused(label: str, is_fine: bool) -> None:
    """Read through its dictionary, as shards are: a short file may claim it for any number of records."""
    records = dataclasses.replace(ONE, labels=[label])
    index = RECORD_SCHEMA.get_field_index("label")
    table = records.to_table().set_column(index, "label", pa.array([label]).dictionary_encode())
    if is_fine:
        assert records_from_table(table)[0].labels == [label]
    else:
        with pytest.raises(CorruptDataError, match="label of more than 4096 bytes"):
            records_from_table(table)


# Latents


def test_streams_of_latents_are_signed_bytes() -> None:
    records = dataclasses.replace(ONE, streams=[bytes([0, 127, 128, 255, 1, 2])])
    assert int8_latents(records, (3, 1, 2)).tolist() == [[[[0, 127]], [[-128, -1]], [[1, 2]]]]
    assert int8_latents(concatenate([]), (3, 1, 2)).shape == (0, 3, 1, 2)


@pytest.mark.parametrize(("stream", "coding"), [(b"12345", 1), (b"1234567", 1), (b"", 1), (b"123456", 2), (b"123456", 0)])
def test_streams_of_other_codings_and_lengths_are_refused_by_name(stream: bytes, coding: int) -> None:
    records = dataclasses.replace(ONE, streams=[stream], codings=np.array([coding], np.uint8))
    with pytest.raises(CorruptDataError, match=r"a/é\.png: coding .*update tsae"):
        int8_latents(records, (3, 1, 2))


# Keys


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "../b",
        "a/..",
        "a\x00b",
        "\x00",
        "C:",
        "c:/x",
        "x:/../y",
        "k" * 4097,
        "é" * 2049,
        "\udcff.png",
    ],
)
def test_keys_that_leave_the_folder_are_refused(key: str) -> None:
    assert key_fault(key) is not None
    with pytest.raises(CorruptDataError) as caught:
        check_key(key)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "a/b.png",
        "..a/b..",
        "...",
        " ",
        "a b\n.png",
        "ü",
        "c:x.png",
        "cc:/x",
        "a/c:/x",
        "1:/x",
        "k" * 4096,
        "é" * 2048,
        "\\a",
        "~",
    ],
)
def test_odd_but_harmless_keys_are_taken(key: str) -> None:
    assert key_fault(key) is None
    check_key(key)
