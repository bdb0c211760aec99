"""Words and numbers that several layers share. Standard library only; owns no behaviour."""

from __future__ import annotations

import dataclasses
from typing import Any

from tsae.errors import ModelError

IMAGE_SIZE_PX = 32
"""Side of the square that every image is resized to, from the seed's autoencoder."""

RAW_BYTES = IMAGE_SIZE_PX * IMAGE_SIZE_PX * 3
"""Bytes of one resized image as plain RGB: what ratios are measured against."""

SEED_LATENT_SHAPE = (8, 8, 8)
"""Channels, rows and columns of the latents of the seed's autoencoder."""

DEFAULT_MODEL = "tsae"

DEFAULT_CLASSIFIER = "signs-43"

SURE = 0.7
"""Mean probability of what a classifier reads from originals; where it is less, it does not know such images."""

EXIT_FAILURES = 1
"""Of a command that is done, but for some inputs or keys."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image file before a model sees it; stored in model and archive, since latents depend on it.

    Attributes:
        size_px: Side of the square the whole image is resized to.
        resample: Pillow's name of the resampling filter.
        background: What transparent pixels are laid over.
    """

    size_px: int = IMAGE_SIZE_PX
    resample: str = "bilinear"
    background: str = "white"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Preprocessing:
        """Reads `to_json`'s object.

        Raises:
            ModelError: if it asks for anything that this version cannot do.
        """
        known = cls()
        if fields != known.to_json():
            raise ModelError(f"preprocessing {fields} is not {known.to_json()}, the only one this tsae knows; update tsae")
        return known
