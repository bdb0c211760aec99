"""Measures of distortion. Owns the formulas only; the data range is always explicit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_squared_error(x: NDArray[np.uint8], x_hat: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean of squared differences of each image.

    Args:
        x: Images, uint8 `[N, H, W, 3]`.
        x_hat: Their reconstructions, uint8 of the same shape.

    Returns:
        float64 `[N]`, in squared grey levels (0 to 65025).

    Raises:
        ValueError: if the shapes differ or the pixels are not uint8.
    """
    if x.shape != x_hat.shape or x.ndim != 4:
        raise ValueError(f"shapes {x.shape} and {x_hat.shape}: two equal [N, H, W, 3] are needed")
    if x.dtype != np.uint8 or x_hat.dtype != np.uint8:
        raise ValueError(f"dtypes {x.dtype} and {x_hat.dtype}: uint8 is needed, or the data range would be a guess")
    difference = x.astype(np.int32) - x_hat.astype(np.int32)  # cast first: uint8 would wrap
    return np.asarray((difference * difference).mean(axis=(1, 2, 3), dtype=np.float64))


def psnr_db(x: NDArray[np.uint8], x_hat: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image, 10 log10(255^2 / MSE), in dB.

    Args:
        x: Images, uint8 `[N, H, W, 3]`; the data range is 255.
        x_hat: Their reconstructions, uint8 of the same shape.

    Returns:
        float64 `[N]` in dB; infinite where the two are equal.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(255.0**2 / mean_squared_error(x, x_hat)))
