"""From floating point to integers: as good, as small, and back again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tsae.archive import bare_records
from tsae.checkpoint import LearnedWeights, Model, model_from_bytes, model_to_bytes
from tsae.codec import Codec
from tsae.entropy.coder import EntropyCoder
from tsae.latents import coding_of
from tsae.metrics import psnr_db
from tsae.training import TrainConfig
from tsae.training.export import _int, export, round_as_exported, trainable
from tsae.training.images import ImageSet
from tsae.training.learned import LearnedRecipe
from tsae.training.variable_rate import VariableRateAutoencoder, to_patches
from tsae.zoo import read_model_file

STEPS = 40


@pytest.fixture(scope="module")
def small(
    small_config: TrainConfig, small_recipe: None, pictures: np.ndarray, picture_set: ImageSet
) -> VariableRateAutoencoder:
    """A network of a short training, with all its parts away from where they started."""
    torch.manual_seed(0)
    recipe = LearnedRecipe(small_config, picture_set)
    for number in range(STEPS):
        batch = pictures[number % 3 * 16 : number % 3 * 16 + 16]
        recipe.step(torch.from_numpy(batch), number, STEPS)
    return recipe.average


@pytest.fixture(scope="module")
def packaged() -> LearnedWeights:
    weights = model_from_bytes(read_model_file("tsae"), "tsae").weights
    assert isinstance(weights, LearnedWeights)
    return weights


@pytest.fixture(scope="module", params=["small", "packaged"])
def pair(request: pytest.FixtureRequest, pictures: np.ndarray) -> tuple[VariableRateAutoencoder, LearnedWeights]:
    """A trained network and its export."""
    found = request.getfixturevalue(request.param)
    network = trainable(found) if isinstance(found, LearnedWeights) else found
    weights = export("test", network, pictures, {}).weights
    assert isinstance(weights, LearnedWeights)
    return network, weights


def code(weights: LearnedWeights, images: np.ndarray, quality: int) -> tuple[float, np.ndarray]:
    """Mean bytes of an image, and what comes back, with all images at that quality."""
    codec, coder = Codec(Model("test", weights), "0" * 64), EntropyCoder(weights.prior)
    patches = (to_patches(torch.from_numpy(images)).numpy() - 128).astype(np.int64)
    symbols = coder.quantize(weights.analysis.run(patches, quality).astype(np.int32), quality)
    streams = coder.encode(symbols, quality)
    records = bare_records(streams, np.full(len(streams), coding_of(quality), np.uint8), [None] * len(streams))
    return float(np.mean([len(stream) for stream in streams])), codec.decode(records)


@torch.no_grad()
def estimate(network: VariableRateAutoencoder, images: np.ndarray, quality: int) -> tuple[float, float]:
    """Mean bytes of an image and PSNR, in floating point."""
    x = to_patches(torch.from_numpy(images))
    x_hat, bits, _ = network(x, torch.full((len(x),), quality - 1), hard=True)
    error = (x_hat.round().clamp(0, 255) - x).square().mean((1, 2, 3))
    return float(bits.sum()) / 8 / len(x), float((10 * torch.log10(255**2 / error)).mean())


@pytest.mark.parametrize("quality", [1, 3, 5, 8])
def test_integers_are_as_good_and_as_small_as_floats(
    pair: tuple[VariableRateAutoencoder, LearnedWeights], pictures: np.ndarray, quality: int
) -> None:
    """The estimate has no part bytes, but knows only of the learned distribution, not of the tables fitted to what was seen."""
    network, weights = pair
    float_bytes, float_psnr_db = estimate(network, pictures, quality)
    coded_bytes, decoded = code(weights, pictures, quality)
    assert abs(psnr_db(pictures, decoded).mean() - float_psnr_db) < 0.3
    assert 0.85 * float_bytes < coded_bytes < 1.04 * float_bytes + 1


def test_the_export_is_a_model_file(pair: tuple[VariableRateAutoencoder, LearnedWeights]) -> None:
    data = model_to_bytes(Model("test", pair[1], training={"epochs": 1}))
    assert model_to_bytes(model_from_bytes(data, "it")) == data


def test_exporting_leaves_the_network_as_it_was(small: VariableRateAutoencoder, pictures: np.ndarray) -> None:
    before = {name: t.clone() for name, t in small.state_dict().items()}
    first, second = (export("test", small, pictures, {}) for _ in range(2))
    assert model_to_bytes(first) == model_to_bytes(second)
    assert all(torch.equal(t, before[name]) for name, t in small.state_dict().items())


def test_a_model_becomes_trainable_and_the_same_model_again(packaged: LearnedWeights, pictures: np.ndarray) -> None:
    """But for what is fitted to the images, tables and channels that are used; and for zeros at the end of all weights."""
    again = export("test", trainable(packaged), pictures, {}).weights
    assert isinstance(again, LearnedWeights)
    before, after = packaged.prior.to_tensors(), again.prior.to_tensors()
    fitted = {"active", "cumulative"}
    assert [name for name in before if name not in fitted and not np.array_equal(before[name], after[name])] == []
    patches = (to_patches(torch.from_numpy(pictures[:6])).numpy() - 128).astype(np.int64)
    for quality in (1, 8):
        y = packaged.analysis.run(patches, quality)
        assert np.abs(again.analysis.run(patches, quality) - y).max() <= 1
        x_hat = packaged.synthesis.run(np.clip(y, -4095, 4095), quality)
        assert np.abs(again.synthesis.run(np.clip(y, -4095, 4095), quality) - x_hat).max() <= 1


def test_a_network_that_rounds_as_exported_gives_what_the_integers_give(packaged: LearnedWeights, pictures: np.ndarray) -> None:
    """Nearly always: halves go to the even integer here, and up there."""
    x = to_patches(torch.from_numpy(pictures[:8]))
    exact = packaged.analysis.run((x.numpy() - 128).astype(np.int64), 5)

    def error(network: VariableRateAutoencoder) -> float:
        with torch.no_grad():
            y = network.g_a((x - 128) / 16, torch.full((8,), 4)) * 64
        return float(np.abs(np.rint(y.numpy()) - exact).mean())

    network = trainable(packaged)
    plain = error(network)
    round_as_exported(network)
    assert error(network) < 0.7 * plain


def test_weights_too_large_for_exact_sums_are_refused(small: VariableRateAutoencoder, pictures: np.ndarray) -> None:
    network = trainable(export("test", small, pictures, {}).weights)  # type: ignore[arg-type]
    with torch.no_grad():
        network.g_a.first.weight[3] *= 1e6
    with pytest.raises(ValueError, match="too large for exact sums"):
        export("test", network, pictures, {})


def test_weights_of_the_prior_are_cut_to_what_their_type_holds() -> None:
    found = _int(torch.tensor([-1e6, -8.0, -0.3, 0.26, 7.9999, 1e6]), 12, np.int16)
    assert found.tolist() == [-32767, -32767, -1229, 1065, 32767, 32767]
    assert found.dtype == np.int16


def test_facts_come_along(small: VariableRateAutoencoder, pictures: np.ndarray, small_config: TrainConfig) -> None:
    facts = dataclasses.asdict(small_config)
    assert export("mine", small, pictures, facts).training == facts
    assert export("mine", small, pictures, facts).name == "mine"
