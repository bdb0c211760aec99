"""The seed's autoencoder: floating-point networks, latents as 8-bit integers.

Networks run in micro-batches of one fixed size, the last one filled up, so that an image's latents depend neither on
how many images came with it nor on which: float32 convolutions may differ in the last bit between batch sizes.
What that does and does not promise is said, with figures, in `docs/FORMAT.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tsae.archive import Coding, Records, bare_records, int8_latents
from tsae.backends import Network, seed_networks
from tsae.backends.layers import seed_layers
from tsae.checkpoint import SeedWeights
from tsae.config import IMAGE_SIZE_PX

ANALYSIS_BATCH = {"cpu": 8, "cuda": 1024}
"""Images per call when encoding: on a CPU, activations of 8 images stay in cache (fastest of 1 to 64 within noise)."""

SYNTHESIS_BATCH = {"cpu": 1, "cuda": 1024}
"""Images per call when decoding: on a CPU, more at once gain nothing, and one alone waits for no other."""

CHUNK_IMAGES = {"cpu": 32, "cuda": 1024}
"""Images whose pixels or latents are scaled and rounded at once: on a CPU, 32 of them stay in cache."""


def to_network_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images uint8 `[N, H, W, 3]` to what the networks take: float32 `[N, 3, H, W]` in 0..1."""
    scaled: NDArray[np.float32] = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    scaled /= np.float32(255)
    return scaled


class SeedCoding:
    """`seed-8x8x8` on one device."""

    def __init__(self, weights: SeedWeights, device: str) -> None:
        """Folds the batch normalisation and makes the networks.

        Args:
            weights: Of the model.
            device: "cpu" or "cuda".
        """
        self._quantizer = weights.quantizer
        self._latent_shape = weights.latent_shape
        self._device = device
        self._networks = seed_networks(seed_layers(weights.network), device)

    def encode(self, images: NDArray[np.uint8], quality: int | None) -> Records:
        """Encodes uint8 `[N, 32, 32, 3]` to streams of int8 `[C, H, W]`; there are no qualities."""
        streams = []
        for chunk in self._chunks(len(images)):
            y = self._run(self._networks.analysis, to_network_input(images[chunk]), ANALYSIS_BATCH[self._device])
            streams += [latents.tobytes() for latents in self._quantizer.quantize(y)]
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
        latents = self.latents(records)
        images = np.empty((len(latents), IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)
        for chunk in self._chunks(len(latents)):
            y_hat = self._quantizer.dequantize(latents[chunk])
            x_hat = self._run(self._networks.synthesis, y_hat, SYNTHESIS_BATCH[self._device])
            x_hat *= np.float32(255)
            images[chunk] = np.rint(x_hat, out=x_hat).astype(np.uint8).transpose(0, 2, 3, 1)
        return images

    def _chunks(self, images: int) -> Iterator[slice]:
        size = CHUNK_IMAGES[self._device]
        return (slice(start, start + size) for start in range(0, images, size))

    def _run(self, network: Network, inputs: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Maps float32 `[N, C, H, W]`, N at least 1, through a network, in micro-batches of one size."""
        outputs = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            if len(part) < size:
                part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            outputs.append(network(part))
        return np.concatenate(outputs)[: len(inputs)]
