"""Lists of shards come back, find what could hold a key, and are refused where they say what cannot be."""

import dataclasses
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import ShardEntry, digest
from tsae.archive.lists import GROUP_SHARDS, LIST_FILE, ShardList, list_to_bytes, read_list
from tsae.errors import CorruptDataError

HEX = "0123456789abcdef"
SOURCE = "some/list.parquet"


def entry(number: int, first_key: str = "a", last_key: str = "b", **fields: Any) -> ShardEntry:
    usual: dict[str, Any] = {
        "file": f"shards/{number:06d}-{HEX}.parquet",
        "rows": 1 + number % 7,
        "bytes": 5_000,
        "sha256": digest(str(number).encode()),
        "first_key": first_key,
        "last_key": last_key,
        "source_bytes": 9_000,
        "stream_bytes": 512,
        "lossless": 0,
        "lossless_bytes": 0,
        "psnr_min_db": 24.5,
        "psnr_sum_db": 100.25,
        "provenance": f"provenance/{number:06d}-{HEX}.parquet",
        "footer": b"footer %d" % number,
        "crc32s": b"crc32s %d" % number,
    }
    return ShardEntry(**usual | fields)


MANY = [entry(number, f"{number:03d}a", f"{number:03d}z") for number in range(2 * GROUP_SHARDS + 5)]


@pytest.mark.parametrize("count", [1, 2, GROUP_SHARDS, GROUP_SHARDS + 1, len(MANY)])
def test_lists_come_back(count: int) -> None:
    entries = MANY[:count]
    file = list_to_bytes(entries)
    assert list_to_bytes(list(entries)) == file
    assert read_list(file, SOURCE) == entries
    found = ShardList(file, SOURCE)
    assert len(found) == count
    assert [found.entry(index) for index in range(count)] == entries
    assert found.ends == [sum(e.rows for e in entries[: index + 1]) for index in range(count)]
    assert pq.read_metadata(io.BytesIO(file)).num_row_groups == -(-count // GROUP_SHARDS)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
BIG = st.integers(0, 2**64 - 1)
DB = st.none() | st.floats(-100, 100, width=32)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "keys": st.tuples(TEXT, TEXT).map(sorted),
                "rows": st.integers(1, 4096),
                "bytes": BIG,
                "source_bytes": BIG,
                "stream_bytes": BIG,
                "lossless": st.integers(0, 4096),
                "lossless_bytes": BIG,
                "psnr_min_db": DB,
                "psnr_sum_db": DB,
                "footer": st.binary(max_size=99),
                "has_provenance": st.booleans(),
            }
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_entries_come_back(rows: list[dict[str, Any]]) -> None:
    entries = []
    for number, row in enumerate(rows):
        keys, has_provenance = row.pop("keys"), row.pop("has_provenance")
        entries.append(entry(number, *keys, **row))
        if not has_provenance:
            entries[-1] = dataclasses.replace(entries[-1], provenance=None)
    assert read_list(list_to_bytes(entries), SOURCE) == entries


def test_the_shards_that_could_hold_a_key() -> None:
    found = ShardList(list_to_bytes([entry(0, "b", "d"), entry(1, "a", "c"), entry(2, "d", "d"), entry(3, "x", "z")]), SOURCE)
    assert {key: found.candidates(key) for key in ("a", "b", "c", "d", "da", "w", "x", "zz")} == {
        "a": [1],
        "b": [1, 0],
        "c": [1, 0],
        "d": [2, 0],
        "da": [],
        "w": [],
        "x": [3],
        "zz": [],
    }


def test_files_and_data_bytes() -> None:
    entries = [entry(0), entry(1, provenance=None)]
    assert ShardList(list_to_bytes(entries), SOURCE).files() == {entries[0].file, entries[1].file, str(entries[0].provenance)}
    assert entries[0].data_bytes == 5_000 - len(b"footer 0") - 8


# Lies


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "../outside.parquet"},
        {"file": "/etc/passwd"},
        {"file": f"lists/000000-{HEX}.parquet"},
        {"file": f"shards/000000-{HEX}.parquet\0"},
        {"file": "s3://bucket/x"},
        {"provenance": "../outside.parquet"},
        {"provenance": f"shards/000000-{HEX}.parquet"},
        {"provenance": ""},
        {"first_key": "c"},
        {"rows": 0},
        {"psnr_min_db": float("nan")},
        {"psnr_min_db": float("inf")},
        {"psnr_sum_db": float("nan")},
        {"psnr_sum_db": float("-inf")},
    ],
)
def test_entries_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    file = list_to_bytes([*MANY[:GROUP_SHARDS], entry(0, **fields)])
    for read in (read_list, ShardList):
        with pytest.raises(CorruptDataError, match=r"^some/list\.parquet: .*restore the file") as caught:
            read(file, SOURCE)
        assert "\n" not in str(caught.value)


def as_file(table: pa.Table) -> bytes:
    file = io.BytesIO()
    options = {"store_schema": False, "write_page_checksum": True, "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, file, compression="zstd", **options)
    return file.getvalue()


@pytest.mark.parametrize("name", LIST_FILE.schema.names)
def test_a_list_without_a_column_is_refused(name: str) -> None:
    table = pq.read_table(io.BytesIO(list_to_bytes(MANY[:3])))
    assert len(read_list(as_file(table.cast(LIST_FILE.schema)), SOURCE)) == 3
    with pytest.raises(CorruptDataError, match=r"^some/list\.parquet: "):
        read_list(as_file(table.drop_columns([name])), SOURCE)


def test_columns_of_later_versions_are_passed_over() -> None:
    table = pq.read_table(io.BytesIO(list_to_bytes(MANY[:3]))).cast(LIST_FILE.schema)
    assert read_list(as_file(table.append_column("later", pa.array([1, None, 3]))), SOURCE) == MANY[:3]


def test_what_is_no_list_is_refused() -> None:
    for file in (b"", b"PAR1", b"x" * 99, list_to_bytes(MANY[:1])[:-1]):
        with pytest.raises(CorruptDataError, match=r"^some/list\.parquet: "):
            ShardList(file, SOURCE)


def test_no_flipped_byte_of_a_list_goes_unseen() -> None:
    """The digest in the manifest would tell; this is what is left without it."""
    entries = [entry(0), entry(1, provenance=None)]
    file, raised = list_to_bytes(entries), 0
    for position in range(len(file)):
        damaged = bytearray(file)
        damaged[position] ^= 1 + position % 255
        try:
            assert read_list(bytes(damaged), SOURCE) == entries, position
        except CorruptDataError:
            raised += 1
    assert raised > 0.5 * len(file)
