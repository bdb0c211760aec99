"""Latents to 8-bit integers and back. Owns the arithmetic; where the numbers are stored is `tsae.checkpoint`'s matter."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

LEVELS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class LatentQuantizer:
    """Uniform scalar quantiser with one scale and one offset per latent channel: `y_hat = offset + scale * q`.

    Attributes:
        scale: Step between neighbouring levels, float32 `[C]`, positive.
        offset: The value that level 0 stands for, float32 `[C]`.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Checks shape, dtype and range.

        Raises:
            ValueError: if they are not finite float32 vectors of one length with positive scales.
        """
        good = self.scale.ndim == 1 and self.scale.shape == self.offset.shape
        good = good and self.scale.dtype == self.offset.dtype == np.float32
        if not good or not np.isfinite(self.offset).all() or not (self.scale > 0).all() or np.isinf(self.scale).any():
            raise ValueError("scale and offset must be finite float32 [C] of one length, scales positive")

    def quantize(self, y: NDArray[np.float32]) -> NDArray[np.int8]:
        """Nearest level of each latent (ties to even), clipped to the 256 that exist.

        Args:
            y: Latents, float32 `[B, C, H, W]`.

        Returns:
            int8 `[B, C, H, W]`.
        """
        q = np.rint((y - self._column(self.offset)) / self._column(self.scale))
        levels: NDArray[np.int8] = np.clip(q, -128, 127).astype(np.int8)
        return levels

    def dequantize(self, q: NDArray[np.int8] | NDArray[np.int16]) -> NDArray[np.float32]:
        """The latents that the levels stand for.

        Args:
            q: Levels, int8 or int16 `[B, C, H, W]`.

        Returns:
            float32 `[B, C, H, W]`.
        """
        return self._column(self.offset) + self._column(self.scale) * q.astype(np.float32)

    def of_first(self, channels: int | None) -> LatentQuantizer:
        """That of so many channels only, or of all."""
        return LatentQuantizer(self.scale[:channels], self.offset[:channels])

    @staticmethod
    def _column(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[:, None, None]


CLIP_CANDIDATES = (0.0, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Shares of the latents of a channel that may be cut off at each end, tried by `fit_quantizer`."""


def fit_quantizer(y: NDArray[np.float32]) -> LatentQuantizer:
    """Chooses each channel's range, among a few quantiles of the data, for the least squared error.

    A few outliers would stretch the step of all latents: cutting them off costs them and serves the rest.

    Args:
        y: Latents of the data to fit, float32 `[N, C, H, W]`.

    Returns:
        The fitted quantiser.

    Raises:
        ValueError: if `y` is empty or not of that shape.
    """
    if y.ndim != 4 or y.size == 0:
        raise ValueError(f"latents of shape {y.shape}: a non-empty [N, C, H, W] is needed")
    ranges = [_best_range(y[:, c].astype(np.float64).ravel()) for c in range(y.shape[1])]
    low, high = (np.array(ends) for ends in zip(*ranges, strict=True))
    scale = np.maximum((high - low) / (LEVELS - 1), 1e-8)  # a constant channel still needs a step
    return LatentQuantizer(scale.astype(np.float32), (low + 128 * scale).astype(np.float32))


def _best_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range among the candidates with the least squared error of quantising `values` to 256 levels."""
    candidates = [tuple(np.quantile(values, (share, 1 - share))) for share in CLIP_CANDIDATES]
    return min(candidates, key=lambda ends: _squared_error(values, *ends))


def _squared_error(values: NDArray[np.float64], low: float, high: float) -> float:
    step = max((high - low) / (LEVELS - 1), 1e-8)
    levels = np.clip(np.rint((values - low) / step), 0, LEVELS - 1)
    return float(np.square(values - (low + step * levels)).mean())
