"""Batches of symbols to streams and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsae.entropy.arrays import (
    GRID,
    SPARE_BYTES,
    STREAM_BYTES_A_SYMBOL,
    SYMBOL_LIMIT,
)
from tsae.entropy.kernels import Workspace, code_images
from tsae.entropy.prior import Prior
from tsae.errors import CorruptDataError

QUANTIZE_SHIFT = 18
"""Latents have 6 fractional bits, gains 12."""


class EntropyCoder:
    """Codes symbols under a prior. Holds no state between calls; safe to share between threads."""

    def __init__(self, prior: Prior) -> None:
        """Takes the tables.

        Args:
            prior: Of the model.
        """
        self.prior = prior
        self._arrays = prior.arrays()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`[C, H, W]` of one image."""
        return (self.prior.channels, GRID, GRID)

    def encode(self, symbols: NDArray[np.int16], quality: int) -> list[bytes]:
        """Codes each image by itself.

        Args:
            symbols: int16 `[N, C, 8, 8]`, within +-1023; 0 in channels that are not active at this quality.
            quality: 1 to the number of qualities.

        Returns:
            N streams.

        Raises:
            ValueError: if there is no such quality, or symbols are not as above.
        """
        if not 1 <= quality <= self.prior.qualities or symbols.shape[1:] != (self.prior.channels, GRID, GRID):
            raise ValueError(f"symbols {symbols.shape} of quality {quality}")
        streams = np.empty(symbols.size * STREAM_BYTES_A_SYMBOL + SPARE_BYTES, np.uint8)
        ends = np.zeros(len(symbols) + 1, np.int64)
        rows = np.full(len(symbols), quality - 1)
        row = self._code(rows, True, False, symbols.flatten(), streams, ends, self.prior.channels)
        if row < len(symbols):
            raise ValueError(f"image {row} has a symbol beyond +-{SYMBOL_LIMIT}, or one in a channel that is not active")
        return [streams[start:end].tobytes() for start, end in itertools.pairwise(ends.tolist())]

    def decode(self, streams: Sequence[bytes], qualities: Sequence[int], channels: int | None = None) -> NDArray[np.int16]:
        """The symbols that streams hold.

        Args:
            streams: N of them.
            qualities: The quality of each.
            channels: The first so many only, or all. What streams hold beyond is not decoded, where damage may go unnoticed.

        Returns:
            int16 `[N, C, 8, 8]`.

        Raises:
            CorruptDataError: if one is no stream of its quality; its `args[1]` is the stream's number.
            ValueError: if there are not so many channels.
        """
        return self._decode(streams, qualities, channels, dequantizes=False)

    def decode_latents(
        self, streams: Sequence[bytes], qualities: Sequence[int], channels: int | None = None
    ) -> NDArray[np.int16]:
        """The latents that the symbols of streams stand for, on one scale for all qualities; else as `decode`.

        Returns:
            int16 `[N, C, 8, 8]`, within +-4095.
        """
        return self._decode(streams, qualities, channels, dequantizes=True)

    def _decode(
        self, streams: Sequence[bytes], qualities: Sequence[int], channels: int | None, *, dequantizes: bool
    ) -> NDArray[np.int16]:
        rows = np.array(qualities, np.int64) - 1
        unknown = np.flatnonzero((rows < 0) | (rows >= self.prior.qualities))
        if len(unknown):
            row = int(unknown[0])
            raise CorruptDataError(f"stream {row} has quality {qualities[row]}, not 1 to {self.prior.qualities}", row)
        decoded = self._slices_to(channels)
        symbols = np.empty(len(streams) * decoded * GRID * GRID, np.int16)
        ends = np.cumsum([0, *map(len, streams)])
        # A copy that can be written to: for numba, what is read-only is another type, and compiled anew.
        row = self._code(rows, False, dequantizes, symbols, np.frombuffer(bytearray().join(streams), np.uint8), ends, decoded)
        if row < len(streams):
            raise CorruptDataError(f"stream {row} is no stream of quality {qualities[row]}", row)
        return symbols.reshape(len(streams), decoded, GRID, GRID)[:, :channels]

    def _slices_to(self, channels: int | None) -> int:
        """Number of channels of all slices that the first `channels` are in."""
        if channels is None:
            return self.prior.channels
        if not 1 <= channels <= self.prior.channels:
            raise ValueError(f"{channels} channels of {self.prior.channels}")
        ends: list[int] = np.cumsum(self._arrays.slices).tolist()
        return next(end for end in ends if end >= channels)

    def _code(
        self,
        rows: NDArray[np.int64],
        encodes: bool,
        dequantizes: bool,
        symbols: NDArray[np.int16],
        streams: NDArray[np.uint8],
        ends: NDArray[np.int64],
        channels: int,
    ) -> int:
        work = Workspace.of(self._arrays)
        return code_images(self._arrays, work, rows, encodes, dequantizes, symbols, streams, ends, channels)

    def quantize(self, y: NDArray[np.int32], quality: int) -> NDArray[np.int16]:
        """The nearest symbols of latents; 0 where a channel is not active.

        Args:
            y: int32 `[N, C, 8, 8]`, in units of dequantised latents, within +-2^20.
            quality: 1 to the number of qualities.
        """
        gain = (self.prior.gain[quality - 1] * self.prior.active[quality - 1]).astype(np.int64)[:, None, None]
        symbols = (y * gain + (1 << (QUANTIZE_SHIFT - 1))) >> QUANTIZE_SHIFT
        clipped: NDArray[np.int16] = np.clip(symbols, -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int16)
        return clipped
