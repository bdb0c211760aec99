"""The seed's autoencoder: floating-point networks, latents as 8-bit integers.

Networks run in micro-batches of one fixed size, the last one filled up, so that an image's latents depend neither on
how many images came with it nor on which: float32 convolutions may differ in the last bit between batch sizes.
What that does and does not promise is said, with figures, in `docs/FORMAT.md`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsae.archive import Coding, Records, bare_records, int8_latents
from tsae.checkpoint import SeedWeights
from tsae.model import fold_batch_norm, to_network_input

ANALYSIS_BATCH = {"cpu": 16, "cuda": 1024}
"""Images per call when encoding: on a CPU, activations of 16 images stay in cache (fastest of 1 to 32 within noise)."""

SYNTHESIS_BATCH = {"cpu": 2, "cuda": 1024}
"""Images per call when decoding: 390 us an image for 2, 353 for 4, 364 for 16, and one alone waits for its whole batch."""


class SeedCoding:
    """`seed-8x8x8` on one device."""

    def __init__(self, weights: SeedWeights, device: str) -> None:
        """Folds the batch normalisation and moves the network.

        Args:
            weights: Of the model.
            device: "cpu" or "cuda".
        """
        self._quantizer = weights.quantizer
        self._latent_shape = weights.latent_shape
        self._device = device
        self._network = fold_batch_norm(weights.network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, images: NDArray[np.uint8], quality: int | None) -> Records:
        """Encodes uint8 `[N, 32, 32, 3]` to streams of int8 `[C, H, W]`; there are no qualities."""
        y = self._run(self._network.analysis, to_network_input(images), ANALYSIS_BATCH[self._device])
        streams = [latents.tobytes() for latents in self._quantizer.quantize(y)]
        return bare_records(streams, np.full(len(streams), int(Coding.LATENTS_INT8), np.uint8), [None] * len(streams))

    def latents(self, records: Records) -> NDArray[np.int8]:
        """The integers of N records, int8 `[N, C, H, W]`.

        Raises:
            CorruptDataError: if a coding is another or a stream has the wrong length.
        """
        return int8_latents(records, self._latent_shape)

    def decode(self, records: Records) -> NDArray[np.uint8]:
        """Decodes N records to uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: as `latents`.
        """
        y_hat = self._quantizer.dequantize(self.latents(records))
        x_hat = self._run(self._network.synthesis, y_hat, SYNTHESIS_BATCH[self._device])
        pixels: NDArray[np.uint8] = np.rint(x_hat * np.float32(255)).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    @torch.inference_mode()
    def _run(self, function: Callable[[Tensor], Tensor], inputs: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Maps float32 `[N, C, H, W]` through a network, in micro-batches of one size."""
        outputs = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            batch = torch.from_numpy(filled).to(self._device).contiguous(memory_format=torch.channels_last)
            outputs.append(function(batch)[: len(part)].contiguous().cpu().numpy())
        return np.concatenate(outputs) if outputs else function(torch.zeros(1, *inputs.shape[1:]))[:0].cpu().numpy()
