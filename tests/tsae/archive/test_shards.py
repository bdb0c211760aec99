"""Shard files: round trips, bytes that depend on the records alone, small row groups, and no damage that goes unseen."""

import dataclasses
import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import Coding, Records, Shard, shard_to_bytes
from tsae.archive.records import RECORD_SCHEMA
from tsae.archive.shards import chunk_crc32s
from tsae.errors import CorruptDataError, TsaeError

Make = Callable[..., Records]

METADATA = {"model_sha256": "0" * 64, "format_version": 1}
MOST_BYTES = 256_000
"""Of a row group: the contract, whatever keys and labels are."""


def reader_of(data: bytes) -> Shard:
    return Shard.of_file(data, "some/shard.parquet")


def read_all(shard: Shard) -> tuple[pa.Table, np.ndarray]:
    parts = [shard.read(index) for index in range(shard.row_groups)]
    return pa.concat_tables([records.to_table() for records, _ in parts]), np.concatenate([intact for _, intact in parts])


def group_bytes(data: bytes) -> list[int]:
    """What reading each row group takes from the file: all its pages with their headers."""
    metadata = pq.read_metadata(io.BytesIO(data))
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return [sum(group.column(c).total_compressed_size for c in range(group.num_columns)) for group in groups]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.none() | TEXT,
    st.just(float("nan")) | st.floats(-100, 100, width=32),
    st.integers(0, 255),
    st.binary(max_size=700),
    st.none() | st.binary(max_size=60),
)


def records_of(rows: dict[str, Any]) -> Records:
    """Records from their fields by key."""
    keys = sorted(rows)
    columns = list(zip(*(rows[key] for key in keys), strict=True))
    widths, heights, labels, psnrs_db, codings, streams, lossless = columns
    numbers = [np.array(widths, np.uint32), np.array(heights, np.uint32), np.array(psnrs_db, np.float32)]
    return Records(
        keys, numbers[0], numbers[1], list(labels), numbers[2], np.array(codings, np.uint8), list(streams), list(lossless)
    )


