"""The recipe of `tsae`: rate, distortion, later also what can be read, at eight qualities at once; then integers."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsae.checkpoint import LearnedWeights, model_to_bytes
from tsae.errors import InputError
from tsae.training.augment import count_mixed, mix_in
from tsae.training.config import TrainConfig
from tsae.training.export import export, round_as_exported, trainable
from tsae.training.images import ImageSet
from tsae.training.jitter import jitter
from tsae.training.readable import JITTERED, ReadingLoss
from tsae.training.start import read_start
from tsae.training.variable_rate import (
    QUALITIES,
    Pointwise,
    Sizes,
    VariableRateAutoencoder,
    principal_components,
    to_patches,
    to_unit_pixels,
)

LEAST_WEIGHT_BITS, WEIGHT_RATIO = 26.0, 22.0
"""Bits of an image that 1 dB is worth at the lowest quality, and how many times that at the highest: 27 to 40 dB."""

SMALLEST_ERROR = 0.25
"""Added to the mean squared error, in squared grey levels: beyond 54 dB nothing is to be won."""

READING_RATIO = 1.75
"""What a nat of reading counts at each quality over the one below: so much less was lost there by weights that had not read, so
that reading weighs about equally at all qualities."""

READ_QUALITIES = 6
"""Signs are jittered and read at so many of the lowest qualities. At higher ones next to none are lost, and where images were
jittered there as well, plain ones took more bytes (tsae/weights/tsae.md)."""

MUON_RATIO = 2.0
"""Muon's learning rate for the matrices over Adam's for the rest."""

WARM_STEPS = 300
LAST_SHARE = 0.02
"""The learning rate rises over the first steps, then follows half a cosine down to this share of its peak."""

AVERAGE_DECAY = 0.999
"""Of the moving average of the weights, which is what is kept."""

GRADIENT_NORM = 1.0
"""Gradients are cut to this norm."""

EVALUATION_STRIDE, EVALUATION_BATCH = 4, 64
"""Every fourth validation image is enough to see an epoch's progress."""


def bits_per_db() -> Tensor:
    """What 1 dB is worth at each quality, in bits an image, float32 `[8]`."""
    return LEAST_WEIGHT_BITS * WEIGHT_RATIO ** torch.linspace(0, 1, QUALITIES)


def cost(x: Tensor, x_hat: Tensor, bits: Tensor, quality: Tensor) -> Tensor:
    """What is minimised, of each image: bits over what 1 dB is worth, less the PSNR up to a constant; in dB.

    The logarithm of each image's own error lets a dark or faint sign count as much as a bright one.

    Args:
        x: Patches in grey levels, `[B, 48, 8, 8]`.
        x_hat: Their reconstructions.
        bits: `[B, C, 8, 8]`.
        quality: Of each image less 1, int64 `[B]`.

    Returns:
        `[B]`.
    """
    error = (x_hat - x).square().mean((1, 2, 3))
    return bits.sum((1, 2, 3)) / bits_per_db().to(bits.device)[quality] + 10 * torch.log10(error + SMALLEST_ERROR)


