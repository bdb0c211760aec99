"""The recipe of the sign classifiers: on pixels, jittered and partly coded anew each time; on latents as archives hold them."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tsae.backends.layers import LEAST_VARIANCE, SPREAD, ClassifierLayers, Convolution, Then, fold
from tsae.classifier import ClassifierWeights, Input, classifier_from_bytes
from tsae.config import IMAGE_SIZE_PX
from tsae.entropy import GRID
from tsae.reader import Archive
from tsae.training.coded import code_some
from tsae.training.config import TrainConfig
from tsae.training.jitter import jitter
from tsae.training.labelled import LabelledSet, Source, load_labelled, places_of
from tsae.training.run import descend, multiplies_bfloat16, run_recipe

Stage = tuple[int, Then]
"""Channels of a convolution, and what follows it."""

STAGES: dict[str, tuple[Stage, ...]] = {
    "pixels": ((32, "pool"), (64, "pool"), (96, "pool"), (160, "rectify"), (160, "rectify")),
    "latents": ((48, "spread"), (16, "pool"), (48, "pool"), (80, "pool"), (128, "rectify")),
    "entropy-coded latents": ((48, "spread"), (16, "pool"), (32, "pool"), (64, "pool"), (128, "rectify")),
}
"""Networks by what they look at. At the latents' own resolution a stroke looks different from place to place in the patch that
each stands for; networks that stayed there learned slowly (docs/CLASSIFIER.md). Entropy-coded ones take as long to decode as
half a network takes; so that classifying from an archive is three times as fast as from files, theirs is narrower."""

CONFIGS: dict[Input, TrainConfig] = {
    "pixels": TrainConfig("signs-43", epochs=80, batch_size=128, learning_rate=5e-3),
    "latents": TrainConfig("signs-43-latents", epochs=4, batch_size=128, learning_rate=1e-2),
}
"""The numbers of each recipe."""

WARM_STEPS = 300
"""The learning rate rises over the first steps, then follows half a cosine down to zero."""

WEIGHT_DECAY = 0.05

SMOOTHING = 0.1
"""Share of the target that all classes share."""

DROPPED: dict[Input, tuple[float, float]] = {"pixels": (0.05, 0.5), "latents": (0.0, 0.1)}
"""Shares of the channels after each layer, and of what the last layer sees, that are left out of each step. The smaller network
of latents does not learn its images by heart: with 0.05 and 0.3 its training loss was well above that of pixels."""

AVERAGE_DECAY = 0.999
"""Of the moving average of the weights, which is what is kept."""

EVALUATION_BATCH = 256

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
            side = {"pool": side // 2, "spread": side * SPREAD, "rectify": side}[then]
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
            x = functional.dropout2d(x, self.dropped[0], self.training)
        logits: Tensor = self.last(functional.dropout(x, self.dropped[1], self.training))
        return logits.flatten(1)

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


class ClassifierRecipe:
    """Trains a `SignNetwork` with AdamW, a moving average of its weights, and smoothed labels.

    Convolutions are in bfloat16 where that is faster; the loss of the first epochs was the same within 0.3 %.
    """

    def __init__(self, kind: Input, config: TrainConfig, training: LabelledSet) -> None:
        """Builds the network, with random weights.

        Args:
            kind: What it looks at.
            config: The recipe's numbers.
            training: To train on.
        """
        self.config, self.kind = config, kind
        self._has_bfloat16 = multiplies_bfloat16(config.device)
        stages = STAGES["entropy-coded latents" if _is_entropy_coded(training.archive) else kind]
        network = SignNetwork(kind, stages, *_normalisation(training.images, kind), len(training.classes))
        if training.archive is not None:
            _start_spreading(network, training, training.archive)
        self.network = network.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        plain = [p for p in self.network.parameters() if p.ndim == 1]
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate)]

    def modules(self) -> dict[str, nn.Module]:
        """What a killed run goes on with, beside the optimiser; `average` is what is kept."""
        return {"network": self.network, "average": self.average}

    def _channels_first(self, values: Tensor) -> Tensor:
        return values.permute(0, 3, 1, 2) if self.kind == "pixels" else values

    def step(self, values: Tensor, labels: Tensor, number: int, steps: int) -> Tensor:
        """One step of descent.

        Args:
            values: Pixels, uint8 `[B, 32, 32, 3]`, or latents, integers `[B, C, 8, 8]`.
            labels: Numbers of classes, int64 `[B]`.
            number: Of this step, from 0.
            steps: Of the whole run.

        Returns:
            The mean loss, without gradient.
        """
        self.network.train()
        x = self._channels_first(code_some(jitter(values)) if self.kind == "pixels" else values)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._has_bfloat16):
            logits = self.network(x).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        loss = descend(self.optimizers[0], loss, self._rate(number, steps))
        self._average(number)
        return loss

    def _rate(self, number: int, steps: int) -> float:
        return self.config.learning_rate * min(1.0, (number + 1) / WARM_STEPS) * 0.5 * (1 + math.cos(math.pi * number / steps))

    @torch.no_grad()
    def _average(self, number: int) -> None:
        """Moves the average on, with the statistics of batch normalisations."""
        decay = min(AVERAGE_DECAY, (1 + number) / (10 + number))
        kept, new = (list(network.state_dict().values()) for network in (self.average, self.network))
        real = [index for index, t in enumerate(new) if t.is_floating_point()]
        torch._foreach_lerp_([kept[index] for index in real], [new[index] for index in real], 1 - decay)

    @torch.no_grad()
    def evaluate(self, validation: LabelledSet) -> dict[str, float]:
        """Cross-entropy with smoothed labels (nats) of the average weights, and accuracy."""
        self.average.eval()
        loss, right = 0.0, 0
        for start in range(0, len(validation), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            values = self._channels_first(torch.from_numpy(validation.images[part]).to(self.config.device))
            labels = torch.from_numpy(validation.labels[part]).to(self.config.device)
            logits = self.average(values)
            loss += functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=SMOOTHING).item()
            right += int((logits.argmax(1) == labels).sum().item())
        return {"loss": loss / len(validation), "accuracy": right / len(validation)}

    def finish(self, training: LabelledSet, facts: dict[str, Any]) -> bytes:
        """The classifier's file, of the average weights."""
        latents_of = training.archive.manifest.model_sha256 if training.archive is not None else None
        weights = ClassifierWeights(self.config.model, self.kind, training.classes, self.average.layers(), latents_of, facts)
        return weights.to_bytes()


def _is_entropy_coded(archive: Archive | None) -> bool:
    return archive is not None and archive.manifest.settings.quality is not None


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


def default_classifier_config(kind: Input) -> TrainConfig:
    """The numbers of a recipe."""
    return CONFIGS[kind]


def train_classifier(
    data: Source, out: str | Path, config: TrainConfig, kind: Input = "pixels", *, resume: bool = False
) -> ClassifierWeights:
    """Trains a classifier and writes it; see `tsae.training.run.run_recipe`.

    Args:
        data: See `tsae.training.labelled.load_labelled`.
        out: The model file to write, ending in `.safetensors`.
        config: The recipe's numbers.
        kind: What the classifier looks at.
        resume: Whether to go on from the resume file of a killed run, if there is one.

    Returns:
        What was learned, with the weights that did best on the validation images.

    Raises:
        InputError: if the data or the output cannot be used, or the training fails.
        ModelError: if there is an unusable resume file.
    """
    load = functools.partial(load_labelled, data, kind)
    written = run_recipe(places_of(data)[0], load, out, config, functools.partial(ClassifierRecipe, kind), resume=resume)
    return classifier_from_bytes(written, str(out))
