"""The learned recipe on a small network: the loss falls, the seed decides, and a killed run ends with the same bytes."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tsae.checkpoint import LearnedWeights, model_from_bytes
from tsae.codec import Codec
from tsae.errors import InputError, ModelError
from tsae.metrics import psnr_db
from tsae.training import TrainConfig, train
from tsae.training.images import ImageSet
from tsae.training.learned import LearnedRecipe, bits_per_db, cost
from tsae.training.variable_rate import QUALITIES, to_patches

pytestmark = pytest.mark.usefixtures("small_recipe")

running = importlib.import_module("tsae.training.run")
learned = importlib.import_module("tsae.training.learned")


@pytest.fixture(scope="module")
def trained(signs: Path, small_config: TrainConfig, small_recipe: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "whole.safetensors"
    train(signs, out, small_config)
    return out


def log_of(model: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in model.with_suffix(".log.jsonl").read_text().splitlines()]


def test_loss_falls_and_every_quality_is_logged(trained: Path) -> None:
    entries = log_of(trained)
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert entries[1]["train_loss"] < entries[0]["train_loss"]
    assert entries[1]["valid_loss"] < entries[0]["valid_loss"]
    sizes = [entries[1][f"valid_bytes_q{quality}"] for quality in range(1, 9)]
    assert sizes == sorted(sizes)
    assert all(15 < entries[1][f"valid_psnr_db_q{quality}"] < 45 for quality in range(1, 9))
    assert trained.with_suffix(".loss.png").read_bytes().startswith(b"\x89PNG")
    assert not trained.with_suffix(".resume.safetensors").exists()


def test_the_model_codes_images_and_tells_how_it_was_trained(trained: Path, pictures: np.ndarray) -> None:
    model = model_from_bytes(trained.read_bytes(), "it")
    assert isinstance(model.weights, LearnedWeights)
    assert (model.name, model.weights.latent_shape, model.weights.qualities) == ("tsae", (8, 8, 8), QUALITIES)
    assert (model.training["seed"], model.training["epochs"], model.training["learning_rate"]) == (4, 2, 4e-3)
    assert model.training["train_images"] + model.training["valid_images"] == 60
    assert model.training["valid_loss"] == pytest.approx(log_of(trained)[1]["valid_loss"], abs=1e-4)
    codec = Codec(model, "0" * 64)
    assert psnr_db(pictures, codec.decode(codec.encode(pictures, 8))).mean() > 22


def test_the_seed_decides_the_weights(signs: Path, small_config: TrainConfig, trained: Path, tmp_path: Path) -> None:
    train(signs, tmp_path / "again.safetensors", small_config)
    train(signs, tmp_path / "other.safetensors", dataclasses.replace(small_config, seed=5))
    assert (tmp_path / "again.safetensors").read_bytes() == trained.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != trained.read_bytes()


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("name", ["_run_epoch", "_save"])
def test_a_killed_run_goes_on_to_the_same_weights(
    signs: Path, small_config: TrainConfig, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, original, calls = tmp_path / "killed.safetensors", getattr(running, name), []

    def killed(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(running, name, killed)
        with pytest.raises(Killed):
            train(signs, out, small_config)
    assert not out.exists()
    train(signs, out, small_config, resume=True)
    assert out.read_bytes() == trained.read_bytes()
    assert [entry["epoch"] for entry in log_of(out)] == [1, 2]


def test_a_run_can_start_from_a_model_of_its_kind(
    signs: Path, small_config: TrainConfig, trained: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(small_config, epochs=1, start=str(trained))
    train(signs, tmp_path / "on.safetensors", config)
    assert log_of(tmp_path / "on.safetensors")[0]["valid_loss"] < log_of(trained)[0]["valid_loss"]
    with pytest.raises(InputError, match="start seed-8x8x8: is a model of seed-8x8x8; name one of tsae-1"):
        train(signs, tmp_path / "no.safetensors", dataclasses.replace(config, start="seed-8x8x8"))
    with pytest.raises(InputError, match="name one of seed-8x8x8"):
        train(signs, tmp_path / "no.safetensors", dataclasses.replace(config, model="seed-8x8x8"))
    with pytest.raises(ModelError, match="no-such-model"):
        train(signs, tmp_path / "no.safetensors", dataclasses.replace(config, start="no-such-model"))


def test_a_torch_without_muon_is_refused(
    small_config: TrainConfig, picture_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"has no optimiser Muon.*update torch"):
        LearnedRecipe(small_config, picture_set)


# The loss


def test_a_decibel_is_worth_more_at_higher_qualities() -> None:
    worth = bits_per_db()
    assert worth.shape == (QUALITIES,)
    assert (worth.diff() > 0).all()
    assert worth[7] / worth[0] > 8


def test_cost_is_bits_over_their_worth_less_psnr() -> None:
    x = torch.full((2, 48, 8, 8), 100.0)
    x_hat = x + torch.tensor([4.0, 8.0])[:, None, None, None]
    bits, quality = torch.full((2, 8, 8, 8), 0.5), torch.tensor([0, 7])
    worth = bits_per_db()
    expected = [256 / worth[0] + 10 * np.log10(16.25), 256 / worth[7] + 10 * np.log10(64.25)]
    np.testing.assert_allclose(cost(x, x_hat, bits, quality).numpy(), expected, rtol=1e-5)


def test_every_network_but_its_matrices_is_left_to_adam(small_config: TrainConfig, picture_set: ImageSet) -> None:
    recipe = LearnedRecipe(small_config, picture_set)
    groups = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in recipe.optimizers]
    assert groups[0] | groups[1] == {id(p) for p in recipe.network.parameters()}
    assert not groups[0] & groups[1]
    assert all(p.ndim == 2 for group in recipe.optimizers[1].param_groups for p in group["params"])


def test_rates_only_learns_nothing_but_what_differs_by_quality(
    small_config: TrainConfig, pictures: np.ndarray, picture_set: ImageSet, trained: Path
) -> None:
    config = dataclasses.replace(small_config, start=str(trained), rates_only=True)
    recipe = LearnedRecipe(config, picture_set)
    before = {name: p.detach().clone() for name, p in recipe.network.named_parameters()}
    for number in range(4):
        recipe.step(torch.from_numpy(pictures[:8]), number, 4)
    changed = {name for name, p in recipe.network.named_parameters() if not torch.equal(p, before[name])}
    assert {"log_gain", "log_step"} < changed
    assert all(name in ("log_gain", "log_step") or name.endswith("quality") for name in changed)


def test_rates_only_needs_a_model(small_config: TrainConfig) -> None:
    with pytest.raises(InputError, match="needs a model to start from"):
        dataclasses.replace(small_config, rates_only=True)


# A stage that counts reading


def test_a_readable_stage_loses_less_of_what_can_be_read(
    small_config: TrainConfig, picture_set: ImageSet, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the classifier that it asked, of images that it was trained on as they are."""
    monkeypatch.setattr(learned, "jitter", lambda images: images)
    images = torch.from_numpy(picture_set.images[:8])
    x, quality = to_patches(images), torch.arange(8) % QUALITIES
    lost = {}
    for readable in (1e-6, 20.0):
        torch.manual_seed(0)
        recipe = LearnedRecipe(dataclasses.replace(small_config, start=str(trained), readable=readable), picture_set)
        for number in range(12):
            recipe.step(images, number, 12)
        with torch.no_grad():
            x_hat = recipe.network(x, quality, hard=True)[0]
            lost[readable] = (recipe._misreading(x, x_hat, quality) / readable).mean().item()
    assert lost[20.0] < 0.8 * lost[1e-6]


