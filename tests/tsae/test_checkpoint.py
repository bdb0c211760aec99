"""Models in their files: what goes in comes out, and nothing that is not a whole model of ours gets through."""

import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from tsae.checkpoint import ARCHITECTURES, LearnedWeights, Model, SeedWeights, model_from_bytes, model_to_bytes
from tsae.config import Preprocessing
from tsae.errors import ModelError
from tsae.model import SeedAutoencoder
from tsae.model_file import FORMAT_VERSION, read_header
from tsae.quantize import LatentQuantizer
from tsae.zoo import read_model_file


def build(seed: int = 0, **training: Any) -> Model:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scale, offset = rng.uniform(0.01, 0.1, 8).astype(np.float32), rng.normal(0, 1, 8).astype(np.float32)
    weights = SeedWeights.of(SeedAutoencoder(), LatentQuantizer(scale, offset))
    return Model("test-model", weights, training=training or {"epochs": 3})


@pytest.fixture(scope="module")
def data() -> bytes:
    return model_to_bytes(build())


def assert_same(a: Model, b: Model) -> None:
    """The same numbers; names and training notes are no part of what decodes."""
    assert type(a.weights) is type(b.weights)
    mine, other = a.weights.to_tensors(), b.weights.to_tensors()
    assert mine.keys() == other.keys()
    for name, array in mine.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])
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
    assert not read.weights.to_network().training
    assert (read.weights.qualities, read.weights.latent_shape, read.weights.parameters) == (0, (8, 8, 8), 45_515)


def test_equal_models_give_equal_bytes_and_others_do_not(data: bytes) -> None:
    assert model_to_bytes(build()) == data
    assert model_to_bytes(model_from_bytes(data, "test")) == data
    assert model_to_bytes(build(seed=1)) != data
    assert model_to_bytes(build(epochs=4)) != data
    assert model_to_bytes(build(epochs=4, seed_of_data=1)) == model_to_bytes(build(seed_of_data=1, epochs=4))


def test_how_tensors_lie_in_memory_does_not_matter(data: bytes) -> None:
    model = build()
    network = model.weights.to_network().to(memory_format=torch.channels_last)
    assert model_to_bytes(Model(model.name, SeedWeights.of(network, model.weights.quantizer), training=model.training)) == data


def test_other_programs_find_plain_safetensors_with_a_json_header(data: bytes) -> None:
    tensors = safetensors.torch.load(data)
    assert tensors["quantizer.scale"].shape == (8,)
    assert tensors["network.g_a.0.weight"].shape == (64, 3, 3, 3)
    header = read_header(data, "test")
    assert (header["format_version"], header["architecture"]) == (FORMAT_VERSION, "seed-8x8x8")


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


@pytest.mark.parametrize("architecture", ["hyper-9000", "", "SeedAutoencoder"])
def test_an_unknown_architecture_is_refused(data: bytes, architecture: str) -> None:
    assert "unknown architecture" in reason_of(edited(data, architecture=architecture))


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
        ({"quantizer.scale": torch.ones(8, dtype=torch.float64)}, "quantiser"),
        ({"quantizer.offset": torch.full((8,), torch.nan)}, "quantiser"),
        ({"quantizer.scale": torch.ones(7), "quantizer.offset": torch.ones(7)}, "7 scales for 8"),
        ({"quantizer.scale": torch.ones(8, dtype=torch.bfloat16)}, "BF16"),
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
    torch.save(build().weights.to_network().state_dict(), checkpoint)
    for bad in (pickle.dumps(Trap()), checkpoint.getvalue()):
        reason_of(bad)
    assert ran == []


# The learned architecture


@pytest.fixture(scope="module")
def learned() -> bytes:
    """The packaged model: for what is tested here, its shapes are all that matters."""
    return read_model_file("tsae")


