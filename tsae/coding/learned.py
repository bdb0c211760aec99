"""The learned codec: networks in fixed point, latents entropy-coded. The same images give the same bytes everywhere."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray

from tsae.archive import Records, bare_records
from tsae.checkpoint import PATCH, LearnedWeights
from tsae.config import IMAGE_SIZE_PX
from tsae.entropy import GRID, EntropyCoder
from tsae.fixed_point import FixedPointNetwork
from tsae.images import encode_lossless
from tsae.latents import coding_of, decode_symbols, stored_latents

PATCH_SIDE_PX = IMAGE_SIZE_PX // GRID

BATCH = {"cpu": 16, "cuda": 4096}
"""Images per call of a network. The result does not depend on it."""


MAX_STREAM_BYTES = 1024
"""A longer stream is not kept. Of 6,315 GTSRB images none comes near it; noise does, which a lossless file serves better."""

DOUBTFUL_BYTES = 384
"""From this length on a stream is compared with what a general compressor makes of the pixels: drawings may be shorter so."""


ESCAPE_BYTES = 64
"""What the stream of the lowest quality may take that stays beside a lossless image."""


def escape(image: NDArray[np.uint8], stream: bytes) -> bytes | None:
    """The image as a lossless file, where that is to be stored instead of its stream; else None.

    Args:
        image: uint8 `[32, 32, 3]`.
        stream: What it is coded as.
    """
    if len(stream) > MAX_STREAM_BYTES:
        return encode_lossless(image)
    if len(stream) < DOUBTFUL_BYTES or len(zlib.compress(image.tobytes(), 1)) > len(stream):
        return None
    file = encode_lossless(image)
    return file if len(file) + ESCAPE_BYTES < len(stream) else None


class LearnedCoding:
    """`tsae-1` on one device."""

    def __init__(self, weights: LearnedWeights, device: str) -> None:
        """Makes networks and entropy coder ready.

        Args:
            weights: Of the model.
            device: "cpu" or "cuda".

        Raises:
            ModelError: if the device does not compute exactly.
        """
        self._device = device
        self._latent_shape = weights.latent_shape
        self._coder = EntropyCoder(weights.prior)
        self._analysis = FixedPointNetwork(weights.analysis, device)
        self._synthesis = FixedPointNetwork(weights.synthesis, device)
        self._blank = self._coder.encode(np.zeros((1, *self._latent_shape), np.int16), 1)[0]

    def encode(self, images: NDArray[np.uint8], quality: int | None) -> Records:
        """Encodes uint8 `[N, 32, 32, 3]` at one quality; what would take too many bytes is stored losslessly instead.

        A lossless image still has a stream, of the lowest quality, so that every record has latents to train on.
        """
        assert quality is not None  # noqa: S101 (the facade has checked it)
        streams = self._streams(images, quality)
        lossless = [escape(image, stream) for image, stream in zip(images, streams, strict=True)]
        codings = np.full(len(streams), coding_of(quality), np.uint8)
        escaped = [row for row, file in enumerate(lossless) if file is not None]
        if escaped:
            for row, stream in zip(escaped, self._streams(images[escaped], 1), strict=True):
                streams[row], codings[row] = stream if len(stream) <= MAX_STREAM_BYTES else self._blank, coding_of(1)
        return bare_records(streams, codings, lossless)

    def _streams(self, images: NDArray[np.uint8], quality: int) -> list[bytes]:
        streams: list[bytes] = []
        for start in range(0, len(images), BATCH[self._device]):
            patches = to_patches(images[start : start + BATCH[self._device]])
            y = self._run(self._analysis, patches, quality)
            streams += self._coder.encode(self._coder.quantize(y.astype(np.int32), quality), quality)
        return streams

    def latents(self, records: Records) -> NDArray[np.int8] | NDArray[np.int16]:
        """The dequantised latents of N records, int16 `[N, C, 8, 8]`.

        Raises:
            CorruptDataError: if a coding is unknown or a stream damaged.
        """
        return stored_latents(records, self._latent_shape, lambda: self._coder)

    def decode(self, records: Records) -> NDArray[np.uint8]:
        """Decodes N records to uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: as `latents`.
        """
        symbols, qualities = decode_symbols(records, self._coder)
        images = np.empty((len(records), IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)
        for quality in np.unique(qualities).tolist():
            rows = np.flatnonzero(qualities == quality)
            for start in range(0, len(rows), BATCH[self._device]):
                part = rows[start : start + BATCH[self._device]]
                latents = self._coder.dequantize(symbols[part], [quality] * len(part))
                patches = self._run(self._synthesis, latents.transpose(0, 2, 3, 1), quality)
                images[part] = from_patches(patches)
        return images

    def _run(self, network: FixedPointNetwork, values: NDArray[np.int16], quality: int) -> NDArray[np.float32]:
        """Maps integers, channels last in memory for the encoder, through a network."""
        x = torch.from_numpy(values.astype(np.float32)).to(self._device).permute(0, 3, 1, 2)
        y: NDArray[np.float32] = network.run(x, quality).cpu().numpy()
        return y


def to_patches(images: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Pixels less 128 by patch of 4x4: int16 `[N, 8, 8, 48]`; row and column in the patch, then colour."""
    parts = images.reshape(len(images), GRID, PATCH_SIDE_PX, GRID, PATCH_SIDE_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.asarray(parts.reshape(len(images), GRID, GRID, PATCH).astype(np.int16) - np.int16(128))


def from_patches(patches: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Undoes `to_patches`, cut to 0..255: from `[N, 48, 8, 8]` to uint8 `[N, 32, 32, 3]`."""
    pixels = np.clip(patches.transpose(0, 2, 3, 1) + 128, 0, 255).astype(np.uint8)
    parts = pixels.reshape(len(patches), GRID, GRID, PATCH_SIDE_PX, PATCH_SIDE_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.asarray(parts.reshape(len(patches), IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3))
