"""The recipe of `tsae`: rate and distortion at eight qualities at once, then integers in place of what was learned."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsae.checkpoint import LearnedWeights, model_to_bytes
from tsae.errors import InputError
from tsae.training.augment import mix_in
from tsae.training.config import TrainConfig
from tsae.training.export import export, round_as_exported, trainable
from tsae.training.images import ImageSet
from tsae.training.start import read_start
from tsae.training.variable_rate import QUALITIES, Pointwise, Sizes, VariableRateAutoencoder, principal_components, to_patches

LEAST_WEIGHT_BITS, WEIGHT_RATIO = 29.0, 15.5
"""Bits of an image that 1 dB is worth at the lowest quality, and how many times that at the highest: 27 to 40 dB."""

SMALLEST_ERROR = 0.25
"""Added to the mean squared error, in squared grey levels: beyond 54 dB nothing is to be won."""

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
            InputError: if this torch has no Muon, the stage is to be readable, or the model to start from is of another
                architecture.
            ModelError: if the model to start from cannot be read.
        """
        if not hasattr(torch.optim, "Muon"):
            raise InputError(f"torch {torch.__version__}: has no optimiser Muon, which this recipe needs; update torch to 2.9")
        if config.readable:
            raise InputError("readable: only the recipe of seed-8x8x8 has such a stage; leave it out")
        self.config = config
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
        x = to_patches(mix_in(images))
        x_hat, bits, _ = self.network(x, quality)
        loss = cost(x, x_hat, bits, quality).mean()
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
                totals.append(torch.stack([cost(x, x_hat, bits, quality), bits.sum((1, 2, 3)) / 8, psnr_db], 1))
            loss, size_bytes, psnr = torch.cat(totals).double().mean(0).tolist()
            losses.append(loss)
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
