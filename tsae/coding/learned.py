"""The learned codec: networks in fixed point, latents entropy-coded. The same images give the same bytes everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tsae.archive import Records, bare_records
from tsae.checkpoint import PATCH, LearnedWeights
from tsae.coding.exact import FixedPointNetwork
from tsae.config import IMAGE_SIZE_PX
from tsae.entropy import GRID
from tsae.entropy.coder import EntropyCoder
from tsae.images import encode_lossless
from tsae.latents import coding_of, decode_latents

PATCH_SIDE_PX = IMAGE_SIZE_PX // GRID

BATCH = {"cpu": 64, "cuda": 4096}
"""Images per call of a network. The result does not depend on it. On a CPU, at quality 3, 64 take 225 us an image to encode
and 144 to decode, where 16 take 256 and 163."""


MAX_STREAM_BYTES = 1024
"""A longer stream is not kept. Of 6,315 GTSRB images none comes near it; noise does, which a lossless file serves better."""

PATTERN_PIXELS = 8
"""An image with no more new pixels is plain or a simple pattern, and is always stored losslessly, in 30 to 50 bytes."""

LOSSLESS_BYTES, NEW_PIXEL_BYTES, STREAM_BESIDE_BYTES = 30, 2, 64
"""About what a lossless file takes at least, for each new pixel, and what the stream beside it takes."""


def count_new_pixels(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels are like none of those one or two to the left or above, int64 `[N]`: what drawings have few of.

    A count of integers, and not the length of a file that some version of a library writes, decides what is stored losslessly.

    Args:
        images: uint8 `[N, 32, 32, 3]`.
    """
    colours = images[..., 0] * np.int32(65536) + images[..., 1] * np.int32(256) + images[..., 2]
    is_new = np.ones(colours.shape, np.bool_)
    for distance in (1, 2):
        is_new[:, :, distance:] &= colours[:, :, distance:] != colours[:, :, :-distance]
        is_new[:, distance:] &= colours[:, distance:] != colours[:, :-distance]
    return np.asarray(is_new.sum((1, 2), dtype=np.int64))


def is_better_lossless(new_pixels: int, stream_bytes: int) -> bool:
    """Whether an image is to be stored losslessly, with a stream of the lowest quality beside.

    Args:
        new_pixels: See `count_new_pixels`.
        stream_bytes: Length of its stream.
    """
    lossless_bytes = LOSSLESS_BYTES + NEW_PIXEL_BYTES * new_pixels + STREAM_BESIDE_BYTES
    return new_pixels <= PATTERN_PIXELS or lossless_bytes < stream_bytes or stream_bytes > MAX_STREAM_BYTES


FAINT_DEVIATIONS = (19.84, 12.5, 7.87, 4.96)
"""Images whose pixels vary less than this, in grey levels (root mean square around the mean of each colour), get one quality
more for each. Equal PSNR would leave of a dark or foggy sign less than can be read; this keeps about 9 dB of its own contrast
where 4 dB were left, and even takes 2 to 3 % fewer bytes at equal mean PSNR (docs/CODEC.md)."""

FLAT_DEVIATION = 1.0
"""What varies less than this shows nothing."""


