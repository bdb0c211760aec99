"""Choosing the quality that reaches a target, from a sample of the input."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.errors import ImageError, InputError
from tsae.images import decode_image, resize
from tsae.inputs import Item, Listing, Read, map_inputs
from tsae.jobs.encoding import encode_chunk
from tsae.jobs.plan import SHARD_IMAGES

if TYPE_CHECKING:
    from tsae.codec import Codec

SAMPLE_IMAGES = 512
"""Images that are tried; their mean bytes are within about 2 % of all images' then."""

ARCHIVE_BYTES, LISTED_BYTES = 4500, 1.0
"""What an archive has beside its shards: manifest and list once, and the list's copy of the footers by image; a little more
than `benchmarks/overhead.py` shows, since a target is not to be exceeded."""

SIGMAS = 2.5
"""Standard errors of the sample's mean that are kept in reserve."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What an archive is to reach.

    Attributes:
        bytes_per_image: Most bytes of the archive an image, all but the model; or None.
        psnr_db: Least mean PSNR; or None.
    """

    bytes_per_image: float | None = None
    psnr_db: float | None = None

    def __str__(self) -> str:
        """As the manifest has it."""
        return f"{self.bytes_per_image:g} bytes" if self.bytes_per_image is not None else f"{self.psnr_db:g} dB"


@dataclasses.dataclass(frozen=True)
class Choice:
    """A quality, and what it is expected to give.

    Attributes:
        quality: 1 to the model's number of qualities.
        bytes_per_image: Of the archive, all but the model.
        psnr_db: Mean.
        images: Size of the sample.
        most_bytes: The most bytes an image that must be reckoned with, since it is a sample.
        least_psnr_db: The least mean.
    """

    quality: int
    bytes_per_image: float
    psnr_db: float
    images: int
    most_bytes: float
    least_psnr_db: float

    def __str__(self) -> str:
        """For people."""
        expected = f"about {self.bytes_per_image:.0f} bytes an image and {self.psnr_db:.1f} dB"
        return f"quality {self.quality}, {expected} by a sample of {self.images} images"


def choose_quality(listing: Listing, codec: Codec, target: Target, settings: ar.Settings) -> Choice:
    """The best quality within a number of bytes, or the lowest one that reaches a PSNR.

    Args:
        listing: The input.
        codec: A model with qualities.
        target: What is to be reached.
        settings: Of the job, but for the quality.

    Raises:
        InputError: if no quality reaches it, or no image of the sample can be read.
    """
    images = read_sample(listing)
    beside = overhead_bytes(listing)
    choices = [
        try_quality(images, codec, dataclasses.replace(settings, quality=quality, verify=True), beside, len(listing.keys))
        for quality in range(1, codec.qualities + 1)
    ]
    if target.bytes_per_image is not None:
        good = [choice for choice in choices if choice.most_bytes <= target.bytes_per_image]
        chosen, nearest = (good[-1] if good else None), min(choices, key=lambda choice: choice.bytes_per_image)
    else:
        good = [choice for choice in choices if choice.least_psnr_db >= (target.psnr_db or 0)]
        chosen, nearest = (good[0] if good else None), choices[-1]
    if chosen is None:
        raise InputError(f"target of {target}: not to be had here; the nearest is {nearest}; choose another target")
    return chosen


def read_sample(listing: Listing) -> NDArray[np.uint8]:
    """Up to `SAMPLE_IMAGES` images, evenly from the whole list, uint8 `[N, 32, 32, 3]`; what cannot be read is passed over.

    Raises:
        InputError: if none can be read.
    """
    count = min(len(listing.keys), SAMPLE_IMAGES)
    rows = np.array([i * len(listing.keys) // count for i in range(count)], np.int64)
    found = [image for image in map_inputs(_read, listing.items(rows), listing.root) if image is not None]
    if not found:
        raise InputError(f"{listing.root}: none of {count} images could be read, to choose a quality; give one with --quality")
    return np.stack(found)


def _read(item: Item, read: Read) -> NDArray[np.uint8] | None:
    try:
        return resize(decode_image(read()[0]))
    except ImageError:
        return None


def try_quality(images: NDArray[np.uint8], codec: Codec, settings: ar.Settings, beside: float, total: int) -> Choice:
    """What a quality gives.

    Args:
        images: The sample, uint8 `[N, 32, 32, 3]`.
        codec: A model.
        settings: With the quality; images are decoded to see what comes back.
        beside: Bytes an image beside the coded ones.
        total: Images that the sample stands for.
    """
    records, _ = encode_chunk(images, codec, settings)
    sizes = np.array([len(s) + len(file or b"") for s, file in zip(records.streams, records.lossless, strict=True)])
    psnrs_db, count = records.psnrs_db.astype(np.float64), len(images)
    reserve = SIGMAS / np.sqrt(count) * np.sqrt(max(0.0, 1 - count / total))
    return Choice(
        quality=settings.quality or 0,
        bytes_per_image=float(sizes.mean()) + beside,
        psnr_db=float(psnrs_db.mean()),
        images=count,
        most_bytes=float(sizes.mean() + reserve * sizes.std()) + beside,
        least_psnr_db=float(psnrs_db.mean() - reserve * psnrs_db.std()),
    )


def overhead_bytes(listing: Listing) -> float:
    """Bytes an image that an archive of these inputs has beside its streams: of a shard with their keys and labels.

    Args:
        listing: At least one key.
    """
    items = listing.items(listing.rows[:SHARD_IMAGES])
    rng, count = np.random.default_rng(0), len(items)
    streams = [rng.bytes(int(size)) for size in rng.integers(20, 200, count)]
    records = dataclasses.replace(
        ar.bare_records(streams, rng.choice(CODINGS, count), [None] * count),
        keys=[item.key for item in items],
        widths=rng.integers(25, 250, count).astype(np.uint32),
        heights=rng.integers(25, 250, count).astype(np.uint32),
        labels=[item.label for item in items],
        psnrs_db=ar.stored_psnr_db(rng.normal(33, 3, count)),
    )
    shard = ar.shard_to_bytes(records, {"format_version": 1, "model_sha256": "0" * 64})
    return (len(shard) - sum(map(len, streams))) / count + LISTED_BYTES + ARCHIVE_BYTES / len(listing.keys)


CODINGS = np.array([4, 4, 4, 5, 6], np.uint8)
"""As mixed as those of images some of which are faint."""
