"""What can be told of a model without its networks: needs neither torch nor the entropy coder, which take seconds to import."""

from __future__ import annotations

import dataclasses

from tsae.config import SEED_LATENT_SHAPE, Preprocessing
from tsae.errors import InputError, ModelError
from tsae.model_file import CLASSIFIER, read_model_file
from tsae.zoo import names

DEFAULT_QUALITY = 5
"""About 34 dB on GTSRB: what is readable in the original is readable in what comes back."""


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Facts of a model.

    Attributes:
        name: What users call it.
        latent_shape: `[C, H, W]` of one image.
        qualities: How many operating points it has; 0 for a single one without a name.
        preprocessing: What images must go through first.
    """

    name: str
    latent_shape: tuple[int, int, int]
    qualities: int
    preprocessing: Preprocessing


def read_model_facts(model_file: bytes, source: str) -> ModelFacts:
    """Reads the facts; whether the model can be used is found out by `tsae.codec`.

    Args:
        model_file: The whole file.
        source: Its path, for messages.

    Raises:
        ModelError: if the file is damaged, of a newer version, or no codec.
    """
    header, tensors = read_model_file(model_file, source)
    if header["architecture"] == CLASSIFIER:
        raise ModelError(f"{source}: is a classifier, which compresses nothing; name one of {', '.join(names('codec'))}")
    active = tensors.get("tables.active")  # by quality and channel
    if active is not None and active.ndim != 2:
        raise ModelError(f"{source}: unusable tables ({active.ndim} axes); restore the file or train the model again")
    qualities, channels = active.shape if active is not None else (0, SEED_LATENT_SHAPE[0])
    shape = (channels, *SEED_LATENT_SHAPE[1:])  # all models have this grid
    return ModelFacts(header["name"], shape, qualities, Preprocessing.from_json(header["preprocessing"]))


def check_quality(quality: int | None, qualities: int, model: str) -> int | None:
    """A quality that a model has: the one that is asked for, else its default, else None.

    Raises:
        InputError: if it has no such quality.
    """
    if not qualities:
        if quality is not None:
            raise InputError(f"quality {quality}: model {model} has none; leave it out, or choose the model tsae")
        return None
    if quality is None:
        return min(DEFAULT_QUALITY, qualities)
    if not 1 <= quality <= qualities:
        raise InputError(f"quality {quality}: model {model} has 1 to {qualities}; choose one of them")
    return quality
