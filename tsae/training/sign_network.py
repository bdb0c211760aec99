"""The network of the sign classifiers while it learns: new, or that of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tsae.backends.layers import LEAST_VARIANCE, SPREAD, ClassifierLayers, Convolution, Then, fold, side_after
from tsae.backends.torch import blur_pool
from tsae.classifier import Input, classifier_from_bytes
from tsae.config import IMAGE_SIZE_PX
from tsae.entropy import GRID
from tsae.errors import InputError
from tsae.reader import Archive
from tsae.training.jitter import jitter
from tsae.training.labelled import LabelledSet
from tsae.zoo import read_model_file

Stage = tuple[int, Then]
"""Channels of a convolution, and what follows it."""

STAGES: dict[str, tuple[Stage, ...]] = {
    "pixels": ((32, "blur-pool"), (64, "blur-pool"), (96, "blur-pool"), (160, "rectify"), (160, "rectify")),
    "latents": ((48, "spread"), (16, "pool"), (48, "pool"), (80, "pool"), (128, "rectify")),
    "entropy-coded latents": ((48, "spread"), (16, "pool"), (32, "pool"), (64, "pool"), (128, "rectify")),
}
"""Networks by what they look at. At the latents' own resolution a stroke looks different from place to place in the patch that
each stands for; networks that stayed there learned slowly (docs/CLASSIFIER.md). Entropy-coded ones take as long to decode as
half a network takes; so that classifying from an archive is three times as fast as from files, theirs is narrower. Poolings of
latents are not blurred: that takes a tenth longer, and won nothing on test images (tsae/weights/signs-43-tsae.md)."""

DROPPED: dict[Input, tuple[float, float]] = {"pixels": (0.05, 0.5), "latents": (0.0, 0.1)}
"""Shares of the channels after each layer, and of what the last layer sees, that are left out of each step. The smaller network
of latents does not learn its images by heart: with 0.05 and 0.3 its training loss was well above that of pixels."""

STATISTICS = 1024
"""Training images that tell what batch normalisations see."""

SAMPLED = 4096
"""Training images that tell mean and deviation of each channel."""


class SignNetwork(nn.Module):
    """Normalised channels -> convolutions -> logits; see `tsae.classifier` for what it becomes."""

    def __init__(self, kind: Input, stages: Sequence[Stage], scale: Tensor, offset: Tensor, classes: int) -> None:
        """Builds the layers.

        Args:
            kind: What it looks at.
            stages: All layers but the last.
            scale: What each channel is multiplied by, float32 `[C]`.
            offset: What is added then, float32 `[C]`.
            classes: How many there are.
        """
        super().__init__()
        self.scale: Tensor
        self.offset: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        self.dropped = DROPPED[kind]
        self.then = tuple(then for _, then in stages)
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        self.side = IMAGE_SIZE_PX if kind == "pixels" else GRID
        channels, side = len(scale), self.side
        for outputs, then in stages:
            is_spread = then == "spread"
            self.convolutions.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=is_spread))
            self.norms.append(nn.Identity() if is_spread else nn.BatchNorm2d(outputs))
            channels = outputs // SPREAD**2 if is_spread else outputs
            side = side_after(then, side)
        self.last = nn.Conv2d(channels, classes, side)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, side, side]`, integers or not, to logits `[B, K]`."""
        x = x.float() * self.scale[:, None, None] + self.offset[:, None, None]
        if self.then[0] != "spread":
            x = _standardise(x)
        for convolution, norm, then in zip(self.convolutions, self.norms, self.then, strict=True):
            x = norm(convolution(x))
            if then == "spread":
                x = _standardise(functional.pixel_shuffle(x, SPREAD))
                continue
            if then == "pool":  # before ReLU, which gives the same of a fourth of the values
                x = functional.max_pool2d(x, 2)
            x = functional.relu(x, inplace=True)
            if then == "blur-pool":
                x = blur_pool(x)
            x = functional.dropout2d(x, self.dropped[0], self.training)
        logits: Tensor = self.last(functional.dropout(x, self.dropped[1], self.training))
        return logits.flatten(1)

    @torch.no_grad()
    def restore(self, layers: ClassifierLayers, sample: Tensor) -> None:
        """Takes all layers but the last, with batch normalisations apart again: they have a sample's statistics then.

        Args:
            layers: Of a network of these stages.
            sample: What it looks at, `[B, C, side, side]`, such as it is to learn from.
        """
        hooks = []
        for convolution, norm, layer in zip(self.convolutions, self.norms, layers.convolutions, strict=False):
            _copy(layer, cast(nn.Conv2d, convolution))
            if isinstance(norm, nn.BatchNorm2d):
                hooks.append(norm.register_forward_pre_hook(_restorer(torch.from_numpy(layer.bias))))
        self.eval()
        self(sample)
        for hook in hooks:
            hook.remove()

    def layers(self) -> ClassifierLayers:
        """What was learned, with batch normalisations folded."""
        tensors = {name: t.detach().cpu().numpy() for name, t in self.state_dict().items()}
        layers = []
        for number, norm in enumerate(self.norms):
            weight = tensors[f"convolutions.{number}.weight"]
            bias = tensors.get(f"convolutions.{number}.bias", np.zeros(len(weight), np.float32))
            layer = Convolution(weight, bias)
            if isinstance(norm, nn.BatchNorm2d):
                layer = fold(layer, tensors, f"norms.{number}", norm.eps)
            layers.append(layer)
        layers.append(Convolution(tensors["last.weight"], tensors["last.bias"]))
        return ClassifierLayers(tensors["scale"], tensors["offset"], layers, self.then, self.side)


