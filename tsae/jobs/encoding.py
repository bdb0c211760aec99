"""Images to records as the settings of a job say: measured, readable, above a floor of PSNR. Owns neither files nor tasks."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.config import SURE
from tsae.images import encode_lossless
from tsae.metrics import psnr_db

if TYPE_CHECKING:
    from tsae.codec import Codec

Images = NDArray[np.uint8]

Classify = Callable[[Images], NDArray[np.float32]]
"""How likely each of images uint8 `[N, 32, 32, 3]` is of each class, float32 `[N, K]`."""

MISREAD_ONLY = 1.0
"""A limit of doubt that only what is read otherwise than its original is above."""


@dataclasses.dataclass(frozen=True, eq=False)
class Doubter:
    """What a classifier reads from originals, and so how much it doubts what comes back of them.

    Attributes:
        classify: The classifier.
        classes: What it reads from each original, intp `[N]`.
        sure: Its probabilities of these, float64 `[N]`.
    """

    classify: Classify
    classes: NDArray[np.intp]
    sure: NDArray[np.float64]

    @classmethod
    def of(cls, images: Images, classify: Classify) -> Doubter:
        """Reads the originals, uint8 `[N, 32, 32, 3]`."""
        probabilities = classify(images)
        return cls(classify, probabilities.argmax(1), probabilities.max(1).astype(np.float64))

    def doubts(self, records: ar.Records, decoded: Images, rows: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
        """Of each image, the share of the original's probability that is gone; infinite if it is read otherwise.

        Args:
            records: As encoded; what they hold losslessly is beyond doubt.
            decoded: What their streams decode to, as the images.
            rows: Which of the originals they are; None is all.

        Returns:
            float64 `[N]`, 0 to 1, or infinite.
        """
        classes, sure = (self.classes, self.sure) if rows is None else (self.classes[rows], self.sure[rows])
        probabilities = self.classify(decoded)
        left = np.take_along_axis(probabilities, classes[:, None], 1)[:, 0] / sure
        doubts = np.where(probabilities.argmax(1) == classes, np.clip(1 - left, 0, 1), np.inf)
        return np.where([file is not None for file in records.lossless], 0, doubts)


class Kept(NamedTuple):
    """What it took that images can be read as their originals, or nearly so.

    Attributes:
        images: How many were stored better than asked for.
        bytes: That they take more.
        asked: Of how many images the classifier was asked.
        sure: Its probabilities of what it read from their originals, summed.
    """

    images: int = 0
    bytes: int = 0
    asked: int = 0
    sure: float = 0.0

    def plus(self, other: Kept) -> Kept:
        """The sum of both."""
        return Kept(*map(operator.add, self, other))

    @property
    def unsure(self) -> float | None:
        """How sure the classifier is of the originals, where that is too little to go by; None where it is not."""
        sure = self.sure / self.asked if self.asked else 1.0
        return sure if sure < SURE else None


NONE_KEPT = Kept()


def encode_chunk(
    images: Images, codec: Codec, settings: ar.Settings, classify: Classify | None = None
) -> tuple[ar.Records, Kept]:
    """Encodes images as the settings say.

    Args:
        images: uint8 `[N, 32, 32, 3]`.
        codec: The model.
        settings: Of the job.
        classify: The settings' classifier; None if they have none.

    Returns:
        Records, whose keys, sizes and labels are still to be filled in, and what it took that they can be read.
    """
    records, decoded = encode_measured(images, codec, settings.quality, settings.verify)
    kept = NONE_KEPT
    if classify is not None:
        before, doubter = records, Doubter.of(images, classify)
        records = store_better(images, records, decoded, codec, settings, doubter)
        more = _size_bytes(records) - _size_bytes(before)
        kept = Kept(_count_changed(before, records), more, len(images), float(doubter.sure.sum()))
    floor_db = -math.inf if settings.min_psnr_db is None else settings.min_psnr_db
    rows = zip(images, records.psnrs_db, records.lossless, strict=True)
    lossless = [encode_lossless(x) if file is None and psnr < floor_db else file for x, psnr, file in rows]
    return dataclasses.replace(records, lossless=lossless), kept


def encode_measured(images: Images, codec: Codec, quality: int | None, verify: bool = True) -> tuple[ar.Records, Images]:
    """Records with their PSNR and what their streams decode to; without `verify`, neither PSNR nor images."""
    records = codec.encode(images, quality)
    if not verify:
        return records, images[:0]
    decoded = codec.decode_streams(records)
    return dataclasses.replace(records, psnrs_db=ar.stored_psnr_db(psnr_db(images, decoded))), decoded


def _size_bytes(records: ar.Records) -> int:
    return sum(map(len, records.streams)) + sum(len(file) for file in records.lossless if file is not None)


def _count_changed(before: ar.Records, after: ar.Records) -> int:
    """How many images are stored otherwise."""
    old, new = (zip(records.streams, records.lossless, strict=True) for records in (before, after))
    return sum(a != b for a, b in zip(old, new, strict=True))


def store_better(
    images: Images, records: ar.Records, decoded: Images, codec: Codec, settings: ar.Settings, doubter: Doubter
) -> ar.Records:
    """Stores better what is doubted more than the settings allow; to keep images readable, losslessly what is still misread.

    Args:
        images: The originals, uint8 `[N, 32, 32, 3]`.
        records: As encoded.
        decoded: What their streams decode to, as the images.
        codec: The model.
        settings: Of the job.
        doubter: Of the originals.

    Returns:
        The records, some of them replaced.
    """
    limit = MISREAD_ONLY if settings.doubt is None else settings.doubt.most
    climbed, doubts = climb(images, records, decoded, codec, settings.quality, doubter, limit)
    if settings.keep_readable is None:
        return climbed
    misread = np.flatnonzero(doubts > MISREAD_ONLY)
    kept = _replace(climbed, misread, records.take(misread.tolist()))  # a better stream would be of no use beside the image
    lossless = list(kept.lossless)
    for row in misread.tolist():
        lossless[row] = encode_lossless(images[row])
    return dataclasses.replace(kept, lossless=lossless)


def climb(
    images: Images, records: ar.Records, decoded: Images, codec: Codec, quality: int | None, doubter: Doubter, limit: float
) -> tuple[ar.Records, NDArray[np.float64]]:
    """Encodes each image that is doubted more than a limit at the next higher qualities, up to the first at which it is not.

    Args:
        images: The originals, uint8 `[N, 32, 32, 3]`.
        records: As encoded.
        decoded: What their streams decode to, as the images.
        codec: The model.
        quality: At which they were encoded; None for a model that has none.
        doubter: Of the originals.
        limit: Most doubt, 0 to 1.

    Returns:
        The records, and the doubts that are left, float64 `[N]`; above the limit only at the highest quality.
    """
    doubts = doubter.doubts(records, decoded)
    for higher in range((quality or 0) + 1, codec.qualities + 1):
        rows = np.flatnonzero(doubts > limit)
        if not len(rows):
            break
        better, seen = encode_measured(images[rows], codec, higher)
        records = _replace(records, rows, better)
        doubts[rows] = doubter.doubts(better, seen, rows)
    return records, doubts


def _replace(records: ar.Records, rows: NDArray[np.intp], better: ar.Records) -> ar.Records:
    """The records with others in some rows."""
    places = np.arange(len(records))
    places[rows] = len(records) + np.arange(len(rows))
    return ar.concatenate([records, better]).take(places.tolist())
