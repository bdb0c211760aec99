"""Provenance comes back; a damaged one is told apart from a good one."""

import hashlib
import io

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import Origin, provenance_from_bytes, provenance_to_bytes
from tsae.errors import CorruptDataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ORIGINS = st.builds(Origin, st.integers(0, 2**64 - 1), TEXT, st.binary(min_size=16, max_size=16))


@given(st.dictionaries(TEXT, ORIGINS, min_size=1, max_size=20))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_origins_come_back_in_their_order(origins: dict[str, Origin]) -> None:
    data = provenance_to_bytes(origins)
    assert list(provenance_from_bytes(data, "test").items()) == list(origins.items())
    assert provenance_to_bytes(dict(origins)) == data


def test_an_origin_is_that_of_the_bytes() -> None:
    origin = Origin.of(b"content", "v1")
    assert origin == Origin(7, "v1", hashlib.sha256(b"content").digest()[:16])
    assert Origin.of(b"contenT", "v1") != origin


def test_provenance_is_small() -> None:
    """Digest 16, time 8: little more than that, though times and keys are text."""
    times = [1_700_000_000_000_000_000 + 1_234_567 * index for index in range(1_000)]
    origins = {f"Test/{i:05d}.png": Origin.of(bytes(i), str(time)) for i, time in enumerate(times)}
    assert len(provenance_to_bytes(origins)) < 35 * len(origins)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100])
def test_what_is_no_provenance_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="^some/place: "):
        provenance_from_bytes(data, "some/place")


def test_damage_is_refused() -> None:
    data = provenance_to_bytes({"a": Origin.of(b"a", "1"), "b": Origin.of(b"b", "2")})
    for length in range(0, len(data), 7):
        with pytest.raises(CorruptDataError):
            provenance_from_bytes(data[:length], "test")
    column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(3)
    damaged = bytearray(data)
    damaged[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    with pytest.raises(CorruptDataError, match="checksum"):
        provenance_from_bytes(bytes(damaged), "test")
