"""The integers that records hold, whatever their coding. Needs no torch: models can be trained on them as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsae.archive import ENTROPY_CODED, Coding, Records, int8_latents, shown
from tsae.entropy import Prior
from tsae.entropy.coder import EntropyCoder
from tsae.errors import CorruptDataError, FormatError, InputError, ModelError
from tsae.model_file import below, read_model_file
from tsae.quantize import LatentQuantizer


def load_entropy_coder(model_file: bytes, source: str) -> EntropyCoder:
    """The entropy coder of a model.

    Args:
        model_file: The whole file.
        source: Its path, for messages.

    Raises:
        ModelError: if the file is damaged or has no tables.
    """
    _, tensors = read_model_file(model_file, source)
    try:
        return EntropyCoder(Prior.from_tensors(below(tensors, "tables.")))
    except ValueError as error:
        raise ModelError(f"{source}: unusable tables ({error}); restore the file or train the model again") from error


LEARNED_SCALE = 0.25
"""Grey levels of a step of the latents of `tsae`, in an orthonormal transform of the pixels: 1/64 of 16."""


def load_scale(model_file: bytes, source: str) -> LatentQuantizer:
    """What turns stored integers into the numbers that they stand for, `offset[c] + scale[c] * value`.

    Args:
        model_file: The whole file.
        source: Its path, for messages.

    Returns:
        The quantiser of `seed-8x8x8`; for `tsae`, one with `LEARNED_SCALE` for all channels.

    Raises:
        ModelError: if the file is damaged or tells no scale.
    """
    _, tensors = read_model_file(model_file, source)
    active = tensors.get("tables.active")  # by quality and channel; there is none where latents are stored as they are
    try:
        if active is None:
            return LatentQuantizer(tensors["quantizer.scale"], tensors["quantizer.offset"])
        channels = active.shape[1]
        return LatentQuantizer(np.full(channels, LEARNED_SCALE, np.float32), np.zeros(channels, np.float32))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"{source}: unusable scales ({error}); restore the file or train the model again") from error


def coding_of(quality: int | None) -> int:
    """The coding of entropy-coded latents at a quality, or of plain ones where a model has no qualities."""
    return int(Coding.LATENTS_INT8) if quality is None else ENTROPY_CODED.start + quality - 1


def stored_latents(
    records: Records, latent_shape: Sequence[int], load_coder: Callable[[], EntropyCoder], channels: int | None = None
) -> NDArray[np.int8] | NDArray[np.int16]:
    """The integers that models train on: plain ones as they are, entropy-coded ones on one scale for all qualities.

    Args:
        records: N of them, of one model.
        latent_shape: `[C, H, W]` of one image, from the manifest or the model.
        load_coder: Gives the model's entropy coder; called only where one is needed.
        channels: The first so many only, or all of them.

    Returns:
        int8 `[N, C, H, W]` for `seed-8x8x8`, int16 for `tsae`.

    Raises:
        CorruptDataError: if a coding is unknown or a stream damaged; the message names the key.
        ModelError: if there is no entropy coder.
        FormatError: if the model has latents of another shape.
        InputError: if there are not so many channels.
    """
    if channels is not None and not 1 <= channels <= latent_shape[0]:
        raise InputError(f"channels {channels}: this model's latents have 1 to {latent_shape[0]}")
    if not is_entropy_coded(records):
        return int8_latents(records, latent_shape)[:, :channels]
    coder = load_coder()
    if tuple(latent_shape) != coder.latent_shape:
        raise FormatError(f"latent_shape {list(latent_shape)[:4]}, its model has {coder.latent_shape}; restore the manifest")
    return decode_latents(records, coder, channels)[0]


def is_entropy_coded(records: Records) -> bool:
    """Whether any of the records needs an entropy coder."""
    return bool(len(records)) and bool(np.isin(records.codings, ENTROPY_CODED).any())


def decode_latents(
    records: Records, coder: EntropyCoder, channels: int | None = None
) -> tuple[NDArray[np.int16], NDArray[np.intp]]:
    """Latents, on one scale for all qualities, and quality of each record.

    Args:
        records: N of them.
        coder: The model's.
        channels: The first so many only, or all of them.

    Returns:
        int16 `[N, C, 8, 8]`, and intp `[N]`.

    Raises:
        CorruptDataError: if a coding is unknown or a stream damaged; the message names the key.
    """
    qualities = records.codings.astype(np.intp) - ENTROPY_CODED.start + 1
    unknown = np.flatnonzero((qualities < 1) | (qualities > coder.prior.qualities))
    if len(unknown):
        row = int(unknown[0])
        raise CorruptDataError(
            f"{shown(records.keys[row])}: coding {records.codings[row]}, this model decodes {ENTROPY_CODED.start} to "
            f"{coding_of(coder.prior.qualities)}; restore the file or update tsae"
        )
    try:
        return coder.decode_latents(records.streams, qualities.tolist(), channels), qualities
    except CorruptDataError as error:
        key: Any = records.keys[error.args[1]]
        raise CorruptDataError(f"{shown(key)}: its stream is damaged or of another model; restore the file") from error
