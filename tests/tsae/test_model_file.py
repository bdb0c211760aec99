"""The container of model files: what goes in comes out, to the byte, and what is none of ours is refused in one line."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsae.errors import ModelError
from tsae.model_file import FORMAT_VERSION, HEADER_TYPES, below, fingerprint, read_header, read_model_file, write_model_file

HEADER: dict[str, Any] = {"name": "a", "architecture": "b", "preprocessing": {"size_px": 32}, "training": {"epochs": 3}}
TENSORS = {"x": np.arange(6, dtype=np.int16).reshape(2, 3), "deep.y": np.float32([1.5]), "deep.z": np.uint8(np.eye(2))}


@pytest.fixture
def data() -> bytes:
    return write_model_file(HEADER, TENSORS)


def reason_of(data: bytes) -> str:
    """The message of the refusal: one line that names the source."""
    with pytest.raises(ModelError) as caught:
        read_model_file(data, "some/model.safetensors")
    message = str(caught.value)
    assert message.startswith("some/model.safetensors: ")
    assert "\n" not in message
    return message


def with_header(**fields: Any) -> bytes:
    """A file of some other header; None takes a field out."""
    header = {"format_version": FORMAT_VERSION, **HEADER, **fields}
    text = json.dumps({name: value for name, value in header.items() if value is not None})
    return safetensors.numpy.save(TENSORS, {"tsae": text})


ARRAYS = st.sampled_from([np.int16, np.int32, np.uint8, np.uint16, np.float32]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(
    st.dictionaries(st.text("ab.0", min_size=1, max_size=5), ARRAYS, max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5), max_size=3),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_anything_comes_back(tensors: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    header = {**HEADER, "training": facts}
    data = write_model_file(header, tensors)
    read, arrays = read_model_file(data, "it")
    assert read == {"format_version": FORMAT_VERSION, **header}
    assert arrays.keys() == tensors.keys()
    for name, array in tensors.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert write_model_file({name: read[name] for name in HEADER_TYPES}, arrays) == data


def test_neither_order_nor_layout_in_memory_changes_a_byte(data: bytes) -> None:
    turned = {name: np.asfortranarray(array) for name, array in reversed(TENSORS.items())}
    assert write_model_file(dict(reversed(HEADER.items())), turned) == data
    assert write_model_file({**HEADER, "name": "c"}, TENSORS) != data
    assert write_model_file(HEADER, {**TENSORS, "x": TENSORS["x"] + np.int16(1)}) != data


def test_the_header_is_read_without_the_tensors(data: bytes) -> None:
    size = int.from_bytes(data[:8], "little")
    assert read_header(data[: 8 + size], "it") == read_model_file(data, "it")[0]


def test_the_fingerprint_is_sha_256() -> None:
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_below_takes_a_part() -> None:
    assert below({"a.x": 1, "a.y.z": 2, "ab.x": 3, "b.a.x": 4}, "a.") == {"x": 1, "y.z": 2}  # type: ignore[dict-item]


def test_a_file_cut_short_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        assert "damaged or no safetensors file" in reason_of(data[:length])
    reason_of(data + b"\0")


def test_a_flipped_bit_gives_other_numbers_at_most(data: bytes) -> None:
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        try:
            header, _ = read_model_file(bytes(damaged), "it")
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert header["format_version"] == FORMAT_VERSION


def test_safetensors_of_somebody_else_are_refused() -> None:
    for metadata in (None, {"tsae": "not JSON"}, {"tsae": "[1, 2]"}, {"tsae": "{}"}, {"tsae": "null"}, {"tsae": "[" * 100_000}):
        assert "no tsae model" in reason_of(safetensors.numpy.save(TENSORS, metadata))


def test_a_model_from_the_future_is_refused() -> None:
    message = reason_of(with_header(format_version=FORMAT_VERSION + 1))
    assert f"model format {FORMAT_VERSION + 1}, this tsae reads {FORMAT_VERSION}; update tsae" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", 3),
        ("architecture", ["seed-8x8x8"]),
        ("training", None),
        ("training", "x"),
        ("preprocessing", 1),
    ],
)
def test_a_header_without_its_fields_is_refused(field: str, value: object) -> None:
    assert f"header without a usable {field}" in reason_of(with_header(**{field: value}))


@pytest.mark.parametrize("header", [b"{}", b"[]", b"null", b"{", b"\xff\xfe", b'{"__metadata__":{"tsae":1}}'])
def test_strange_headers_are_refused(header: bytes) -> None:
    reason_of(struct.pack("<Q", len(header)) + header)
    reason_of(struct.pack("<Q", 2**63) + header)


def test_a_number_type_that_numpy_lacks_is_refused() -> None:
    metadata = {"tsae": json.dumps({"format_version": FORMAT_VERSION, **HEADER})}
    assert "BF16" in reason_of(safetensors.torch.save({"x": torch.zeros(2, dtype=torch.bfloat16)}, metadata))


def test_it_needs_no_torch() -> None:
    code = "import sys, tsae.model_file; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
