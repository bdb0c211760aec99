"""Classifiers: the file comes back as it was, every backend agrees, and what is no classifier is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tsae.backends import onnx, torch
from tsae.backends.layers import LEAST_VARIANCE, ClassifierLayers, Convolution
from tsae.classifier import ClassifierWeights, SignClassifier, classifier_from_bytes, describe_classifiers, load_classifier
from tsae.config import DEFAULT_CLASSIFIER
from tsae.errors import ModelError
from tsae.model_file import read_model_file as parse
from tsae.model_file import write_model_file
from tsae.zoo import ZOO, names, read_model_file


def small_weights(kind: str, channels: int, side: int) -> ClassifierWeights:
    random = np.random.default_rng(1)

    def convolution(outputs: int, inputs: int, kernel: int) -> Convolution:
        weight, bias = random.normal(0, 0.3, (outputs, inputs, kernel, kernel)), random.normal(0, 0.1, outputs)
        return Convolution(*(values.astype(np.float16).astype(np.float32) for values in (weight, bias)))

    spread = 16 if kind == "latents" else 1
    layers = ClassifierLayers(
        np.full(channels, 0.02, np.float32),
        np.full(channels, -0.1, np.float32),
        [convolution(2 * spread, channels, 3), convolution(4, 2, 3), convolution(6, 4, 3), convolution(3, 6, 8)],
        ("spread", "blur-pool", "pool") if kind == "latents" else ("pool", "rectify", "blur-pool"),
        side,
    )
    latents_of = "0" * 64 if kind == "latents" else None
    return ClassifierWeights("small", kind, ("a", "b", "c"), layers, latents_of, {"seed": 1})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[("pixels", 3, 32), ("latents", 5, 8)], ids=["pixels", "latents"])
def weights(request: pytest.FixtureRequest) -> ClassifierWeights:
    return small_weights(*request.param)


@pytest.fixture(scope="module")
def values(weights: ClassifierWeights) -> np.ndarray:
    random = np.random.default_rng(2)
    if weights.input == "pixels":
        return random.integers(0, 256, (70, 32, 32, 3), np.uint8)
    return random.integers(-300, 300, (70, 5, 8, 8), np.int16)


def test_a_file_comes_back_as_it_was(weights: ClassifierWeights) -> None:
    data = weights.to_bytes()
    found = classifier_from_bytes(data, "it")
    assert found.to_bytes() == data
    assert (found.name, found.input, found.classes) == ("small", weights.input, ("a", "b", "c"))
    assert (found.latents_of, found.training) == (weights.latents_of, {"seed": 1})
    for mine, theirs in zip(found.layers.convolutions, weights.layers.convolutions, strict=True):
        np.testing.assert_array_equal(mine.weight, theirs.weight)


def test_probabilities_are_those_of_the_layers_one_by_one(weights: ClassifierWeights, values: np.ndarray) -> None:
    found = SignClassifier(weights, "").probabilities(values)
    assert found.shape == (70, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    x = (values.transpose(0, 3, 1, 2) if weights.input == "pixels" else values).astype(np.float32)
    np.testing.assert_allclose(found, slow_probabilities(weights, x), atol=1e-5)


def slow_probabilities(weights: ClassifierWeights, x: np.ndarray) -> np.ndarray:
    layers = weights.layers
    x = x * layers.scale[:, None, None] + layers.offset[:, None, None]
    if layers.then[0] != "spread":
        x = standardised(x)
    for (weight, bias), then in zip(layers.convolutions[:-1], layers.then, strict=True):
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        x = np.einsum("nchwij,ocij->nohw", seen, weight) + bias[:, None, None]
        count, channels, height, width = x.shape
        if then == "spread":
            x = x.reshape(count, channels // 16, 4, 4, height, width).transpose(0, 1, 4, 2, 5, 3)
            x = standardised(x.reshape(count, channels // 16, 4 * height, 4 * width))
            continue
        x = np.maximum(x, 0)
        if then == "pool":
            x = x.reshape(count, channels, height // 2, 2, width // 2, 2).max((3, 5))
        if then == "blur-pool":
            edged = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1)], mode="edge")
            x = np.lib.stride_tricks.sliding_window_view(edged, (2, 2), (2, 3)).max((4, 5))
            x = x.reshape(count, channels, height // 2, 2, width // 2, 2).mean((3, 5))
    logits = np.einsum("nchw,ochw->no", x, layers.convolutions[-1].weight) + layers.convolutions[-1].bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((1, 2, 3), keepdims=True)) / np.sqrt(x.var((1, 2, 3), keepdims=True) + LEAST_VARIANCE)


def test_how_dark_and_faint_an_image_is_does_not_matter() -> None:
    """Where what is added to the variance is nothing beside it."""
    dark = np.random.default_rng(3).integers(0, 120, (20, 32, 32, 3), np.uint8)
    weights = small_weights("pixels", 3, 32)
    layers = weights.layers._replace(scale=np.ones(3, np.float32), offset=np.zeros(3, np.float32))
    classifier = SignClassifier(dataclasses.replace(weights, layers=layers), "")
    np.testing.assert_allclose(classifier.probabilities(dark), classifier.probabilities(2 * dark + 10), atol=1e-4)


def test_backends_agree(weights: ClassifierWeights, values: np.ndarray) -> None:
    x = (values.transpose(0, 3, 1, 2) if weights.input == "pixels" else values)[:9].astype(np.float32)
    ours, theirs = (backend.classifier(weights.layers, "cpu")(x) for backend in (onnx, torch))
    assert ours.shape == (9, 3, 1, 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_what_comes_with_an_image_changes_no_bit(weights: ClassifierWeights, values: np.ndarray) -> None:
    """By these probabilities it is decided how an image is stored, which must not depend on its neighbours."""
    classifiers = [SignClassifier(weights, ""), *([load_classifier()] if weights.input == "pixels" else [])]
    for classifier in classifiers:
        together, order = classifier.probabilities(values), np.random.default_rng(4).permutation(70)
        for size in range(1, 34):
            np.testing.assert_array_equal(classifier.probabilities(values[-size:]), together[-size:])
        np.testing.assert_array_equal(classifier.probabilities(values[order]), together[order])


def test_no_image_gives_no_probabilities(weights: ClassifierWeights, values: np.ndarray) -> None:
    assert SignClassifier(weights, "").probabilities(values[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "wrong", [lambda v: v[0], lambda v: v[..., :1], lambda v: v.astype(np.float32), lambda v: v.astype(np.uint16)]
)
def test_other_values_are_refused(
    weights: ClassifierWeights, values: np.ndarray, wrong: Callable[[np.ndarray], np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"small takes \[N, "):
        SignClassifier(weights, "").probabilities(wrong(values))


def test_multiply_adds_are_counted() -> None:
    of_pixels = 32 * 32 * 27 * 2 + 16 * 16 * 18 * 4 + 16 * 16 * 36 * 6 + 8 * 8 * 6 * 3
    assert small_weights("pixels", 3, 32).multiply_adds == of_pixels
    of_latents = 8 * 8 * 45 * 32 + 32 * 32 * 18 * 4 + 16 * 16 * 36 * 6 + 8 * 8 * 6 * 3
    assert small_weights("latents", 5, 8).multiply_adds == of_latents


# Files that are not as they should be


def rewritten(weights: ClassifierWeights, header: dict, tensors: dict) -> bytes:
    old_header, old_tensors = parse(weights.to_bytes(), "it")
    merged = {name: t for name, t in {**old_tensors, **tensors}.items() if t is not None}
    return write_model_file({**old_header, **header}, merged)


@pytest.mark.parametrize(
    "header",
    [{"input": "sound"}, {"classes": ["a", "b"]}, {"classes": "abc"}, {"classes": []}, {"then": ["pool"]}, {"then": [1, 1, 1]},
     {"then": ["rectify"] * 3}, {"latents_of": 5}, {"then": ["pool"] * 4}, {"then": ["pool"] * 65}, {"then": ["spread"] * 3}],
)  # fmt: skip
def test_headers_that_do_not_fit_are_refused(weights: ClassifierWeights, header: dict) -> None:
    with pytest.raises(ModelError, match="it: unusable classifier .*train it again"):
        classifier_from_bytes(rewritten(weights, header, {}), "it")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("layers.0.weight", None),
        ("layers.0.weight", np.zeros((2, 4, 3, 3), np.float16)),
        ("layers.0.weight", np.zeros((2, 3, 5, 5), np.float16)),
        ("layers.1.bias", np.zeros(4, np.float32)),
        ("layers.1.bias", np.full(4, np.inf, np.float16)),
        ("layers.2.bias", np.zeros(4, np.float16)),
        ("layers.3.bias", np.zeros(4, np.float16)),
        ("input.scale", np.zeros(0, np.float32)),
        ("input.scale", np.array([1, 0, 1], np.float32)),
        ("input.offset", np.zeros((3, 1), np.float32)),
        ("layers.9.bias", np.zeros(6, np.float16)),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name: str, tensor: np.ndarray | None) -> None:
    with pytest.raises(ModelError, match="it: unusable classifier"):
        classifier_from_bytes(rewritten(small_weights("pixels", 3, 32), {}, {name: tensor}), "it")


def test_a_codec_is_no_classifier() -> None:
    with pytest.raises(
        ModelError, match=f"seed-8x8x8: is a model of seed-8x8x8, no classifier; name one .*{DEFAULT_CLASSIFIER}"
    ):
        load_classifier("seed-8x8x8")


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        load_classifier("no-such-model")


# What comes with the package


@pytest.mark.parametrize("name", names("classifier"))
def test_packaged_classifiers_load(name: str) -> None:
    classifier = load_classifier(name)
    assert classifier.name == name
    assert classifier.classes == tuple(str(number) for number in range(43))
    assert (classifier.input == "pixels") == (classifier.latents_of is None)


@pytest.mark.parametrize(("name", "model"), [("signs-43-seed", "seed-8x8x8"), ("signs-43-tsae", "tsae")])
def test_packaged_classifiers_of_latents_know_those_of_the_packaged_models(name: str, model: str) -> None:
    assert load_classifier(name).latents_of == ZOO[model].sha256


def test_the_default_looks_at_pixels() -> None:
    assert load_classifier().input == "pixels"
    assert load_classifier().multiply_adds < 16e6


def test_a_file_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(small_weights("pixels", 3, 32).to_bytes())
    assert load_classifier(str(path)).classes == ("a", "b", "c")


def test_descriptions_hold_the_facts() -> None:
    found = {entry["name"]: entry for entry in describe_classifiers()}
    assert list(found) == names("classifier")
    entry = found[DEFAULT_CLASSIFIER]
    assert (entry["kind"], entry["input"], entry["classes"]) == ("classifier", "pixels", 43)
    assert entry["model_bytes"] == len(read_model_file(DEFAULT_CLASSIFIER))


def test_equal_weights_give_equal_bytes() -> None:
    weights = small_weights("pixels", 3, 32)
    assert weights.to_bytes() == small_weights("pixels", 3, 32).to_bytes()
    assert dataclasses.replace(weights, name="other").to_bytes() != weights.to_bytes()


def test_classifying_needs_no_torch() -> None:
    code = "import sys, numpy, tsae.classifier as c; c.load_classifier().probabilities(numpy.zeros((1, 32, 32, 3), 'uint8'))"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