@given(st.dictionaries(TEXT, ROWS, min_size=1, max_size=12), st.sampled_from([250_000, 1_000, 50]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_records_come_back(rows: dict[str, Any], row_group_bytes: int) -> None:
    """From one row group or from many."""
    records = records_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsae.archive.shards.ROW_GROUP_BYTES", row_group_bytes)
        data = shard_to_bytes(records, METADATA)
        assert shard_to_bytes(records_of(rows), METADATA) == data
    shard = reader_of(data)
    table, intact = read_all(shard)
    assert table.equals(records.to_table())
    assert intact.all()
    assert shard.keys() == records.keys
    assert shard.rows == len(records)
    assert shard.row_groups == len(records) or row_group_bytes > 50
    for row, key in enumerate(records.keys):
        row_group, place = shard.locate(row)
        assert shard.group_of(key) == row_group
        assert shard.keys(row_group)[place] == key


def test_equal_records_give_equal_bytes_and_others_do_not(make_records: Make) -> None:
    data = shard_to_bytes(make_records(50), METADATA)
    assert shard_to_bytes(make_records(50), dict(reversed(METADATA.items()))) == data
    assert shard_to_bytes(make_records(50, seed=1), METADATA) != data
    assert shard_to_bytes(make_records(50), METADATA | {"x": 1}) != data


def test_any_reader_of_parquet_reads_a_shard(make_records: Make) -> None:
    records = make_records(7)
    table = pq.read_table(io.BytesIO(shard_to_bytes(records, METADATA)), page_checksum_verification=True)
    assert table.schema.names == RECORD_SCHEMA.names
    assert table.column("key").to_pylist() == records.keys
    assert table.column("stream").to_pylist() == records.streams


def test_metadata_comes_back(make_records: Make) -> None:
    metadata = METADATA | {"text": "é", "nested": {"a": [1, None]}}
    assert reader_of(shard_to_bytes(make_records(1), metadata)).metadata() == metadata


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a", "c", "b"], []])
def test_keys_must_be_sorted_and_different(make_records: Make, keys: list[str]) -> None:
    records = make_records(len(keys))
    records.keys[:] = keys
    with pytest.raises(ValueError, match="sorted"):
        shard_to_bytes(records, METADATA)


def test_a_record_of_gtsrb_takes_little_more_than_its_stream() -> None:
    """One of four shards of its 12,630 test images; 16 bytes an image are for all that is no stream, the lists included."""
    rng, count = np.random.default_rng(0), 3_157
    widths = np.clip(rng.lognormal(3.8, 0.45, count), 25, 266).astype(np.uint32)
    heights = np.clip(widths + rng.normal(0, 3, count), 25, 266).astype(np.uint32)
    keys = [f"Test/{index:05d}.png" for index in range(count)]
    labels: list[str | None] = [str(label) for label in rng.integers(0, 43, count)]
    streams = [rng.bytes(512) for _ in range(count)]
    psnrs_db = np.floor(rng.normal(32, 4, count) * 64).astype(np.float32) / 64
    codings = np.full(count, Coding.LATENTS_INT8, np.uint8)
    records = Records(keys, widths, heights, labels, psnrs_db, codings, streams, [None] * count)
    assert len(shard_to_bytes(records, METADATA)) / count <= 512 + 15


# Row groups


@pytest.mark.parametrize("stream_bytes", [0, 512, 3_072])
@pytest.mark.parametrize("key_characters", [0, 200])
def test_row_groups_are_small_and_full(stream_bytes: int, key_characters: int) -> None:
    rng = np.random.default_rng(0)
    count = 1_500
    keys = sorted(rng.bytes(6).hex() + rng.bytes(key_characters // 2).hex() for _ in range(count))
    sides = np.full(count, 2**32 - 1, np.uint32) - rng.integers(0, 2**32 - 1, count, dtype=np.uint32)
    labels: list[str | None] = [key[:40] for key in keys]
    streams = [rng.bytes(stream_bytes) for _ in range(count)]
    psnrs_db = rng.normal(30, 4, count).astype(np.float32)
    lossless = [rng.bytes(2_000) if index % 9 == 0 else None for index in range(count)]
    codings = rng.integers(0, 256, count, np.uint8)
    data = shard_to_bytes(Records(keys, sides, sides[::-1], labels, psnrs_db, codings, streams, lossless), METADATA)
    sizes = group_bytes(data)
    assert max(sizes) <= MOST_BYTES
    assert len(sizes) <= 1 + len(data) / (MOST_BYTES / 2)
    assert read_all(reader_of(data))[1].all()


def test_a_record_larger_than_a_row_group_has_its_own(make_records: Make) -> None:
    records = make_records(3, stream_bytes=300_000)
    shard = reader_of(shard_to_bytes(records, METADATA))
    assert shard.row_groups == 3
    assert [shard.group_of(key) for key in records.keys] == [0, 1, 2]


def test_the_footer_tells_which_row_group_has_a_key(make_records: Make) -> None:
    records = make_records(1_200, stream_bytes=512)
    data = shard_to_bytes(records, METADATA)
    metadata = pq.read_metadata(io.BytesIO(data))
    assert metadata.num_row_groups >= 3
    for index in range(metadata.num_row_groups):
        columns = [metadata.row_group(index).column(c) for c in range(9)]
        assert [column.statistics is not None and column.statistics.has_min_max for column in columns] == [True] + [False] * 8
    shard = reader_of(data)
    for index in range(shard.row_groups):
        found, _ = shard.read(index)
        assert {shard.group_of(key) for key in (found.keys[0], found.keys[-1], found.keys[len(found) // 2])} == {index}
    assert shard.group_of("a") is None
    assert shard.group_of("z") == shard.row_groups - 1


def test_keys_too_long_for_statistics_are_found_all_the_same(make_records: Make) -> None:
    records = make_records(120, prefix="k" * 5_000)
    data = shard_to_bytes(records, METADATA)
    shard = reader_of(data)
    assert shard.row_groups > 1
    assert max(group_bytes(data)) <= MOST_BYTES
    for key in (records.keys[0], records.keys[70], records.keys[-1]):
        row_group = shard.group_of(key)
        assert row_group is not None
        assert key in shard.read(row_group)[0].keys
    assert shard.group_of("j") is None


def test_columns_are_read_without_the_others(make_records: Make) -> None:
    records = make_records(3)
    assert reader_of(shard_to_bytes(records, METADATA)).columns(["key", "label"]) == [
        {"key": key, "label": label} for key, label in zip(records.keys, records.labels, strict=True)
    ]


def test_opening_and_finding_read_no_stream(make_records: Make) -> None:
    records = make_records(2_000, stream_bytes=512)
    data, lengths = shard_to_bytes(records, METADATA), []

    def read_range(start: int, length: int) -> bytes:
        lengths.append(length)
        return data[start : start + length]

    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    shard = Shard(data[start:-8], start, read_range, "test")
    row_group = shard.group_of(records.keys[1_000])
    assert row_group is not None
    assert lengths == []
    assert records.keys[1_000] in shard.keys(row_group)
    assert sum(lengths) < 20_000
    lengths.clear()
    shard.read(row_group)
    assert len(lengths) == 1
    assert lengths[0] <= MOST_BYTES


def test_rows_are_found_in_their_row_groups(make_records: Make) -> None:
    records = make_records(1_200, stream_bytes=512)
    shard = reader_of(shard_to_bytes(records, METADATA))
    keys = [shard.keys(row_group) for row_group in range(shard.row_groups)]
    for row in range(0, 1_200, 17):
        row_group, place = shard.locate(row)
        assert keys[row_group][place] == records.keys[row]


# Damage


def outcome(data: bytes, expected: pa.Table) -> str:
    """What becomes of a damaged shard; anything but a `TsaeError` is raised."""
    try:
        shard = reader_of(data)
        shard.metadata()
        shard.group_of("sign/00001.png")
        shard.locate(1)
        shard.keys()
        shard.columns(["key", "width", "height", "label"])
        table, intact = read_all(shard)
    except TsaeError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return "raised"
    if not intact.all():
        return "masked"
    return "harmless" if table.equals(expected) else "UNSEEN"


def test_no_flipped_byte_goes_unseen(make_records: Make) -> None:
    records = make_records(3)
    data, expected = shard_to_bytes(records, METADATA), records.to_table()
    outcomes = []
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 + position % 255
        outcomes.append(outcome(bytes(damaged), expected))
    assert set(outcomes) <= {"raised", "masked", "harmless"}
    assert outcomes.count("raised") + outcomes.count("masked") > 0.8 * len(data)
    assert min(outcomes.count("raised"), outcomes.count("masked")) > 100


def test_no_longer_damage_goes_unseen(make_records: Make) -> None:
    records = make_records(600, stream_bytes=512)
    data, expected = shard_to_bytes(records, METADATA), records.to_table()
    generator = random.Random(0)
    outcomes = set()
    for _ in range(150):
        start = generator.choice((generator.randrange(len(data)), generator.randrange(len(data) - 2_000, len(data))))
        length = generator.choice((1, 8, 512, 4_096))
        kind = generator.randrange(4)
        if kind == 0:
            damaged = data[:start]
        elif kind == 1:
            damaged = data[:start] + data[start + length :]
        else:
            noise = bytes(length) if kind == 2 else generator.randbytes(length)
            damaged = data[:start] + noise[: len(data) - start] + data[start + length :]
        if damaged != data:
            outcomes.add(outcome(damaged, expected))
    assert outcomes <= {"raised", "masked", "harmless"}
    assert "raised" in outcomes


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1PAR1", b"no parquet, but text\n" * 9, b"\0" * 100, b"\xff" * 12 + b"PAR1"]
)
def test_what_is_no_shard_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"^some/shard\.parquet: "):
        reader_of(data)


def test_parquet_files_of_others_are_refused(make_records: Make) -> None:
    table = make_records(3).to_table()
    for other in (pa.table({"key": ["a"]}), table.drop_columns(["psnr_db"]), table.slice(0, 0)):
        file = io.BytesIO()
        pq.write_table(other, file, store_schema=False)
        with pytest.raises(CorruptDataError, match=r"^some/shard\.parquet: "):
            reader_of(file.getvalue())


def test_a_shard_with_columns_of_later_versions_is_read(make_records: Make) -> None:
    records = make_records(5)
    for name, column in (("more", pa.array([1, None, 3, 4, 5])), ("extra", pa.array([None, "a", "b", "c", "d"]))):
        file = io.BytesIO()
        table = records.to_table().append_column(name, column)
        pq.write_table(table, file, store_schema=False, write_page_checksum=True, use_dictionary=False, compression="zstd")
        back, intact = read_all(reader_of(file.getvalue()))
        assert back.equals(records.to_table())
        assert intact.all()


def test_metadata_that_is_none_of_ours_is_none(make_records: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("[1]", "{", "3", "[" * 100_000, '"text"', "null"):
        monkeypatch.setattr("tsae.archive.parquet.json.dumps", lambda *_, text=text, **__: text)
        assert reader_of(shard_to_bytes(make_records(1), {})).metadata() == {}


def test_a_label_beyond_the_limit_is_refused(make_records: Make) -> None:
    """A short file could claim it for any number of records; keys alone are read all the same."""
    records = make_records(3)
    records.labels[1] = "x" * 4_097
    shard = reader_of(shard_to_bytes(records, METADATA))
    with pytest.raises(CorruptDataError, match=r"^some/shard\.parquet: .*label of more than 4096 bytes"):
        shard.read(0)
    assert shard.keys() == records.keys


@pytest.mark.parametrize("prefix", ["a/", "b/"])
def test_pages_of_another_shard_are_not_taken_for_its_own(make_records: Make, prefix: str) -> None:
    """Even where they have the same keys, sizes, places and intact checksums."""
    one, two = make_records(4, "a/"), make_records(4, prefix)
    two = dataclasses.replace(two, streams=[bytes(len(stream)) for stream in two.streams])
    data, other = shard_to_bytes(one, METADATA), shard_to_bytes(two, METADATA)
    assert len(data) == len(other)
    start, crc32s = len(data) - 8 - int.from_bytes(data[-8:-4], "little"), chunk_crc32s(data)

    def read_range(offset: int, length: int) -> bytes:
        return other[offset : offset + length]

    shard = Shard(data[start:-8], start, read_range, "some/shard.parquet", crc32s)
    if prefix == "a/":
        assert shard.keys() == one.keys
        with pytest.raises(CorruptDataError, match=r"^some/shard\.parquet: row group 0 is of another state; restore"):
            shard.read(0)
        return
    for read in (lambda: shard.read(0), shard.keys, lambda: shard.columns(["key", "width"])):
        with pytest.raises(CorruptDataError, match=r"^some/shard\.parquet: .*restore"):
            read()


def test_damage_of_one_row_group_leaves_the_others(make_records: Make) -> None:
    records = make_records(1_200, stream_bytes=512)
    data = bytearray(shard_to_bytes(records, METADATA))
    stream = pq.read_metadata(io.BytesIO(data)).row_group(1).column(RECORD_SCHEMA.get_field_index("stream"))
    data[stream.data_page_offset + 5_000] ^= 1
    shard = reader_of(bytes(data))
    assert shard.keys() == records.keys
    found, intact = shard.read(1)
    assert np.count_nonzero(~intact) == 1
    assert found.streams != [records.streams[records.keys.index(key)] for key in found.keys]
    assert all(shard.read(index)[1].all() for index in range(shard.row_groups) if index != 1)
