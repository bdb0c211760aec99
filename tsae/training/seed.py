"""The recipe of `seed-8x8x8`: binary cross-entropy, then a quantiser fitted to the latents."""

from __future__ import annotations

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
from tsae.training.run import descend
from tsae.training.start import read_start

EVALUATION_BATCH = 256

QUANTIZER_IMAGES = 8192
"""Training images that the quantiser's ranges are fitted to. All 34,769 of GTSRB would change the steps of seed-8x8x8 by 7 % at
most; what storing in 8 bits costs, 0.02 dB, leaves nothing to win there."""


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
            InputError: if the model to start from is of another architecture.
            ModelError: if it cannot be read.
        """
        if config.rates_only:
            raise InputError("rates only: seed-8x8x8 has one quality; leave it out, or train the model tsae")
        self.config = config
        self.network = _start(config).to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)]
        self._warm_steps = -(-len(training) // config.batch_size)

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
        self.network.train()
        batch = images.permute(0, 3, 1, 2).float() / 255
        loss = nn.functional.binary_cross_entropy_with_logits(self.network(batch), batch)
        return descend(self.optimizers[0], loss, self._rate(number, steps))

    def _rate(self, number: int, steps: int) -> float:
        highest, warm = self.config.learning_rate, self._warm_steps
        if number < warm:
            return highest * (number + 1) / warm
        return highest * 0.5 * (1 + float(np.cos(np.pi * (number - warm) / max(steps - warm, 1))))

    def evaluate(self, validation: ImageSet) -> dict[str, float]:
        """Cross-entropy (nats per component) and mean PSNR, without quantised latents."""
        loss, psnrs_db = evaluate(self.network, validation.images, self.config.device)
        return {"loss": loss, "psnr_db": float(psnrs_db.mean())}

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
    network.eval()
    loss, psnrs = 0.0, []
    for start in range(0, len(images), EVALUATION_BATCH):
        originals = images[start : start + EVALUATION_BATCH]
        x = torch.from_numpy(originals).to(device).permute(0, 3, 1, 2).float() / 255
        logits = network(x)
        loss += nn.functional.binary_cross_entropy_with_logits(logits, x).item() * len(x)
        x_hat = (torch.sigmoid(logits) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        psnrs.append(psnr_db(originals, x_hat))
    return loss / len(images), np.concatenate(psnrs)


@torch.no_grad()
def _fit(network: SeedAutoencoder, training: ImageSet) -> LatentQuantizer:
    chosen = np.random.default_rng(0).permutation(len(training))[:QUANTIZER_IMAGES]
    parts = np.array_split(training.images[np.sort(chosen)], -(-len(chosen) // EVALUATION_BATCH))
    return fit_quantizer(np.concatenate([network.analysis(torch.from_numpy(to_network_input(p))).numpy() for p in parts]))