def _standardise(x: Tensor) -> Tensor:
    """Brings each image to a mean of 0 and a variance of nearly 1."""
    return functional.layer_norm(x, x.shape[1:], eps=LEAST_VARIANCE).contiguous(memory_format=torch.channels_last)


def _copy(layer: Convolution, convolution: nn.Conv2d) -> None:
    convolution.load_state_dict({name: torch.from_numpy(values) for name, values in layer._asdict().items()}, strict=False)


def _restorer(bias: Tensor) -> Callable[[nn.BatchNorm2d, tuple[Tensor]], None]:
    """A hook that sets a normalisation so that it adds `bias` to what it gets, and no more."""

    def restore(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        weight = (variance + norm.eps).sqrt()
        state = {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias + mean}
        norm.load_state_dict(state, strict=False)

    return restore


BLURRED: dict[Then, Then] = {"pool": "blur-pool"}


def new_network(kind: Input, training: LabelledSet) -> SignNetwork:
    """A network with random weights, but for the layer that spreads latents.

    Args:
        kind: What it looks at.
        training: What it is to learn from.
    """
    stages = STAGES["entropy-coded latents" if _is_entropy_coded(training.archive) else kind]
    network = SignNetwork(kind, stages, *_normalisation(training.images, kind), len(training.classes))
    if training.archive is not None:
        _start_spreading(network, training, training.archive)
    return network


def network_of(start: str, kind: Input, training: LabelledSet) -> SignNetwork:
    """The network of a classifier; its last layer has random weights if the classes are others.

    Latents may be those of another model, such as a later stage of the one that it knows. Poolings of pixels become blurred.

    Args:
        start: The classifier's name, or its file.
        kind: What it must look at.
        training: What it is to learn from.

    Raises:
        InputError: if it looks at something else.
        ModelError: if it cannot be read.
    """
    weights = classifier_from_bytes(read_model_file(start), start)
    layers = weights.layers
    if weights.input != kind:
        raise InputError(f"start {start}: looks at {weights.input}; give --input {weights.input}, or name one of {kind}")
    channels, known = training.images.shape[-1 if kind == "pixels" else 1], len(layers.scale)
    if channels != known:
        raise InputError(
            f"start {start}: looks at {known} channels of latents, not {channels} as here; name one of such latents"
        )
    then = layers.then if kind == "latents" else [BLURRED.get(what, what) for what in layers.then]  # it learns to pool anew
    stages = [(len(layer.bias), what) for layer, what in zip(layers.convolutions, then, strict=False)]
    scale, offset = torch.from_numpy(layers.scale), torch.from_numpy(layers.offset)
    network = SignNetwork(kind, stages, scale, offset, len(training.classes))
    sample = torch.from_numpy(training.images[:: max(1, len(training) // STATISTICS)][:STATISTICS])
    network.restore(layers, jitter(sample).permute(0, 3, 1, 2) if kind == "pixels" else sample)
    if weights.classes == training.classes:
        _copy(layers.convolutions[-1], network.last)
    return network


def _is_entropy_coded(archive: Archive | None) -> bool:
    return archive is not None and archive.manifest.settings.quality is not None


def latents_of(training: LabelledSet) -> str | None:
    """The fingerprint of the model whose latents these are; None for pixels."""
    return training.archive.manifest.model_sha256 if training.archive is not None else None


def _normalisation(images: NDArray[Any], kind: Input) -> tuple[Tensor, Tensor]:
    """Scale and offset that give each channel a mean of 0, and all of them together a deviation of 1."""
    sample = images[:: max(1, len(images) // SAMPLED)].astype(np.float64)
    axes = (0, 1, 2) if kind == "pixels" else (0, 2, 3)
    deviation = sample.std(axes)
    if kind == "latents":  # one scale: channels of fine detail are small, and mostly noise
        deviation[:] = np.sqrt((deviation**2).mean())
    scale = 1 / np.maximum(deviation, LEAST_DEVIATION)
    return torch.from_numpy(scale).float(), torch.from_numpy(-sample.mean(axes) * scale).float()


LEAST_DEVIATION = 0.25
"""One that hardly changes is not blown up."""

DECODED = 1024
"""Training images that are decoded to start with; many more than the first layer has weights for an output."""

RIDGE = 1e-3
"""Share of its diagonal that is added to a matrix to be inverted."""


@torch.no_grad()
def _start_spreading(network: SignNetwork, training: LabelledSet, archive: Archive) -> None:
    """Starts the first layer as the linear map from 3x3 latents to the 4x4 pixels of the middle one that errs least.

    No other image is decoded. From random weights, a network took twice as many steps to come as far.
    """
    known = set(archive.keys())
    rows = np.array(
        [row for row, key in enumerate(training.keys) if key in known], np.intp
    )  # of several archives, those of one
    if not len(rows):  # all of it validates: the layer starts from random weights
        return
    rows = rows[:: max(1, len(rows) // DECODED)][:DECODED]
    pixels = torch.from_numpy(archive.decode([training.keys[row] for row in rows])).permute(0, 3, 1, 2).double()
    x = torch.from_numpy(training.images[rows]).double() * network.scale[:, None, None] + network.offset[:, None, None]
    seen = functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    y = (pixels - pixels.mean()) / pixels.std()
    y = functional.pixel_unshuffle(y, SPREAD).flatten(2).transpose(1, 2).flatten(0, 1)
    moments = seen.T @ seen
    moments += RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    first = cast(nn.Conv2d, network.convolutions[0])
    first.weight.copy_(torch.linalg.solve(moments, seen.T @ y).T.view_as(first.weight))
    assert first.bias is not None  # noqa: S101 (it was made with one)
    first.bias.zero_()
