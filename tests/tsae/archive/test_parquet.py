"""Parquet files of one schema: the same bytes for the same table, reads of no more than is needed, one error for damage."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae.archive.parquet import MAX_FILE_BYTES, TableFile, TableReader, read_table, split_file
from tsae.errors import CorruptDataError

KIND = TableFile(
    "a test table",
    pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("number", pa.uint32(), nullable=False),
            pa.field("kind", pa.string()),
            pa.field("data", pa.binary()),
        ]
    ),
    dictionaries=("kind",),
    encodings=(("number", "DELTA_BINARY_PACKED"),),
    incompressible=("data",),
    statistics=("name",),
)
TABLE = pa.table(
    [
        [f"{index:04d}" for index in range(300)],
        list(range(300)),
        [(None, "one", "two")[index % 3] for index in range(300)],
        [bytes([index % 256]) * 50 if index % 5 else None for index in range(300)],
    ],
    schema=KIND.schema,
)


def plain(table: pa.Table) -> pa.Table:
    return table.cast(KIND.schema)


def test_tables_come_back() -> None:
    for groups in ([300], [100, 100, 100], [1, 299]):
        data = KIND.to_bytes(TABLE, groups, {"b": 1, "a": [None]})
        assert KIND.to_bytes(TABLE, groups, {"a": [None], "b": 1}) == data
        assert plain(read_table(KIND, data, "test")).equals(TABLE)
        reader = TableReader.of_file(KIND, data, "test")
        assert [group.rows for group in reader.row_groups] == groups
        assert reader.rows == 300
        assert reader.metadata() == {"a": [None], "b": 1}
    assert plain(read_table(KIND, KIND.to_bytes(TABLE.slice(0, 0), []), "test")).num_rows == 0


def test_other_programs_read_them() -> None:
    data = KIND.to_bytes(TABLE, [200, 100], {"x": 1})
    assert pq.read_table(io.BytesIO(data), page_checksum_verification=True).equals(TABLE)
    assert json.loads(pq.read_metadata(io.BytesIO(data)).metadata[b"tsae"]) == {"x": 1}


def test_the_file_is_written_as_the_kind_says() -> None:
    group = pq.read_metadata(io.BytesIO(KIND.to_bytes(TABLE, [300]))).row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(4)}
    assert {name: column.compression for name, column in columns.items()} == {
        "name": "ZSTD",
        "number": "ZSTD",
        "kind": "ZSTD",
        "data": "UNCOMPRESSED",
    }
    assert [name for name, column in columns.items() if column.has_dictionary_page] == ["kind"]
    assert [name for name, column in columns.items() if column.statistics is not None and column.statistics.has_min_max] == [
        "name"
    ]
    assert "DELTA_BINARY_PACKED" in columns["number"].encodings


def test_only_what_is_asked_for_is_read() -> None:
    data, reads = KIND.to_bytes(TABLE, [100, 200]), []

    def read_range(start: int, length: int) -> bytes:
        reads.append((start, length))
        return data[start : start + length]

    start, footer = split_file(data)
    reader = TableReader(KIND, footer, start, "test")
    assert reads == []
    assert plain(reader.read(1, read_range)).equals(TABLE.slice(100, 200))
    ((_, whole),) = reads
    reads.clear()
    assert reader.read(1, read_range, ["number"]).column("number").to_pylist() == list(range(100, 300))
    ((_, length),) = reads
    assert length < whole / 10
    assert reader.read(0, read_range, ["number", "name"]).column_names == ["number", "name"]


def test_a_read_error_is_left_to_the_caller() -> None:
    def broken(start: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")

    data = KIND.to_bytes(TABLE, [300])
    with pytest.raises(OSError, match="Input/output"):
        TableReader.of_file(KIND, data, "test").read(0, broken)


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff\xff\xff\xff" + b"PAR1", b"PAR1" + bytes(8) + b"PAR1"]
)
def test_what_is_no_parquet_file_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="^some/place: .*a test table"):
        read_table(KIND, data, "some/place")


def test_splitting() -> None:
    data = KIND.to_bytes(TABLE, [300])
    start, footer = split_file(data)
    assert data[start:-8] == footer
    for damaged in (data[:-1], b"X" + data[1:], data[:-1] + b"2", data[:3]):
        with pytest.raises(ValueError, match="begin and end"):
            split_file(damaged)


def test_a_file_of_another_kind_is_refused() -> None:
    for columns in (TABLE.column_names[:3], TABLE.column_names[::-1]):
        file = io.BytesIO()
        pq.write_table(TABLE.select(columns), file, store_schema=False, write_page_checksum=True, compression="zstd")
        with pytest.raises(CorruptDataError, match="^some/place: damaged, or not a test table"):
            read_table(KIND, file.getvalue(), "some/place")


def test_a_file_too_large_is_refused_before_it_is_read() -> None:
    _, footer = split_file(KIND.to_bytes(TABLE, [300]))
    with pytest.raises(CorruptDataError, match=f"at most {MAX_FILE_BYTES} are read"):
        TableReader(KIND, footer, MAX_FILE_BYTES + 1, "test")


def test_text_that_is_not_utf_8_is_refused() -> None:
    raw = TABLE.set_column(0, pa.field("name", pa.binary(), nullable=False), pa.array([b"\xff\xfe%d" % i for i in range(300)]))
    file = io.BytesIO()
    pq.write_table(raw, file, store_schema=False, write_page_checksum=True, compression="zstd", use_dictionary=["kind"])
    data = file.getvalue()
    with pytest.raises(CorruptDataError, match="^some/place: "):
        read_table(KIND, data, "some/place")


def test_pages_that_are_too_short_are_refused() -> None:
    reader = TableReader.of_file(KIND, KIND.to_bytes(TABLE, [300]), "some/place")
    for give in (lambda start, length: b"", lambda start, length: bytes(length), lambda start, length: bytes(length + 1)):
        with pytest.raises(CorruptDataError, match="^some/place: damaged"):
            reader.read(0, give)


def test_metadata_that_is_none_of_ours_is_none() -> None:
    file = io.BytesIO()
    pq.write_table(TABLE, file, store_schema=False, write_page_checksum=True, compression="zstd", use_dictionary=["kind"])
    assert TableReader.of_file(KIND, file.getvalue(), "test").metadata() == {}
