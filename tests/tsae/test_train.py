"""Training: seeded, resumable to the same weights, logged; on a few drawn signs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tsae import train as training
from tsae.checkpoint import model_from_bytes
from tsae.errors import InputError, ModelError
from tsae.signs import write_signs
from tsae.train import TrainConfig, choose_device, train

CONFIG = TrainConfig(epochs=3, batch_size=16, learning_rate=1e-3, seed=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "signs"
    write_signs(folder, 60, seed=9)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "whole.safetensors"
    train(data, out, CONFIG)
    return out


def test_loss_falls_and_is_logged_and_drawn(trained: Path) -> None:
    entries = [json.loads(line) for line in trained.with_suffix(".log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert entries[-1]["train_bce"] < entries[0]["train_bce"]
    assert trained.with_suffix(".loss.png").read_bytes().startswith(b"\x89PNG")
    assert not trained.with_suffix(".resume.safetensors").exists()


def test_the_model_file_tells_how_it_was_trained(trained: Path) -> None:
    facts = model_from_bytes(trained.read_bytes(), "it").training
    entries = [json.loads(line) for line in trained.with_suffix(".log.jsonl").read_text().splitlines()]
    assert facts["seed"] == 4
    assert facts["train_images"] + facts["valid_images"] == 60
    assert facts["valid_bce"] == pytest.approx(min(entry["valid_bce"] for entry in entries), abs=1e-6)


def test_the_seed_decides_the_weights(data: Path, trained: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "again.safetensors", CONFIG)
    train(data, tmp_path / "other.safetensors", dataclasses.replace(CONFIG, seed=5))
    assert (tmp_path / "again.safetensors").read_bytes() == trained.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != trained.read_bytes()


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("epochs_done", [1, 2])
@pytest.mark.parametrize("where", ["in an epoch", "between log and resume file"])
def test_a_killed_run_goes_on_to_the_same_weights(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_done: int, where: str
) -> None:
    out = tmp_path / "killed.safetensors"
    name = "_train_epoch" if where == "in an epoch" else "_save"
    original, calls = getattr(training, name), []

    def killed(*args: object) -> object:
        calls.append(1)
        if len(calls) == epochs_done + 1:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, name, killed)
        with pytest.raises(Killed):
            train(data, out, CONFIG)
    assert not out.exists()
    train(data, out, CONFIG, resume=True)
    assert out.read_bytes() == trained.read_bytes()
    epochs = [json.loads(line)["epoch"] for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def stop_after_first_epoch(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = training._train_epoch, []

    def stopped(*args: object) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_epoch", stopped)
        with pytest.raises(Killed):
            train(data, out, CONFIG)


def test_resuming_with_another_recipe_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.safetensors"
    stop_after_first_epoch(data, out, monkeypatch)
    with pytest.raises(ModelError, match="another recipe"):
        train(data, out, dataclasses.replace(CONFIG, seed=6), resume=True)


def test_a_damaged_resume_file_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.safetensors"
    stop_after_first_epoch(data, out, monkeypatch)
    resume = out.with_suffix(".resume.safetensors")
    resume.write_bytes(resume.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"resume\.safetensors: damaged"):
        train(data, out, CONFIG, resume=True)


def test_validation_images_are_never_trained_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training tensor holds exactly the training side of the split."""
    from tsae.data import load_images, split_images

    expected, valid = split_images(load_images(data), data)
    seen = []
    original = training._train_epoch

    def look(state: object, config: object, x: torch.Tensor, progress: object) -> float:
        seen.append(x.permute(0, 2, 3, 1).numpy())
        return original(state, config, x, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_train_epoch", look)
    train(data, tmp_path / "m.safetensors", dataclasses.replace(CONFIG, epochs=1))
    assert (seen[0] == expected.images).all()
    assert len(expected) + len(valid) == 60


@pytest.mark.parametrize("wrong", [{"model": "none"}, {"epochs": 0}, {"batch_size": 0}])
def test_a_recipe_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(CONFIG, **wrong)


def test_a_missing_folder_for_the_model_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        train(data, tmp_path / "none" / "m.safetensors", CONFIG)


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="cuda"):
        choose_device("cuda")
