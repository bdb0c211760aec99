"""Single images for the page: the original and what is decoded, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsae.images import encode_image, resize
from tsae.originals import Originals
from tsae.reader import Archive

BATCH_IMAGES = 256
"""Pictures whose records are read at once."""


class Pair(NamedTuple):
    """Data URIs of an original and of what is decoded."""

    original: str
    decoded: str


def picture_pairs(archive: Archive, originals: Originals, keys: Sequence[str]) -> dict[str, Pair]:
    """The pictures of some images that were measured, by key.

    Raises:
        TsaeError: if the archive or an original was damaged or removed meanwhile.
    """
    wanted, pairs = list(dict.fromkeys(keys)), dict[str, Pair]()
    for start in range(0, len(wanted), BATCH_IMAGES):
        some = wanted[start : start + BATCH_IMAGES]
        for key, original, decoded in zip(some, originals.map(resize, some), archive.decode(some), strict=True):
            if isinstance(original, np.ndarray):
                pairs[key] = Pair(_uri(original), _uri(decoded))
    return pairs


def _uri(image: NDArray[np.uint8]) -> str:
    return png_uri(encode_image(image, "png"))


def png_uri(png: bytes) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
