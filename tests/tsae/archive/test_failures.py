"""The failures table comes back, sorted and always the same; a damaged one is refused."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae.archive import Failure, failures_from_bytes, failures_to_bytes
from tsae.archive.failures import GROUP_ROWS
from tsae.errors import FormatError

FAILURES = [
    Failure("b.png", "decode", "ImageError", "damaged; fetch it again"),
    Failure("a/é 日.png", "read", "ImageError", "cannot be read", 2**40, "1700000000000000000"),
    Failure("a/new\nline.png", "list", "InputError", ""),
]


def test_round_trip_sorted_by_path() -> None:
    data = failures_to_bytes(FAILURES)
    assert failures_from_bytes(data, "test") == sorted(FAILURES, key=lambda failure: failure.path)


def test_equal_failures_in_any_order_give_equal_bytes() -> None:
    data = failures_to_bytes(FAILURES)
    assert failures_to_bytes(reversed(FAILURES)) == data
    assert failures_to_bytes(FAILURES[:2]) != data


def test_no_failures_are_a_table_too() -> None:
    assert failures_from_bytes(failures_to_bytes([]), "test") == []


def test_any_number_of_failures_comes_back() -> None:
    failures = [Failure(f"{index:05d}.png", "read", "ImageError", "x", index, None) for index in range(GROUP_ROWS * 2 + 1)]
    data = failures_to_bytes(failures)
    assert pq.read_metadata(io.BytesIO(data)).num_row_groups == 3
    assert failures_from_bytes(data, "test") == failures


def test_other_programs_read_the_table() -> None:
    table = pq.read_table(io.BytesIO(failures_to_bytes(FAILURES)))
    assert table.schema.names == ["path", "stage", "error", "message", "size_bytes", "version"]
    assert table.column("stage").to_pylist() == ["list", "read", "decode"]


def test_bytes_that_are_not_utf_8_are_escaped() -> None:
    failure = Failure("x.png", "read", "ImageError", "no file \udcff here")
    (back,) = failures_from_bytes(failures_to_bytes([failure]), "test")
    assert back.message == "no file \\udcff here"


def parquet(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no parquet",
        failures_to_bytes(FAILURES)[:-20],
        parquet(path=["a"]),
        parquet(path=["a"], stage=["b"], error=["c"], message=[None]),
        parquet(path=["a"], stage=["b"], error=["c"], message=["d"], size_bytes=[1.5], version=["v"]),
        parquet(path=[["a"]], stage=["b"], error=["c"], message=["d"]),
        parquet(path=[b"\xff"], stage=["b"], error=["c"], message=["d"]),
    ],
)
def test_what_is_no_failures_table_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^some/place: .*restore") as caught:
        failures_from_bytes(data, "some/place")
    assert "\n" not in str(caught.value)


def test_damaged_pages_are_refused() -> None:
    data = failures_to_bytes(FAILURES)
    column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    for position in range(start, start + column.total_compressed_size):
        damaged = bytearray(data)
        damaged[position] ^= 255
        try:
            assert len(failures_from_bytes(bytes(damaged), "test")) == 3
        except FormatError:
            continue
    with pytest.raises(FormatError):
        failures_from_bytes(data[:start] + b"\xff" * 30 + data[start + 30 :], "test")
