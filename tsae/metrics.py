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
    _check_pair(x, x_hat)
    difference = x.astype(np.int32) - x_hat.astype(np.int32)  # cast first: uint8 would wrap
    return np.asarray((difference * difference).mean(axis=(1, 2, 3), dtype=np.float64))


def _check_pair(x: NDArray[np.uint8], x_hat: NDArray[np.uint8]) -> None:
    if x.shape != x_hat.shape or x.ndim != 4:
        raise ValueError(f"shapes {x.shape} and {x_hat.shape}: two equal [N, H, W, 3] are needed")
    if x.dtype != np.uint8 or x_hat.dtype != np.uint8:
        raise ValueError(f"dtypes {x.dtype} and {x_hat.dtype}: uint8 is needed, or the data range would be a guess")


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


SSIM_TAPS, SSIM_SIGMA_PX = 11, 1.5
"""Side of the window and width of its Gaussian, from the paper."""

SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""What keeps its fractions from dividing by zero, with the paper's K1 and K2, in squared grey levels."""

SSIM_BATCH = 256
"""Images at once: 15 arrays of 24 kB each of them, so some 90 MB."""


def ssim(x: NDArray[np.uint8], x_hat: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity of each image (Wang, Bovik, Sheikh, Simoncelli 2004, section III).

    On each of red, green and blue, with a Gaussian window of 11x11 pixels and sigma 1.5, where the window lies wholly in the
    image (22x22 places of 32x32), variances divided by the weights' sum; the mean over places and colours.

    Args:
        x: Images, uint8 `[N, H, W, 3]`, of at least 11x11 pixels; the data range is 255.
        x_hat: Their reconstructions, uint8 of the same shape.

    Returns:
        float64 `[N]`, 1 where the two are equal, at least -1.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    _check_pair(x, x_hat)
    if min(x.shape[1:3]) < SSIM_TAPS:
        raise ValueError(f"images of {x.shape[2]}x{x.shape[1]} px: {SSIM_TAPS}x{SSIM_TAPS} are needed at least")
    down, across = _gaussian_rows(x.shape[1]), _gaussian_rows(x.shape[2])
    parts = [
        _ssim(x[start : start + SSIM_BATCH], x_hat[start : start + SSIM_BATCH], down, across)
        for start in range(0, len(x), SSIM_BATCH)
    ]
    return np.concatenate([np.empty(0), *parts])


def _gaussian_rows(size_px: int) -> NDArray[np.float64]:
    """The matrix that filters a line of pixels at all places where the window fits: float64 `[size - 10, size]`."""
    offsets = np.arange(SSIM_TAPS) - SSIM_TAPS // 2
    taps = np.exp(-(offsets**2) / (2 * SSIM_SIGMA_PX**2))
    rows = np.zeros((size_px - SSIM_TAPS + 1, size_px))
    for place in range(len(rows)):
        rows[place, place : place + SSIM_TAPS] = taps / taps.sum()
    return rows


def _ssim(
    x: NDArray[np.uint8], x_hat: NDArray[np.uint8], down: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.float64]:
    def filtered(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(down @ values @ across.T)

    a, b = (np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float64) for images in (x, x_hat))
    mean_a, mean_b = filtered(a), filtered(b)
    variance_a, variance_b = filtered(a * a) - mean_a**2, filtered(b * b) - mean_b**2
    covariance = filtered(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    most = (mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2)
    return np.asarray((likeness / most).mean((1, 2, 3)))


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def mean_luma(x: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Brightness of each image: float64 `[N]`, 0 (black) to 255, of uint8 `[N, H, W, 3]`."""
    return np.asarray(x.mean((1, 2), dtype=np.float64) @ np.array(LUMA))


def laplacian_variance(x: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sharpness of each image: the variance of the Laplacian of its luma, low where an image is blurred or flat.

    The Laplacian is the sum of the four neighbours less four times the pixel, where all four are in the image.

    Args:
        x: uint8 `[N, H, W, 3]`, at least 3x3 pixels.

    Returns:
        float64 `[N]`, in squared grey levels.
    """
    luma = x.astype(np.float32) @ np.array(LUMA, np.float32)
    neighbours = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return np.asarray((neighbours - 4 * luma[:, 1:-1, 1:-1]).var((1, 2), dtype=np.float64))