def test_a_learned_model_comes_back(learned: bytes) -> None:
    model = model_from_bytes(learned, "test")
    assert isinstance(model.weights, LearnedWeights)
    assert model_to_bytes(model) == learned
    assert_same(model, model_from_bytes(model_to_bytes(model), "test"))
    assert model.weights.latent_shape == (32, 8, 8)
    assert model.weights.qualities == 8
    tensors = safetensors.numpy.load(learned)
    assert {name.partition(".")[0] for name in tensors} == {"analysis", "synthesis", "tables"}
    assert all(np.issubdtype(array.dtype, np.integer) for array in tensors.values())
    shifts = sum(array.size for name, array in tensors.items() if name.endswith(".shift"))
    assert model.weights.parameters == sum(array.size for array in tensors.values()) - shifts


def test_architectures_go_by_their_names() -> None:
    assert {"seed-8x8x8": SeedWeights, "tsae-1": LearnedWeights} == ARCHITECTURES


def without(tensors: dict[str, np.ndarray], prefix: str) -> None:
    for name in [name for name in tensors if name.startswith(prefix)]:
        del tensors[name]


def narrow(tensors: dict[str, np.ndarray], part: str) -> None:
    """One output less of a network."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith(part))
    for field in ("weight", "shift"):
        tensors[f"{part}.{last}.{field}"] = tensors[f"{part}.{last}.{field}"][:-1]
    tensors[f"{part}.{last}.bias"] = tensors[f"{part}.{last}.bias"][:, :-1]


def fewer_qualities(tensors: dict[str, np.ndarray], part: str) -> None:
    for name in [name for name in tensors if name.startswith(part) and name.endswith(".bias")]:
        tensors[name] = tensors[name][:5]


def scale(tensors: dict[str, np.ndarray], name: str, factor: int) -> None:
    tensors[name] = (tensors[name].astype(np.int64) * factor).astype(tensors[name].dtype)


def change_type(tensors: dict[str, np.ndarray], name: str, dtype: type) -> None:
    tensors[name] = tensors[name].astype(dtype)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: without(tensors, "analysis."), "layers"),
        (lambda tensors: without(tensors, "synthesis.0."), "no 0.weight"),
        (lambda tensors: without(tensors, "synthesis.1.shift"), "no 1.shift"),
        (lambda tensors: without(tensors, "tables."), "no slices"),
        (lambda tensors: without(tensors, "tables.cumulative"), "no cumulative"),
        (lambda tensors: narrow(tensors, "analysis"), "do not fit patches of 48 and 32 channels"),
        (lambda tensors: narrow(tensors, "synthesis"), "do not fit patches of 48 and 32 channels"),
        (lambda tensors: fewer_qualities(tensors, "analysis"), "networks of 5 and 8 qualities, not 8"),
        (lambda tensors: tensors.update({"analysis.0.weight": np.full_like(tensors["analysis.0.weight"], 30_000)}), "beyond"),
        (lambda tensors: scale(tensors, "synthesis.0.shift", -1), "a shift outside 1 to 30"),
        (lambda tensors: change_type(tensors, "analysis.0.weight", np.float32), "do not fit"),
        (lambda tensors: change_type(tensors, "tables.gain", np.int16), "gain is int16"),
        (lambda tensors: scale(tensors, "tables.step", 0), "a gain or a step"),
        (lambda tensors: tensors.update({"analysis.x.weight": tensors["analysis.0.weight"]}), ""),
    ],
)
def test_tensors_of_a_learned_model_that_do_not_fit_are_refused(
    learned: bytes, damage: Callable[[dict[str, np.ndarray]], None], message: str
) -> None:
    tensors = safetensors.numpy.load(learned)
    damage(tensors)
    header = {"tsae": json.dumps(read_header(learned, "test"))}
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    assert message in reason_of(safetensors.numpy.save(contiguous, header))


def test_a_learned_model_under_the_name_of_the_other_is_refused(learned: bytes, data: bytes) -> None:
    reason_of(edited(learned, architecture="seed-8x8x8"))
    reason_of(edited(data, architecture="tsae-1"))
