"""The model that a training goes on from."""

from __future__ import annotations

from typing import TypeVar

from tsae.checkpoint import LearnedWeights, SeedWeights, model_from_bytes
from tsae.errors import InputError
from tsae.zoo import read_model_file

W = TypeVar("W", SeedWeights, LearnedWeights)


def read_start(start: str, architecture: type[W]) -> W:
    """The weights of a model of one architecture.

    Args:
        start: Its name, or its file.
        architecture: What they must be.

    Raises:
        InputError: if it is of another architecture.
        ModelError: if it cannot be read.
    """
    weights = model_from_bytes(read_model_file(start), start).weights
    if not isinstance(weights, architecture):
        raise InputError(f"start {start}: is a model of {weights.architecture}; name one of {architecture.architecture}")
    return weights
