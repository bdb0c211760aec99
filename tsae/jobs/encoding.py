"""Images to records as the settings of a job say: measured, readable, above a floor of PSNR. Owns neither files nor tasks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.config import DEFAULT_CLASSIFIER
from tsae.errors import ModelError
from tsae.images import encode_lossless
from tsae.metrics import psnr_db

if TYPE_CHECKING:
    from tsae.codec import Codec

Images = NDArray[np.uint8]

Read = Callable[[Images], NDArray[np.intp]]
"""What is read from images uint8 `[N, 32, 32, 3]`: a number for each, intp `[N]`."""


class Kept(NamedTuple):
    """What it took that images can be read as their originals.

    Attributes:
        images: How many were stored better than asked for.
        bytes: That they take more.
    """

    images: int = 0
    bytes: int = 0

    def plus(self, other: Kept) -> Kept:
        """The sum of both."""
        return Kept(self.images + other.images, self.bytes + other.bytes)


NONE_KEPT = Kept()


def encode_chunk(images: Images, codec: Codec, settings: ar.Settings) -> tuple[ar.Records, Kept]:
    """Encodes images as the settings say.

    Args:
        images: uint8 `[N, 32, 32, 3]`.
        codec: The model.
        settings: Of the job.

    Returns:
        Records, whose keys, sizes and labels are still to be filled in, and what it took to keep them readable.

    Raises:
        ModelError: if the settings ask for a classifier that this tsae does not have.
    """
    records, decoded = _encode(images, codec, settings.quality, settings.verify)
    kept = NONE_KEPT
    if settings.keep_readable is not None:
        before = _size_bytes(records)
        records, count = keep_readable(images, records, decoded, codec, settings.quality, load_reader(settings.keep_readable))
        kept = Kept(count, _size_bytes(records) - before)
    floor_db = -math.inf if settings.min_psnr_db is None else settings.min_psnr_db
    rows = zip(images, records.psnrs_db, records.lossless, strict=True)
    lossless = [encode_lossless(x) if file is None and psnr < floor_db else file for x, psnr, file in rows]
    return dataclasses.replace(records, lossless=lossless), kept


def _encode(images: Images, codec: Codec, quality: int | None, verify: bool) -> tuple[ar.Records, Images]:
    """Records and, if that is asked for, what their streams decode to; else no images."""
    records = codec.encode(images, quality)
    if not verify:
        return records, images[:0]
    decoded = codec.decode_streams(records)
    return dataclasses.replace(records, psnrs_db=ar.stored_psnr_db(psnr_db(images, decoded))), decoded


def _size_bytes(records: ar.Records) -> int:
    return sum(map(len, records.streams)) + sum(len(file) for file in records.lossless if file is not None)


def keep_readable(
    images: Images, records: ar.Records, decoded: Images, codec: Codec, quality: int | None, read: Read
) -> tuple[ar.Records, int]:
    """Has each image read as its original: what is not is encoded at the lowest higher quality that will do, else losslessly.

    Args:
        images: The originals, uint8 `[N, 32, 32, 3]`.
        records: As encoded.
        decoded: What their streams decode to, as the images.
        codec: The model.
        quality: At which they were encoded; None for a model that has none.
        read: Reads images.

    Returns:
        The records, some of them replaced, and how many.
    """
    wanted = read(images)
    lost = np.flatnonzero((read(decoded) != wanted) & ~_are_exact(records))
    count = len(lost)
    for higher in range((quality or 0) + 1, codec.qualities + 1):
        if not len(lost):
            break
        better, seen = _encode(images[lost], codec, higher, verify=True)
        is_read = (read(seen) == wanted[lost]) | _are_exact(better)
        places = np.arange(len(records))
        places[lost[is_read]] = len(records) + np.flatnonzero(is_read)
        records = ar.concatenate([records, better]).take(places.tolist())
        lost = lost[~is_read]
    lossless = list(records.lossless)
    for row in lost.tolist():
        lossless[row] = encode_lossless(images[row])
    return dataclasses.replace(records, lossless=lossless), count


def _are_exact(records: ar.Records) -> NDArray[np.bool_]:
    """Which come back exactly, bool `[N]`."""
    return np.array([file is not None for file in records.lossless], bool)


@functools.lru_cache(maxsize=1)
def load_reader(sha256: str) -> Read:
    """The classifier of a digest, which must be the one that comes with this tsae.

    Raises:
        ModelError: if it is another one.
    """
    from tsae.classifier import load_classifier

    classifier = load_classifier()
    if classifier.sha256 != sha256:
        found = f"{DEFAULT_CLASSIFIER} of this tsae is {classifier.sha256[:16]}..., not {sha256[:16]}... as the job asks"
        raise ModelError(f"{found}; use one version of tsae on all machines, or start anew with --overwrite")
    return lambda images: classifier.probabilities(images).argmax(1)
