"""The model file: what goes in comes out, and nothing that is not a whole model of ours gets through."""

import copy
import io
import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tsae.checkpoint import FORMAT_VERSION, Model, fingerprint, model_from_bytes, model_to_bytes, read_header
from tsae.config import Preprocessing
from tsae.errors import ModelError
from tsae.model import SeedAutoencoder
from tsae.quantize import LatentQuantizer


def build(seed: int = 0, **training: Any) -> Model:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scale, offset = rng.uniform(0.01, 0.1, 8).astype(np.float32), rng.normal(0, 1, 8).astype(np.float32)
    return Model("test-model", SeedAutoencoder().eval(), LatentQuantizer(scale, offset), training=training or {"epochs": 3})


@pytest.fixture(scope="module")
def data() -> bytes:
    return model_to_bytes(build())


def assert_same(a: Model, b: Model) -> None:
    """The same numbers; names and training notes are no part of what decodes."""
    states = a.network.state_dict(), b.network.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    np.testing.assert_array_equal(a.quantizer.scale, b.quantizer.scale)
    np.testing.assert_array_equal(a.quantizer.offset, b.quantizer.offset)
    assert a.preprocessing == b.preprocessing


def reason_of(data: bytes) -> str:
    """The message of the refusal: one line that names the source."""
    with pytest.raises(ModelError) as caught:
        model_from_bytes(data, "some/model.safetensors")
    message = str(caught.value)
    assert message.startswith("some/model.safetensors: ")
    assert "\n" not in message
    return message


def edited(data: bytes, tensors: dict[str, torch.Tensor | None] | None = None, **fields: Any) -> bytes:
    """The model file with other tensors and header fields; None takes one out."""
    header = read_header(data, "test") | fields
    header = {name: value for name, value in header.items() if value is not None}
    kept = safetensors.torch.load(data) | (tensors or {})
    return safetensors.torch.save({k: t for k, t in kept.items() if t is not None}, {"tsae": json.dumps(header)})


def test_round_trip(data: bytes) -> None:
    model = build()
    read = model_from_bytes(data, "test")
    assert_same(model, read)
    assert (read.name, read.training) == ("test-model", {"epochs": 3})
    assert read.preprocessing == Preprocessing()
    assert not read.network.training


def test_equal_models_give_equal_bytes_and_others_do_not(data: bytes) -> None:
    assert model_to_bytes(build()) == data
    assert model_to_bytes(model_from_bytes(data, "test")) == data
    assert model_to_bytes(build(seed=1)) != data
    assert model_to_bytes(build(epochs=4)) != data
    assert model_to_bytes(build(epochs=4, seed_of_data=1)) == model_to_bytes(build(seed_of_data=1, epochs=4))


def test_how_tensors_lie_in_memory_does_not_matter(data: bytes) -> None:
    model = build()
    network = copy.deepcopy(model.network).to(memory_format=torch.channels_last)
    assert model_to_bytes(Model(model.name, network, model.quantizer, training=model.training)) == data


def test_other_programs_find_plain_safetensors_with_a_json_header(data: bytes) -> None:
    tensors = safetensors.torch.load(data)
    assert tensors["quantizer.scale"].shape == (8,)
    assert tensors["network.g_a.0.weight"].shape == (64, 3, 3, 3)
    header = read_header(data, "test")
    assert (header["format_version"], header["architecture"]) == (FORMAT_VERSION, "seed-8x8x8")


def test_the_fingerprint_is_sha_256() -> None:
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_cut_short_anywhere_is_refused(data: bytes) -> None:
    for length in range(0, len(data), 97):
        with pytest.raises(ModelError):
            model_from_bytes(data[:length], "test")
    for length in range(len(data) - 8, len(data)):
        reason_of(data[:length])
    reason_of(data + b"\0")


def test_a_flipped_bit_in_the_header_is_refused_or_changes_no_number(data: bytes) -> None:
    model = build()
    end = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for position in [*range(40), *range(40, end, 7)]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            read = model_from_bytes(bytes(damaged), "test")
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
        else:
            assert_same(model, read)
    assert refused > end / 7 / 2


def test_safetensors_of_somebody_else_are_refused() -> None:
    assert "no tsae model" in reason_of(safetensors.torch.save({"weight": torch.zeros(3)}))
    assert "no tsae model" in reason_of(safetensors.torch.save({"weight": torch.zeros(3)}, {"tsae": "not JSON"}))
    assert "no tsae model" in reason_of(safetensors.torch.save({"weight": torch.zeros(3)}, {"tsae": "[1, 2]"}))
    assert "no tsae model" in reason_of(safetensors.torch.save({"weight": torch.zeros(3)}, {"tsae": "[" * 100_000}))


def test_a_model_from_the_future_is_refused(data: bytes) -> None:
    message = reason_of(edited(data, format_version=FORMAT_VERSION + 1))
    assert f"model format {FORMAT_VERSION + 1}" in message
    assert "update tsae" in message


@pytest.mark.parametrize("architecture", ["hyper-9000", "", "SeedAutoencoder"])
def test_an_unknown_architecture_is_refused(data: bytes, architecture: str) -> None:
    assert "unknown architecture" in reason_of(edited(data, architecture=architecture))


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
def test_a_header_without_its_fields_is_refused(data: bytes, field: str, value: object) -> None:
    fields: dict[str, Any] = {field: value}
    assert field in reason_of(edited(data, **fields))


def test_unknown_preprocessing_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="64"):
        model_from_bytes(edited(data, preprocessing={"size_px": 64, "resample": "bilinear", "background": "white"}), "test")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"network.g_a.0.weight": torch.zeros(64, 3, 5, 5)}, "do not fit"),
        ({"network.g_a.0.weight": None}, "do not fit"),
        ({"network.extra": torch.zeros(1)}, "do not fit"),
        ({"network.g_s.0.bias": torch.full((32,), torch.nan)}, "finite"),
        ({"network.g_a.1.running_var": torch.full((64,), torch.inf)}, "finite"),
        ({"quantizer.scale": None}, "quantiser"),
        ({"quantizer.scale": torch.zeros(8)}, "quantiser"),
        ({"quantizer.scale": torch.ones(8, dtype=torch.bfloat16)}, "quantiser"),
        ({"quantizer.offset": torch.full((8,), torch.nan)}, "quantiser"),
        ({"quantizer.scale": torch.ones(7), "quantizer.offset": torch.ones(7)}, "7 scales for 8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(data: bytes, tensors: dict[str, torch.Tensor | None], message: str) -> None:
    assert message in reason_of(edited(data, tensors))


def test_pickles_are_refused_and_not_run() -> None:
    ran: list[int] = []

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return ran.append, (1,)

    checkpoint = io.BytesIO()
    torch.save(build().network.state_dict(), checkpoint)
    for bad in (pickle.dumps(Trap()), checkpoint.getvalue()):
        reason_of(bad)
    assert ran == []


@pytest.mark.parametrize("header", [b"{}", b"[]", b"null", b"{", b"\xff\xfe", b'{"__metadata__":{"tsae":1}}'])
def test_strange_headers_are_refused(header: bytes) -> None:
    reason_of(struct.pack("<Q", len(header)) + header)
    reason_of(struct.pack("<Q", 2**63) + header)