def test_most_images_of_the_lower_qualities_are_jittered_and_read(
    small_config: TrainConfig, picture_set: ImageSet, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = LearnedRecipe(dataclasses.replace(small_config, start=str(trained), readable=2.0), picture_set)
    quality = torch.arange(64) % QUALITIES
    is_read = recipe._choose_read(quality)
    assert not is_read[:4].any()  # which are none of the training images any more
    assert not is_read[quality >= 6].any()
    assert 0.5 < is_read[4:][quality[4:] < 6].float().mean() < 1
    seen = []

    def read(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.full((len(x),), 0.5)

    monkeypatch.setattr(recipe, "_reading", read)
    monkeypatch.setattr(learned, "jitter", torch.zeros_like)
    images = torch.from_numpy(picture_set.images[:32])
    before = images.clone()
    recipe.step(images, 0, 4)
    assert 0 < len(seen[0]) < 30
    assert not seen[0].any()
    assert torch.equal(images, before)


def test_what_is_misread_counts_by_quality(
    small_config: TrainConfig, picture_set: ImageSet, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = LearnedRecipe(dataclasses.replace(small_config, start=str(trained), readable=2.0), picture_set)
    images = torch.from_numpy(picture_set.images[:2])

    def read(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        assert torch.equal(x, images.permute(0, 3, 1, 2) / 255)
        assert torch.equal(x_hat, x)
        return torch.tensor([0.5, 0.5])

    monkeypatch.setattr(recipe, "_reading", read)
    patches = to_patches(images)
    np.testing.assert_allclose(recipe._misreading(patches, patches, torch.tensor([0, 2])).numpy(), [1, 1.75**2])


def test_the_learning_rate_rises_then_falls(small_config: TrainConfig, picture_set: ImageSet) -> None:
    recipe, rates = LearnedRecipe(small_config, picture_set), []
    for number in range(50):
        recipe._set_rate(number, 50)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in recipe.optimizers])
    adam, muon = np.array(rates).T
    assert adam.argmax() == 1  # of the two steps that it rises over
    assert (np.diff(adam[1:]) < 0).all()
    assert 0 < adam[-1] < 0.05 * adam.max() <= 0.05 * small_config.learning_rate
    np.testing.assert_allclose(muon, 2 * adam)