def _start(config: TrainConfig, images: NDArray[np.uint8]) -> VariableRateAutoencoder:
    """The principal components of the images, or a model; that one rounds as its export will, since it is nearly done."""
    if config.start is None:
        return VariableRateAutoencoder(Sizes(), *principal_components(images[:: max(1, len(images) // COMPONENT_IMAGES)]))
    weights = read_start(config.start, LearnedWeights)
    if weights.qualities != QUALITIES:
        raise InputError(
            f"start {config.start}: has {weights.qualities} qualities, this recipe {QUALITIES}; name another model"
        )
    network = trainable(weights)
    round_as_exported(network)
    return network


def _freeze_all_but_rates(network: VariableRateAutoencoder) -> None:
    """Leaves a gradient to gains, steps, and the biases by quality."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in ("log_gain", "log_step") or name.endswith("quality"))


class LearnedRecipe:
    """Trains a `VariableRateAutoencoder`, from nothing or from a model."""

    def __init__(self, config: TrainConfig, training: ImageSet) -> None:
        """Builds the network.

        Args:
            config: The recipe's numbers.
            training: To train on.

        Raises:
            InputError: if this torch has no Muon, the model to start from is of another architecture, a classifier to ask is
                none of pixels, or a readable stage is to learn rates only.
            ModelError: if one of them cannot be read.
        """
        if not hasattr(torch.optim, "Muon"):
            raise InputError(f"torch {torch.__version__}: has no optimiser Muon, which this recipe needs; update torch to 2.9")
        if config.readable and config.rates_only:
            raise InputError("readable, rates only: the networks must learn what is to stay readable; leave one of them out")
        self.config = config
        self._reading = ReadingLoss(config.device, config.classifier) if config.readable else None
        self.network = _start(config, training.images).to(config.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        if config.rates_only:
            _freeze_all_but_rates(self.network)
        matrices = [layer.weight for layer in self.network.modules() if isinstance(layer, Pointwise)]
        chosen = {id(matrix) for matrix in matrices}
        others = [p for p in self.network.parameters() if id(p) not in chosen and p.requires_grad]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=0.0, betas=(0.9, 0.99))]
        self._ratios = [1.0]
        if not config.rates_only:
            self.optimizers.append(torch.optim.Muon(matrices, lr=0.0, weight_decay=0.0))
            self._ratios.append(MUON_RATIO)

    def modules(self) -> dict[str, nn.Module]:
        """What a killed run goes on with, beside the optimisers; `average` is what is kept."""
        return {"network": self.network, "average": self.average}

    def step(self, images: Tensor, number: int, steps: int) -> Tensor:
        """One step of descent.

        Args:
            images: uint8 `[B, 32, 32, 3]`.
            number: Of this step, from 0.
            steps: Of the whole run.

        Returns:
            The mean cost, without gradient.
        """
        self._set_rate(number, steps)
        quality = torch.randint(QUALITIES, (len(images),), device=images.device)
        images = mix_in(images)
        is_read = self._choose_read(quality)
        if is_read.any():
            images[is_read] = jitter(images[is_read])
        x = to_patches(images)
        x_hat, bits, _ = self.network(x, quality)
        loss = cost(x, x_hat, bits, quality)
        if is_read.any():
            loss[is_read] += self._misreading(x[is_read], x_hat[is_read], quality[is_read])
        loss = loss.mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(AVERAGE_DECAY, number / (number + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def _choose_read(self, quality: Tensor) -> Tensor:
        """Which images of a batch are jittered, and read, bool `[B]`; none of those that `mix_in` has changed."""
        if self._reading is None:
            return torch.zeros_like(quality, dtype=torch.bool)
        is_read = (quality < READ_QUALITIES) & (torch.rand(quality.shape, device=quality.device) < JITTERED)
        is_read[: count_mixed(len(quality))] = False
        return is_read

    def _misreading(self, x: Tensor, x_hat: Tensor, quality: Tensor) -> Tensor:
        """What it costs that patches are read otherwise than before, as `cost`; 0 in a stage that does not read."""
        if self._reading is None:
            return torch.zeros(len(x), device=x.device)
        nats = self._reading(to_unit_pixels(x), to_unit_pixels(x_hat))
        return self.config.readable * READING_RATIO**quality * nats

    def _set_rate(self, number: int, steps: int) -> None:
        share = LAST_SHARE + (1 - LAST_SHARE) * 0.5 * (1 + float(np.cos(np.pi * number / steps)))
        rate = self.config.learning_rate * min(1.0, (number + 1) / WARM_STEPS) * share
        for optimizer, ratio in zip(self.optimizers, self._ratios, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * ratio

    @torch.no_grad()
    def evaluate(self, validation: ImageSet) -> dict[str, float]:
        """The average weights' cost on some images, and bytes (by the model's own probabilities) and PSNR at each quality."""
        images = validation.images[::EVALUATION_STRIDE]
        figures: dict[str, float] = {}
        losses = []
        for number in range(QUALITIES):
            totals = []
            for start in range(0, len(images), EVALUATION_BATCH):
                x = to_patches(torch.from_numpy(images[start : start + EVALUATION_BATCH]).to(self.config.device))
                quality = torch.full((len(x),), number, device=x.device)
                x_hat, bits, _ = self.average(x, quality, hard=True)
                x_hat = x_hat.round().clamp(0, 255)
                psnr_db = 10 * torch.log10(255**2 / (x_hat - x).square().mean((1, 2, 3)).clamp_min(1e-2))
                loss = cost(x, x_hat, bits, quality) + self._misreading(x, x_hat, quality)
                totals.append(torch.stack([loss, bits.sum((1, 2, 3)) / 8, psnr_db], 1))
            mean_loss, size_bytes, psnr = torch.cat(totals).double().mean(0).tolist()
            losses.append(mean_loss)
            figures |= {f"bytes_q{number + 1}": size_bytes, f"psnr_db_q{number + 1}": psnr}
        return {"loss": float(np.mean(losses)), **figures}

    def finish(self, training: ImageSet, facts: dict[str, object]) -> bytes:
        """The model file's content: the average weights as integers, with tables fitted to the training images.

        Raises:
            InputError: if the weights have grown so large that they do not fit.
        """
        try:
            return model_to_bytes(export(self.config.model, self.average, training.images, facts))
        except ValueError as error:
            raise InputError(f"weights that integers cannot hold ({error}); train anew with a lower rate") from error


COMPONENT_IMAGES = 5000
"""About as many images give the principal components."""
