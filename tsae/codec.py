"""Images to records' streams and back: the only place where networks, quantiser and byte streams meet."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tsae.archive import Records, shown
from tsae.checkpoint import LearnedWeights, Model, SeedWeights, model_from_bytes
from tsae.config import Preprocessing
from tsae.errors import CorruptDataError, ImageError, InputError
from tsae.images import decode_lossless
from tsae.model_facts import check_quality
from tsae.model_file import fingerprint


def choose_device(wanted: str) -> str:
    """Resolves "auto" to "cuda" where a GPU is at hand, else to "cpu".

    Raises:
        InputError: if "cuda" is wanted and there is none.
    """
    if wanted == "cuda" and not _has_gpu():
        raise InputError("device cuda: torch sees no GPU; use --device cpu, or auto")
    return ("cuda" if _has_gpu() else "cpu") if wanted == "auto" else wanted


GPU_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
"""Library of the GPU's driver, by system."""


@functools.cache
def _has_gpu() -> bool:
    """Whether torch can use a GPU; where there is no driver for one, torch need not be imported to know."""
    for name in GPU_DRIVERS:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            break
    else:
        return False
    import torch

    return torch.cuda.is_available()


ENCODED_IMAGES = {"cpu": 256, "cuda": 4096}
"""Images that a job encodes at once: a GPU wants a whole shard, a CPU gains nothing from more and shows progress between."""


class LatentCoding(Protocol):
    """How one architecture turns images into streams and back."""

    def encode(self, images: NDArray[np.uint8], quality: int | None) -> Records:
        """Records of uint8 `[N, 32, 32, 3]` that have streams, codings and where need be lossless images."""

    def decode(self, records: Records) -> NDArray[np.uint8]:
        """Images uint8 `[N, 32, 32, 3]` from the streams of N records."""

    def latents(self, records: Records) -> NDArray[np.int8] | NDArray[np.int16]:
        """The integers that the streams of N records hold."""


class Codec:
    """A model made ready to encode and decode on one device. Holds no state between calls; safe to share."""

    def __init__(self, model: Model, sha256: str, device: str = "cpu") -> None:
        """Makes the networks ready.

        Args:
            model: As read from its file.
            sha256: Digest of that file.
            device: "cpu" or "cuda".

        Raises:
            ModelError: if the device does not compute as exactly as the model needs.
        """
        self.name = model.name
        self.sha256 = sha256
        self.preprocessing: Preprocessing = model.preprocessing
        self.latent_shape = model.weights.latent_shape
        self.qualities = model.weights.qualities
        self.encoded_images = ENCODED_IMAGES[device]
        self._coding = _make_coding(model.weights, device)

    @classmethod
    def from_bytes(cls, model_file: bytes, source: str, device: str = "cpu") -> Codec:
        """Reads a model file; `source` is its path, for messages.

        Raises:
            ModelError: if it cannot be used.
        """
        return cls(model_from_bytes(model_file, source), fingerprint(model_file), device)

    def encode(self, images: NDArray[np.uint8], quality: int | None = None) -> Records:
        """Encodes images.

        Args:
            images: uint8 `[N, 32, 32, 3]`.
            quality: 1 to `qualities`; None for a model that has none.

        Returns:
            N records without keys, sizes, labels and PSNR: `dataclasses.replace` fills them in.

        Raises:
            InputError: if the model has no such quality.
        """
        return self._coding.encode(images, check_quality(quality, self.qualities, self.name))

    def latents(self, records: Records) -> NDArray[np.int8] | NDArray[np.int16]:
        """The integers that streams hold; see `tsae.latents.stored_latents`.

        Args:
            records: N of them.

        Returns:
            int8 or int16 `[N, C, H, W]`.

        Raises:
            CorruptDataError: if a coding is unknown or a stream damaged; the message names the key.
        """
        return self._coding.latents(records)

    def decode(self, records: Records) -> NDArray[np.uint8]:
        """Decodes records to images; those that are stored losslessly as well come back exactly.

        Args:
            records: N of them.

        Returns:
            uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: as `latents`, or if a lossless image is not one.
        """
        images = self.decode_streams(records)
        for row, (key, lossless) in enumerate(zip(records.keys, records.lossless, strict=True)):
            if lossless is not None:
                images[row] = _decode_lossless(key, lossless)
        return images

    def decode_streams(self, records: Records) -> NDArray[np.uint8]:
        """Decodes what is lossy of records, whether or not a lossless image is there.

        Raises:
            CorruptDataError: as `latents`.
        """
        return self._coding.decode(records)


def _make_coding(weights: SeedWeights | LearnedWeights, device: str) -> LatentCoding:
    """Imports what it needs only: that of the entropy coder takes as long as everything else."""
    if isinstance(weights, SeedWeights):
        from tsae.coding.seed import SeedCoding

        return SeedCoding(weights, device)
    from tsae.coding.learned import LearnedCoding

    return LearnedCoding(weights, device)


def _decode_lossless(key: str, file: bytes) -> NDArray[np.uint8]:
    try:
        return decode_lossless(file)
    except ImageError as error:
        raise CorruptDataError(f"{shown(key)}: its lossless image: {error}") from error


SHARED_CODECS = 4
"""Codecs that are kept for the next archive of the same model."""

_shared: dict[tuple[str, str], Codec] = {}


def shared_codec(model_file: bytes, source: str, device: str = "cpu") -> Codec:
    """`Codec.from_bytes`, or the codec of this process that an equal model file has given already.

    Raises:
        ModelError: if it cannot be used.
    """
    key = (fingerprint(model_file), device)
    if key not in _shared:
        while len(_shared) >= SHARED_CODECS:
            _shared.pop(next(iter(_shared)), None)
        _shared[key] = Codec.from_bytes(model_file, source, device)
    return _shared[key]
