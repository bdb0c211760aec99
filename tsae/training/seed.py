"""The recipe of `seed-8x8x8`: binary cross-entropy, later also what can be read; then a quantiser fitted to the latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsae.checkpoint import Model, SeedWeights, model_to_bytes
from tsae.coding.seed import to_network_input
from tsae.errors import InputError
from tsae.metrics import psnr_db
from tsae.model import SeedAutoencoder
from tsae.quantize import LatentQuantizer, fit_quantizer
from tsae.training.config import TrainConfig
from tsae.training.images import ImageSet
from tsae.training.jitter import jitter
from tsae.training.readable import JITTERED, ReadingLoss, structural_loss
from tsae.training.run import descend, multiplies_bfloat16
from tsae.training.start import read_start

EVALUATION_BATCH = 256

QUANTIZER_IMAGES = 8192
"""Training images that the quantiser's ranges are fitted to. All 34,769 of GTSRB would change the steps of seed-8x8x8 by 7 % at
most; what storing in 8 bits costs, 0.02 dB, leaves nothing to win there."""


STRUCTURE = 0.1
"""What the structural loss of a readable stage counts beside the cross-entropy, most of whose 0.45 is its floor."""


def _start(config: TrainConfig) -> SeedAutoencoder:
    return SeedAutoencoder() if config.start is None else read_start(config.start, SeedWeights).to_network()


class SeedRecipe:
    """Trains a `SeedAutoencoder` with Adam: its rate rises over one epoch, then follows half a cosine to zero."""

    def __init__(self, config: TrainConfig, training: ImageSet) -> None:
        """Builds the network, with random weights or those of a model.

        Args:
            config: The recipe's numbers.
            training: To train on.

        Raises:
            InputError: if the model to start from is of another architecture, or a classifier to ask is none of pixels.
            ModelError: if one of them cannot be read.
        """
        if config.rates_only:
            raise InputError("rates only: seed-8x8x8 has one quality; leave it out, or train the model tsae")
        self.config = config
        self.network = _start(config).to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)]
        self._warm_steps = -(-len(training) // config.batch_size)
        self._reading = ReadingLoss(config.device, config.classifier) if config.readable else None
        self._has_bfloat16 = config.readable > 0 and multiplies_bfloat16(config.device)

    def modules(self) -> dict[str, nn.Module]:
        """What a killed run goes on with, beside the optimiser."""
        return {"network": self.network}

    def step(self, images: Tensor, number: int, steps: int) -> Tensor:
        """One step of descent.

        Args:
            images: uint8 `[B, 32, 32, 3]`.
            number: Of this step, from 0.
            steps: Of the whole run.

        Returns:
            The mean loss, without gradient.
        """
        self.network.train(self._reading is None)  # statistics of jittered images are others
        if self._reading is not None:
            jittered = round(len(images) * JITTERED)
            images = torch.cat([jitter(images[:jittered]), images[jittered:]])
        batch = _to_batch(images)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self._has_bfloat16):
            loss = self._loss(batch, self.network(batch).float())
        return descend(self.optimizers[0], loss, self._rate(number, steps))

    def _loss(self, x: Tensor, logits: Tensor) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(logits, x)
        if self._reading is None:
            return loss
        x_hat = torch.sigmoid(logits)
        return loss + self.config.readable * self._reading(x, x_hat).mean() + STRUCTURE * structural_loss(x, x_hat)

    def _rate(self, number: int, steps: int) -> float:
        highest, warm = self.config.learning_rate, self._warm_steps
        if number < warm:
            return highest * (number + 1) / warm
        return highest * 0.5 * (1 + float(np.cos(np.pi * (number - warm) / max(steps - warm, 1))))

    def evaluate(self, validation: ImageSet) -> dict[str, float]:
        """Loss, which without reading is the cross-entropy (nats per component), and mean PSNR, without quantised latents."""
        bce, psnrs_db = evaluate(self.network, validation.images, self.config.device)
        figures = {"loss": bce, "psnr_db": float(psnrs_db.mean())}
        if self._reading is None:
            return figures
        with torch.no_grad():
            batches = _reconstruct(self.network, validation.images, self.config.device)
            loss = sum(self._loss(x, logits).item() * len(x) for x, logits in batches) / len(validation)
        return {**figures, "loss": loss, "bce": bce}

    def finish(self, training: ImageSet, facts: dict[str, Any]) -> bytes:
        """The model's file, with a quantiser fitted to the training images."""
        network = self.network.cpu().eval()
        return model_to_bytes(Model(self.config.model, SeedWeights.of(network, _fit(network, training)), training=facts))


@torch.no_grad()
def evaluate(network: SeedAutoencoder, images: NDArray[np.uint8], device: str) -> tuple[float, NDArray[np.float64]]:
    """Distortion of a network without quantised latents.

    Args:
        network: On `device`; left in evaluation mode.
        images: uint8 `[N, 32, 32, 3]`.
        device: Where to compute.

    Returns:
        Mean binary cross-entropy (nats per component), and each image's PSNR in dB, float64 `[N]`.
    """
    loss, decoded = 0.0, []
    for x, logits in _reconstruct(network, images, device):
        loss += nn.functional.binary_cross_entropy_with_logits(logits, x).item() * len(x)
        decoded.append((torch.sigmoid(logits) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return loss / len(images), psnr_db(images, np.concatenate(decoded))


def _reconstruct(network: SeedAutoencoder, images: NDArray[np.uint8], device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of originals, in 0..1, and the logits of what comes back of them."""
    network.eval()
    for start in range(0, len(images), EVALUATION_BATCH):
        x = _to_batch(torch.from_numpy(images[start : start + EVALUATION_BATCH]).to(device))
        yield x, network(x)


def _to_batch(images: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` to float32 `[B, 3, H, W]` in 0..1."""
    return images.permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def _fit(network: SeedAutoencoder, training: ImageSet) -> LatentQuantizer:
    chosen = np.random.default_rng(0).permutation(len(training))[:QUANTIZER_IMAGES]
    parts = np.array_split(training.images[np.sort(chosen)], -(-len(chosen) // EVALUATION_BATCH))
    return fit_quantizer(np.concatenate([network.analysis(torch.from_numpy(to_network_input(p))).numpy() for p in parts]))
