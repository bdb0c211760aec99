"""Images to records' streams and back: the only place where networks, quantiser and byte streams meet.

Networks run in micro-batches of one fixed size, the last one filled up, so that an image's latents depend neither on
how many images came with it nor on which: float32 convolutions may differ in the last bit between batch sizes.
What that does and does not promise is said, with figures, in `docs/FORMAT.md`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsae.archive import Coding, Records, int8_latents, shown
from tsae.checkpoint import Model, fingerprint, model_from_bytes
from tsae.config import Preprocessing
from tsae.errors import CorruptDataError, ImageError, InputError
from tsae.images import decode_lossless
from tsae.model import fold_batch_norm, to_network_input

ANALYSIS_BATCH = {"cpu": 16, "cuda": 1024}
"""Images per call when encoding: on a CPU, activations of 16 images stay in cache (fastest of 1 to 32 within noise)."""

SYNTHESIS_BATCH = {"cpu": 2, "cuda": 1024}
"""Images per call when decoding: 390 us an image for 2, 353 for 4, 364 for 16, and one alone waits for its whole batch."""


def choose_device(wanted: str) -> str:
    """Resolves "auto" to "cuda" where a GPU is at hand, else to "cpu".

    Raises:
        InputError: if "cuda" is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this torch sees no GPU; use --device cpu, or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


class Codec:
    """A model made ready to encode and decode on one device. Holds no state between calls; safe to share."""

    def __init__(self, model: Model, sha256: str, device: str = "cpu") -> None:
        """Folds the batch normalisation and moves the network.

        Args:
            model: As read from its file.
            sha256: Digest of that file.
            device: "cpu" or "cuda".
        """
        self.name = model.name
        self.sha256 = sha256
        self.preprocessing: Preprocessing = model.preprocessing
        self.latent_shape = model.network.latent_shape
        self.coding = Coding.LATENTS_INT8
        self._quantizer = model.quantizer
        self._device = device
        self._network = fold_batch_norm(model.network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_bytes(cls, model_file: bytes, source: str, device: str = "cpu") -> Codec:
        """Reads a model file; `source` is its path, for messages.

        Raises:
            ModelError: if it cannot be used.
        """
        return cls(model_from_bytes(model_file, source), fingerprint(model_file), device)

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """Encodes images to streams of the codec's `coding`.

        Args:
            images: uint8 `[N, 32, 32, 3]`.

        Returns:
            N streams.
        """
        return [latents.tobytes() for latents in self.encode_latents(images)]

    def encode_latents(self, images: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Encodes images, uint8 `[N, 32, 32, 3]`, to integers, int8 `[N, C, H, W]`."""
        y = self._run(self._network.analysis, to_network_input(images), ANALYSIS_BATCH[self._device])
        return self._quantizer.quantize(y)

    def latents(self, records: Records) -> NDArray[np.int8]:
        """The integers that streams hold.

        Args:
            records: N of them.

        Returns:
            int8 `[N, C, H, W]`.

        Raises:
            CorruptDataError: if a coding is unknown or a stream has the wrong length; the message names the key.
        """
        return int8_latents(records, self.latent_shape)

    def decode(self, records: Records) -> NDArray[np.uint8]:
        """Decodes records to images; those that are stored losslessly as well come back exactly.

        Args:
            records: N of them.

        Returns:
            uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: as `latents`, or if a lossless image is not one.
        """
        images = self.decode_latents(self.latents(records))
        for row, (key, lossless) in enumerate(zip(records.keys, records.lossless, strict=True)):
            if lossless is not None:
                images[row] = _decode_lossless(key, lossless)
        return images

    def decode_latents(self, latents: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Decodes integers to images.

        Args:
            latents: int8 `[N, C, H, W]`.

        Returns:
            uint8 `[N, 32, 32, 3]`.
        """
        y_hat = self._quantizer.dequantize(latents)
        x_hat = self._run(self._network.synthesis, y_hat, SYNTHESIS_BATCH[self._device])
        pixels: NDArray[np.uint8] = np.rint(x_hat * np.float32(255)).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    @torch.inference_mode()
    def _run(self, function: Callable[[Tensor], Tensor], inputs: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        """Maps float32 `[N, C, H, W]` through a network, in micro-batches of one size."""
        outputs = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            batch = torch.from_numpy(filled).to(self._device).contiguous(memory_format=torch.channels_last)
            outputs.append(function(batch)[: len(part)].contiguous().cpu().numpy())
        return np.concatenate(outputs) if outputs else function(torch.zeros(1, *inputs.shape[1:]))[:0].cpu().numpy()


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
