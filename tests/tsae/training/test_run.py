"""Training: seeded, resumable to the same weights, logged; on a few drawn signs."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import os
from pathlib import Path

import pytest
import torch

from tsae.checkpoint import model_from_bytes
from tsae.classifier import classifier_from_bytes
from tsae.cli import main
from tsae.errors import InputError, ModelError
from tsae.training import RECIPES, TrainConfig, default_config, train
from tsae.zoo import names, read_model_file

running = importlib.import_module("tsae.training.run")
"""The module: the package has a function of that name."""

CONFIG = TrainConfig("seed-8x8x8", epochs=3, batch_size=16, learning_rate=1e-3, seed=4)


@pytest.fixture(scope="module")
def data(signs: Path) -> Path:
    return signs


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "whole.safetensors"
    train(data, out, CONFIG)
    return out


def test_loss_falls_and_is_logged_and_drawn(trained: Path) -> None:
    entries = [json.loads(line) for line in trained.with_suffix(".log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert entries[-1]["train_loss"] < entries[0]["train_loss"]
    assert trained.with_suffix(".loss.png").read_bytes().startswith(b"\x89PNG")
    assert not trained.with_suffix(".resume.safetensors").exists()


def test_the_model_file_tells_how_it_was_trained(trained: Path) -> None:
    facts = model_from_bytes(trained.read_bytes(), "it").training
    entries = [json.loads(line) for line in trained.with_suffix(".log.jsonl").read_text().splitlines()]
    assert (facts["model"], facts["seed"], facts["epochs"]) == ("seed-8x8x8", 4, 3)
    assert facts["train_images"] + facts["valid_images"] == 60
    best = min(entries, key=lambda entry: entry["valid_loss"])
    assert facts["valid_loss"] == pytest.approx(best["valid_loss"], abs=1e-6)
    assert facts["valid_psnr_db"] == pytest.approx(best["valid_psnr_db"], abs=1e-4)


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
    name = "_run_epoch" if where == "in an epoch" else "_save"
    original, calls = getattr(running, name), []

    def killed(*args: object) -> object:
        calls.append(1)
        if len(calls) == epochs_done + 1:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(running, name, killed)
        with pytest.raises(Killed):
            train(data, out, CONFIG)
    assert not out.exists()
    train(data, out, CONFIG, resume=True)
    assert out.read_bytes() == trained.read_bytes()
    epochs = [json.loads(line)["epoch"] for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def stop_after_first_epoch(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = running._run_epoch, []

    def stopped(*args: object) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(running, "_run_epoch", stopped)
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
    from tsae.training.images import load_images, split_images

    expected, valid = split_images(load_images(data), data)
    seen = []
    original = running._run_epoch

    def look(recipe: object, epoch: object, examples: list[torch.Tensor], progress: object) -> float:
        seen.append(examples[0].numpy())
        return original(recipe, epoch, examples, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "_run_epoch", look)
    train(data, tmp_path / "m.safetensors", dataclasses.replace(CONFIG, epochs=1))
    assert (seen[0] == expected.images).all()
    assert len(expected) + len(valid) == 60


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"seed": 2**63},
        *({"learning_rate": rate} for rate in (0.0, -1e-3, float("nan"), float("inf"))),
    ],
)
def test_a_recipe_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError) as caught:
        dataclasses.replace(CONFIG, **wrong)
    assert str(next(iter(wrong.values()))) in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_known_ones(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model 'none': no such recipe; choose one of seed-8x8x8, tsae"):
        default_config("none")
    with pytest.raises(InputError, match="no such recipe"):
        train(data, tmp_path / "m.safetensors", dataclasses.replace(CONFIG, model="none"))
    assert not list(tmp_path.iterdir())


def test_every_packaged_model_has_a_recipe() -> None:
    assert list(RECIPES) == sorted(names("codec"))
    assert all(default_config(name).model == name for name in RECIPES)


def test_the_largest_seed_trains(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "m.safetensors", dataclasses.replace(CONFIG, seed=2**63 - 1, epochs=1))


def test_a_loss_that_is_no_number_ends_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lower the learning rate"):
        train(data, tmp_path / "m.safetensors", dataclasses.replace(CONFIG, learning_rate=1e38))


# What a run may write over


def refusal(data: Path, out: Path, *, resume: bool = False) -> str:
    """The message with which a run is refused before it reads any image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsae.training.load_images", pytest.fail)
        with pytest.raises(InputError) as caught:
            train(data, out, CONFIG, resume=resume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_model_is_not_trained_over(data: Path, tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"a model")
    assert refusal(data, out, resume=resume).startswith(f"{out}: already trained; delete it to train anew")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_bytes() == b"a model"


@pytest.mark.parametrize("with_model", [False, True])
def test_an_unfinished_run_is_not_started_over(data: Path, tmp_path: Path, with_model: bool) -> None:
    out, left = tmp_path / "m.safetensors", tmp_path / "m.resume.safetensors"
    left.write_bytes(b"a run")
    if with_model:
        out.write_bytes(b"a model")
    message = refusal(data, out)
    assert message.startswith(f"{left}: ")
    assert message.endswith("finish it with --resume, or delete it")
    assert left.read_bytes() == b"a run"


def test_a_run_killed_between_model_and_end_is_finished(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.safetensors"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(running, "_plot", killed)
        with pytest.raises(Killed):
            train(data, out, CONFIG)
    assert out.exists()
    train(data, out, CONFIG, resume=True)
    assert out.read_bytes() == trained.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.log.jsonl", "m.loss.png", "m.safetensors"]


@pytest.mark.parametrize("name", ["model", "model.bin", ".safetensors", "model.safetensors.tmp"])
def test_another_ending_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    assert "does not end in .safetensors" in refusal(data, tmp_path / name)


@pytest.mark.parametrize("name", ["folder", "folder.safetensors"])
def test_a_folder_is_no_model_file(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert refusal(data, tmp_path / name).startswith(f"{tmp_path / name}: is a folder")


@pytest.mark.parametrize("characters", [240, 300])
def test_a_name_too_long_for_one_of_the_files_is_refused_before_training(data: Path, tmp_path: Path, characters: int) -> None:
    out = tmp_path / f"{'m' * characters}.safetensors"
    assert "cannot be written" in refusal(data, out)
    assert not list(tmp_path.iterdir())


def test_a_place_that_takes_no_files_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    message = refusal(data, Path("/proc/m.safetensors"))
    assert message.startswith("/proc/m.resume.safetensors: cannot be written")


@pytest.mark.parametrize("ending", [".log.jsonl", ".loss.png"])
def test_a_file_that_cannot_be_written_is_named(data: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "m.safetensors"
    out.with_suffix(ending).mkdir()
    with pytest.raises(InputError) as caught:
        train(data, out, dataclasses.replace(CONFIG, epochs=1))
    assert str(caught.value).startswith(f"{out.with_suffix(ending)}: cannot be written")


@pytest.mark.parametrize("ending", [".safetensors", ".resume.safetensors"])
def test_a_full_disk_is_said_in_a_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    original, file = running.paths.replace_file, (tmp_path / "m.safetensors").with_suffix(ending)

    def full(path: Path, content: bytes) -> None:
        if path == file and content:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, content)

    monkeypatch.setattr(running.paths, "replace_file", full)
    with pytest.raises(InputError) as caught:
        train(data, tmp_path / "m.safetensors", dataclasses.replace(CONFIG, epochs=1))
    assert str(caught.value).startswith(f"{file}: cannot be written (No space left on device)")


def test_a_missing_folder_for_the_model_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        train(data, tmp_path / "none" / "m.safetensors", CONFIG)


# A stage that counts reading


def test_a_readable_stage_goes_on_from_a_model(data: Path, trained: Path, tmp_path: Path) -> None:
    """It lowers its own loss, logs the cross-entropy beside it, and leaves the statistics of batch normalisations."""
    config = dataclasses.replace(CONFIG, epochs=2, start=str(trained), readable=0.1)
    train(data, tmp_path / "a.safetensors", config)
    train(data, tmp_path / "b.safetensors", config)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    first, last = (json.loads(line) for line in (tmp_path / "a.log.jsonl").read_text().splitlines())
    assert last["valid_loss"] < first["valid_loss"]
    assert last["valid_bce"] < last["valid_loss"]
    before, after = (model_from_bytes(path.read_bytes(), "it") for path in (trained, tmp_path / "a.safetensors"))
    assert (after.training["readable"], before.training["readable"]) == (0.1, 0)
    old, new = (model.weights.network for model in (before, after))  # type: ignore[union-attr]
    changed = {name for name in old if (old[name] != new[name]).any()}
    assert changed == {name for name in old if "running" not in name and "num_batches" not in name}


def test_a_readable_stage_by_the_command_line(data: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    flags = ["--model", "seed-8x8x8", "--start", str(trained), "--readable", "0.25", "--epochs", "1", "--device", "cpu"]
    assert main(["train", str(data), "--out", str(out), *flags]) == 0
    assert model_from_bytes(out.read_bytes(), "it").training["readable"] == 0.25


def test_a_readable_stage_asks_the_classifier_that_is_named(data: Path, trained: Path, tmp_path: Path) -> None:
    """A copy of the packaged one as a file gives the same weights, one that says something else others."""
    own, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    own.write_bytes(read_model_file("signs-43"))
    weights = classifier_from_bytes(own.read_bytes(), "own")
    *convolutions, last = weights.layers.convolutions
    layers = weights.layers._replace(convolutions=[*convolutions, last._replace(weight=last.weight[::-1].copy())])
    other.write_bytes(dataclasses.replace(weights, layers=layers).to_bytes())
    trained_by = {}
    for number, name in enumerate((None, str(own), str(other))):
        flags = ["--model", "seed-8x8x8", "--start", str(trained), "--readable", "0.25", "--epochs", "1", "--device", "cpu"]
        out = tmp_path / f"{number}.safetensors"
        assert main(["train", str(data), "--out", str(out), *flags, *(["--classifier", name] if name else [])]) == 0
        model = model_from_bytes(out.read_bytes(), "it")
        assert model.training["classifier"] == name
        trained_by[name] = model.weights.network["g_s.3.weight"]  # type: ignore[union-attr]
    assert (trained_by[None] == trained_by[str(own)]).all()
    assert (trained_by[None] != trained_by[str(other)]).any()


def test_a_classifier_to_ask_is_refused_if_it_cannot_be(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["train", str(data), "--out", "m.safetensors", "--model", "seed-8x8x8", "--start", "seed-8x8x8", "--device", "cpu"]
    assert main([*flags, "--classifier", "signs-43"]) == 2
    assert "classifier signs-43: is asked what stays readable; add --readable" in capsys.readouterr().err
    assert main([*flags, "--readable", "0.1", "--classifier", "signs-43-seed"]) == 2
    assert "classifier signs-43-seed: looks at latents; name one of pixels, such as signs-43" in capsys.readouterr().err
    assert main([*flags, "--readable", "0.1", "--classifier", "none.safetensors"]) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_a_readable_stage_needs_a_model_and_learns_more_than_rates(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="readable: needs a model to start from; name one with --start"):
        dataclasses.replace(CONFIG, readable=0.1)
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="not a weight of 0 or more"):
            dataclasses.replace(CONFIG, start="seed-8x8x8", readable=weight)
    config = dataclasses.replace(default_config("tsae"), epochs=1, start="tsae", readable=0.1, rates_only=True)
    with pytest.raises(InputError, match="readable, rates only: the networks must learn what is to stay readable"):
        train(data, tmp_path / "m.safetensors", config)