def faintness(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """By how many qualities images are to be coded better than others, int64 `[N]`.

    Args:
        images: uint8 `[N, 32, 32, 3]`.
    """
    count = IMAGE_SIZE_PX * IMAGE_SIZE_PX
    values = images.reshape(len(images), count * 3).astype(np.int32)
    # In integers, so that no machine decides otherwise: count^2 times the variance, summed over the colours.
    squares = np.einsum("nv,nv->n", values, values).astype(np.int64)
    rows = values.reshape(len(images), IMAGE_SIZE_PX, IMAGE_SIZE_PX * 3).sum(1)
    sums = rows.reshape(len(images), IMAGE_SIZE_PX, 3).sum(1).astype(np.int64)
    spread = count * squares - np.square(sums).sum(1)
    limits = [int(3 * count * count * deviation * deviation) for deviation in FAINT_DEVIATIONS]
    steps = np.sum([spread < limit for limit in limits], axis=0, dtype=np.int64)
    return np.asarray(np.where(spread < int(3 * count * count * FLAT_DEVIATION**2), 0, steps))


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
        """Encodes uint8 `[N, 32, 32, 3]`: faint images better than asked for, and what takes too many bytes losslessly.

        A lossless image still has a stream, of the lowest quality, so that every record has latents to train on.
        """
        assert quality is not None  # noqa: S101 (the facade has checked it)
        qualities = np.minimum(quality + faintness(images), self._coder.prior.qualities)
        streams = self._streams(images, qualities)
        new_pixels = count_new_pixels(images).tolist()
        escaped = [row for row, stream in enumerate(streams) if is_better_lossless(new_pixels[row], len(stream))]
        lossless: list[bytes | None] = [None] * len(images)
        for row in escaped:
            lossless[row] = encode_lossless(images[row])
        qualities[escaped] = 1
        for row, stream in zip(escaped, self._streams(images[escaped], qualities[escaped]), strict=True):
            streams[row] = stream if len(stream) <= MAX_STREAM_BYTES else self._blank
        return bare_records(streams, np.array([coding_of(q) for q in qualities.tolist()], np.uint8), lossless)

    def _streams(self, images: NDArray[np.uint8], qualities: NDArray[np.int64]) -> list[bytes]:
        """The stream of each image at its quality."""
        streams = [b""] * len(images)
        for part, quality in self._batches(qualities):
            y = self._run(self._analysis, to_patches(images[part]), quality)
            coded = self._coder.encode(self._coder.quantize(y.astype(np.int32), quality), quality)
            for row, stream in zip(part.tolist(), coded, strict=True):
                streams[row] = stream
        return streams

    def _batches(self, qualities: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Rows of images of one quality, a batch at a time, and the quality."""
        for quality in np.unique(qualities).tolist():
            rows = np.flatnonzero(qualities == quality)
            for start in range(0, len(rows), BATCH[self._device]):
                yield rows[start : start + BATCH[self._device]], quality

    def latents(self, records: Records) -> NDArray[np.int16]:
        """The dequantised latents of N records, int16 `[N, C, 8, 8]`.

        Raises:
            CorruptDataError: if a coding is unknown or a stream damaged.
        """
        return decode_latents(records, self._coder)[0]

    def decode(self, records: Records) -> NDArray[np.uint8]:
        """Decodes N records to uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: as `latents`.
        """
        latents, qualities = decode_latents(records, self._coder)
        images = np.empty((len(records), IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)
        for part, quality in self._batches(qualities):
            images[part] = from_patches(self._run(self._synthesis, latents[part].transpose(0, 2, 3, 1), quality))
        return images

    def _run(self, network: FixedPointNetwork, values: NDArray[np.int16], quality: int) -> NDArray[np.float32]:
        """Maps integers, channels last, through a network."""
        return network.run(values.astype(np.float32).transpose(0, 3, 1, 2), quality)


def to_patches(images: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Pixels less 128 by patch of 4x4: int16 `[N, 8, 8, 48]`; row and column in the patch, then colour."""
    parts = images.reshape(len(images), GRID, PATCH_SIDE_PX, GRID, PATCH_SIDE_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.asarray(parts.reshape(len(images), GRID, GRID, PATCH).astype(np.int16) - np.int16(128))


def from_patches(patches: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Undoes `to_patches`, cut to 0..255: from `[N, 48, 8, 8]` to uint8 `[N, 32, 32, 3]`."""
    pixels = patches + np.float32(128)
    rows = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8).reshape(-1, PATCH_SIDE_PX, PATCH_SIDE_PX, 3, GRID, GRID)
    return np.asarray(rows.transpose(0, 4, 1, 5, 2, 3).reshape(len(patches), IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3))
