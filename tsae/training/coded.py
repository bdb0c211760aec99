"""Images as codecs bring them back: what a classifier that is to read archives sees among its training images.

Random numbers are torch's.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tsae.codec import Codec
from tsae.zoo import read_model_file

Images = NDArray[np.uint8]

CODED_SHARE = 1 / 8
"""Of each batch, in each of three ways: by `tsae`, by `seed-8x8x8`, and as files, so that no codec is known much better."""

LEARNED_QUALITIES = (2, 6)
"""Of `tsae`, from and to: below, signs can hardly be read; above, little is to be seen of the codec."""

FILE_QUALITIES = (5, 90)
"""Of JPEG and WebP files, from and to."""


def code_some(images: Tensor) -> Tensor:
    """Encodes and decodes a share of a batch.

    Args:
        images: uint8 `[B, 32, 32, 3]`, in random order, since those of the first places are coded; not changed.

    Returns:
        uint8 of the same shape.
    """
    count = round(len(images) * CODED_SHARE)
    if not count:
        return images
    learned, seed, files = images[: 3 * count].cpu().numpy().reshape(3, count, *images.shape[1:])
    coded = np.concatenate([_by_learned(learned), _by_seed(seed), _by_files(files)])
    return torch.cat([torch.from_numpy(coded).to(images.device), images[3 * count :]])


def _by_learned(images: Images) -> Images:
    codec = _codec("tsae")
    qualities = _random_integers(len(images), *LEARNED_QUALITIES)
    return _by_group(images, qualities, lambda part, quality: codec.decode_streams(codec.encode(part, quality)))


def _by_seed(images: Images) -> Images:
    codec = _codec("seed-8x8x8")
    return codec.decode_streams(codec.encode(images))


def _by_files(images: Images) -> Images:
    """A random half of them as JPEG, the others as WebP."""
    return _by_group(images, _random_integers(len(images), 0, 1), lambda part, kind: _by_format(part, FORMATS[kind]))


FORMATS = ("JPEG", "WEBP")


def _by_format(images: Images, file_format: str) -> Images:
    qualities = _random_integers(len(images), *FILE_QUALITIES).tolist()
    return np.stack([_by_file(image, file_format, quality) for image, quality in zip(images, qualities, strict=True)])


def _by_file(image: Images, file_format: str, quality: int) -> Images:
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format, quality=quality)
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))


def _by_group(images: Images, groups: NDArray[np.int64], code: Callable[[Images, int], Images]) -> Images:
    """Codes images of one group at once."""
    found = np.empty_like(images)
    for group in np.unique(groups).tolist():
        rows = groups == group
        found[rows] = code(images[rows], group)
    return found


def _random_integers(count: int, low: int, high: int) -> NDArray[np.int64]:
    """`count` of them from `low` to `high`, both included."""
    return torch.randint(low, high + 1, (count,)).numpy()


@functools.lru_cache
def _codec(name: str) -> Codec:
    """On a CPU, where their bytes and pixels are what they are in archives."""
    return Codec.from_bytes(read_model_file(name), name)
