"""The table of packaged models against the files beside it."""

from __future__ import annotations

import hashlib
from importlib import resources

import pytest

from tsae.checkpoint import describe_models, model_from_bytes
from tsae.classifier import classifier_from_bytes
from tsae.config import DEFAULT_CLASSIFIER, DEFAULT_MODEL
from tsae.errors import ModelError
from tsae.zoo import ZOO, names, read_model_file


@pytest.mark.parametrize("name", ZOO)
def test_each_entry_has_its_file_and_a_card_that_tells_how_it_was_made(name: str) -> None:
    entry = ZOO[name]
    data = read_model_file(name)
    assert hashlib.sha256(data).hexdigest() == entry.sha256
    reader = model_from_bytes if entry.kind == "codec" else classifier_from_bytes
    assert reader(data, name).name == name
    card = (resources.files("tsae") / "weights" / entry.card).read_text()
    assert entry.sha256 in card
    assert ("tsae train " if entry.kind == "codec" else "tsae train-classifier ") in card


def test_a_classifier_takes_no_more_than_2_mb() -> None:
    assert all(len(read_model_file(name)) <= 2e6 for name in names("classifier"))


def test_weights_stay_small() -> None:
    assert sum(len(read_model_file(name)) for name in ZOO) < 8e6


def test_a_file_can_be_named_instead(tmp_path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(read_model_file("seed-8x8x8"))
    assert read_model_file(str(path)) == path.read_bytes()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no-such-model.*seed-8x8x8"):
        read_model_file("no-such-model")


def test_a_damaged_package_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    monkeypatch.setitem(ZOO, "seed-8x8x8", dataclasses.replace(ZOO["seed-8x8x8"], sha256="0" * 64))
    with pytest.raises(ModelError, match="damaged inside the installed package"):
        read_model_file("seed-8x8x8")


def test_descriptions_hold_the_facts() -> None:
    seed = next(model for model in describe_models() if model["name"] == "seed-8x8x8")
    assert (seed["latents"], seed["qualities"], seed["parameters"]) == ("8x8x8", 0, 45_515)
    assert seed["training"]["valid_bce"] <= 0.4530  # type: ignore[index]
    learned = next(model for model in describe_models() if model["name"] == "tsae")
    assert (learned["latents"], learned["qualities"]) == ("8x8x32", 8)
    assert learned["model_bytes"] == len(read_model_file("tsae"))


def test_the_defaults_are_in_the_table() -> None:
    assert DEFAULT_MODEL in names("codec")
    assert DEFAULT_CLASSIFIER in names("classifier")
