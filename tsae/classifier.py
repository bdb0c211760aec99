"""Which sign an image shows: classifiers on pixels, or on latents as archives hold them. Inference only; needs no torch.

A classifier is a chain of rectified convolutions, some pooled, and one that sees all that is left; one of latents begins with a
linear layer that spreads them to the size of pixels. The file keeps weights as float16, with batch normalisations folded into
them. `tsae.training` trains them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tsae.backends import Network, classifier_network
from tsae.backends.layers import SPREAD, ClassifierLayers, Convolution, Then
from tsae.config import DEFAULT_CLASSIFIER, IMAGE_SIZE_PX, Preprocessing
from tsae.entropy import GRID
from tsae.errors import InputError, ModelError
from tsae.model_file import CLASSIFIER, Tensors, fingerprint, read_model_file, write_model_file
from tsae.zoo import ZOO, names
from tsae.zoo import read_model_file as read_packaged

Input = Literal["pixels", "latents"]

INPUTS = ("pixels", "latents")

COLOURS = 3

BATCH = 8
"""Images computed at once: their activations stay in a core's cache. From latents 58 us an image, where 32 at once take 63."""

MAX_CLASSES, MAX_CHANNELS, MAX_LAYERS, MAX_SIDE = 65_536, 4_096, 64, 256
"""Of a file that is believed."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierWeights:
    """What was learned, and what it needs to be used.

    Attributes:
        name: What users call it, such as "signs-43".
        input: What it looks at.
        classes: Labels, in the order of its outputs.
        layers: The network.
        latents_of: For latents, the fingerprint of the model whose latents they are; None for pixels.
        training: How it was trained, for people; JSON values only.
    """

    name: str
    input: Input
    classes: tuple[str, ...]
    layers: ClassifierLayers
    latents_of: str | None = None
    training: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(layer.weight.size + layer.bias.size for layer in self.layers.convolutions)

    @property
    def multiply_adds(self) -> int:
        """Products that one image costs."""
        *inner, last = self.layers.convolutions
        sides = self.layers.sides()
        return sum(layer.weight.size * side**2 for layer, side in zip(inner, sides, strict=False)) + last.weight.size

    def to_bytes(self) -> bytes:
        """The file; equal weights give equal bytes."""
        header = {
            "name": self.name,
            "architecture": CLASSIFIER,
            "preprocessing": Preprocessing().to_json(),
            "training": self.training,
            "input": self.input,
            "classes": list(self.classes),
            "then": list(self.layers.then),
            "latents_of": self.latents_of,
        }
        tensors: Tensors = {"input.scale": self.layers.scale, "input.offset": self.layers.offset}
        for number, layer in enumerate(self.layers.convolutions):
            tensors[f"layers.{number}.weight"] = layer.weight.astype(np.float16)
            tensors[f"layers.{number}.bias"] = layer.bias.astype(np.float16)
        return write_model_file(header, tensors)


def classifier_from_bytes(data: bytes, source: str) -> ClassifierWeights:
    """Reads a classifier's file.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Raises:
        ModelError: if the file is damaged, of a newer version or no classifier.
    """
    header, tensors = read_model_file(data, source)
    if header["architecture"] != CLASSIFIER:
        known = ", ".join(names("classifier"))
        raise ModelError(f"{source}: is a model of {header['architecture']}, no classifier; name one ({known}), or train one")
    Preprocessing.from_json(header["preprocessing"])
    try:
        return _parse(header, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{source}: unusable classifier ({reason}); fetch or train it again") from error


def check_pixels(weights: ClassifierWeights, what: str) -> None:
    """Refuses a classifier of latents.

    Args:
        weights: The classifier.
        what: What was named, for the message.

    Raises:
        InputError: if it looks at latents.
    """
    if weights.input != "pixels":
        raise InputError(f"{what}: looks at {weights.input}; name one of pixels, such as {DEFAULT_CLASSIFIER}")


def _parse(header: Mapping[str, Any], tensors: Tensors) -> ClassifierWeights:
    classes, then, kind, latents_of = (header[name] for name in ("classes", "then", "input", "latents_of"))
    if kind not in INPUTS or not isinstance(latents_of, str | None):
        raise ValueError(f"input {kind!r} of {latents_of!r}")
    if not (isinstance(classes, list) and 0 < len(classes) <= MAX_CLASSES and all(isinstance(c, str) for c in classes)):
        raise ValueError("classes are no list of texts")
    if not (isinstance(then, list) and len(then) <= MAX_LAYERS and all(what in get_args(Then) for what in then)):
        raise ValueError(f"what follows layers is no list of {', '.join(map(repr, get_args(Then)))}")
    layers = ClassifierLayers(
        tensors["input.scale"],
        tensors["input.offset"],
        [Convolution(*(_float32(tensors[f"layers.{n}.{what}"]) for what in ("weight", "bias"))) for n in range(len(then) + 1)],
        tuple(then),
        IMAGE_SIZE_PX if kind == "pixels" else GRID,
    )
    if len(tensors) != 2 + 2 * len(layers.convolutions):
        raise ValueError(f"{len(tensors)} tensors for {len(layers.convolutions)} layers")
    weights = ClassifierWeights(header["name"], kind, tuple(classes), layers, latents_of, header["training"])
    _check_shapes(weights)
    return weights


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype != np.float16 or not np.isfinite(values).all():
        raise ValueError(f"weights of {values.dtype}, or not finite")
    return values.astype(np.float32)


def _check_shapes(weights: ClassifierWeights) -> None:
    """Refuses layers that do not follow from each other."""
    layers, channels = weights.layers, len(weights.layers.scale)
    for constants in (layers.scale, layers.offset):
        if constants.shape != (channels,) or constants.dtype != np.float32 or not np.isfinite(constants).all():
            raise ValueError(f"scale or offset of {constants.dtype} {constants.shape}")
    if not layers.scale.all():
        raise ValueError("a scale is 0")
    if not 0 < channels <= MAX_CHANNELS or (weights.input == "pixels" and channels != COLOURS):
        raise ValueError(f"{channels} channels of {weights.input}")
    sides = layers.sides()
    if not 0 < max(sides) <= MAX_SIDE or not min(sides):
        raise ValueError(f"layers of {max(sides)} to {min(sides)} rows")
    for number, (layer, side) in enumerate(zip(layers.convolutions, sides, strict=True)):
        is_last = number == len(layers.then)
        outputs = len(weights.classes) if is_last else len(layer.bias)
        kernel = side if is_last else 3
        if layer.weight.shape != (outputs, channels, kernel, kernel) or layer.bias.shape != (outputs,):
            raise ValueError(f"layer {number} of {layer.weight.shape} and {layer.bias.shape}")
        is_spread = not is_last and layers.then[number] == "spread"
        if is_spread and outputs % SPREAD**2:
            raise ValueError(f"layer {number} spreads {outputs} channels")
        channels = outputs // SPREAD**2 if is_spread else outputs


class SignClassifier:
    """A classifier, ready for use in any number of threads.

    Attributes:
        name: What users call it.
        classes: Labels as they stand in `labels.csv`, in the order of the probabilities' columns.
        input: What it looks at.
        multiply_adds: Products that one image costs.
        sha256: Of its file.
        latents_of: For latents, the fingerprint of the model whose latents it knows; None for pixels.
        channels: How many it looks at: 3 colours, or the first ones of latents.
        training: How it was trained, for people.
    """

    def __init__(self, weights: ClassifierWeights, sha256: str) -> None:
        """Builds the network.

        Args:
            weights: What was learned.
            sha256: Of the file that they are from.
        """
        self.name, self.classes, self.input = weights.name, weights.classes, weights.input
        self.multiply_adds, self.parameters = weights.multiply_adds, weights.parameters
        self.sha256, self.latents_of, self.training = sha256, weights.latents_of, weights.training
        self._shape = (weights.layers.side, weights.layers.side)
        self.channels = len(weights.layers.scale)
        self._network: Network = classifier_network(weights.layers, "cpu")

    def probabilities(self, values: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """How likely each image is of each class.

        Args:
            values: For pixels uint8 `[N, 32, 32, 3]`; for latents the integers that an archive stores, `[N, C, 8, 8]`, as
                `Archive.latents` gives them: the first `channels`, or more, which are not looked at.

        Returns:
            float32 `[N, K]`; each row sums to 1.

        Raises:
            ValueError: if the values are of another shape or type.
        """
        x = self._channels_first(values)
        logits = [self._network(x[start : start + BATCH].astype(np.float32)) for start in range(0, len(x), BATCH)]
        return _softmax(np.concatenate([np.empty((0, len(self.classes)), np.float32), *(y[:, :, 0, 0] for y in logits)]))

    def _channels_first(self, values: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        of_pixels = self.input == "pixels"
        if not of_pixels:
            values = values[:, : self.channels]
        expected = (*self._shape, self.channels) if of_pixels else (self.channels, *self._shape)
        if values.shape[1:] != expected or not np.issubdtype(values.dtype, np.uint8 if of_pixels else np.signedinteger):
            raise ValueError(f"{self.input} {values.dtype} {list(values.shape)}: {self.name} takes [N, {str(expected)[1:-1]}]")
        return values.transpose(0, 3, 1, 2) if of_pixels else values


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)


def load_classifier(name_or_path: str = DEFAULT_CLASSIFIER) -> SignClassifier:
    """Loads a classifier.

    Args:
        name_or_path: One that comes with tsae ("signs-43"), or the path or URL of a file.

    Raises:
        ModelError: if there is none, or it is damaged.
    """
    return classifier_of(read_packaged(name_or_path), name_or_path)


def classifier_of(data: bytes, source: str) -> SignClassifier:
    """A classifier from the bytes of its file.

    Args:
        data: The whole file.
        source: Its name or path, for messages.

    Raises:
        ModelError: if it is damaged, or no classifier.
    """
    return SignClassifier(classifier_from_bytes(data, source), fingerprint(data))


def describe_classifiers() -> list[dict[str, object]]:
    """Facts about each classifier of the table, JSON values only.

    Raises:
        ModelError: if a packaged file is damaged.
    """
    return [_describe(name, read_packaged(name)) for name in names("classifier")]


def _describe(name: str, data: bytes) -> dict[str, object]:
    weights = classifier_from_bytes(data, ZOO[name].file)
    return {
        "name": name,
        "kind": "classifier",
        "input": weights.input,
        "classes": len(weights.classes),
        "parameters": weights.parameters,
        "multiply_adds": weights.multiply_adds,
        "model_bytes": len(data),
        "sha256": fingerprint(data),
        "card": f"tsae/weights/{ZOO[name].card}",
        "training": weights.training,
    }
