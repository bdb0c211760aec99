"""The linear rival: principal components of whole images, fitted on training images. An ideal: no stream is written.

Coefficients are rounded to multiples of one step, and cost what an ideal entropy coder would need that knows, of each
coefficient, how often each value came up among the training images; a value that never did counts as half a time. What the
tables and the matrix cost is left out, so no real coder of this kind would be as small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from rd.points import Coded, Images, Point, describe

CURVE = "PCA, ideal entropy"

STEPS = (8, 11, 16, 23, 32, 45, 64, 90, 128)
"""Steps of the quantiser, in grey levels times the root of the number of values."""

UNSEEN = 0.5
"""How often a value counts that no training image has."""


def pca_points(train: Images, images: Images, report: Callable[[Point], None]) -> list[Point]:
    """An operating point of each step."""
    mean, axes = fit(train)
    of_train, of_images = (project(part, mean, axes) for part in (train, images))
    points = []
    for step in STEPS:
        size, restored = code(of_train, of_images, step)
        decoded = restore(restored, mean, axes)
        points.append(describe(CURVE, f"step {step}", images, Coded(size, decoded)))
        report(points[-1])
    return points


def fit(images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean, `[D]`, and orthonormal axes, `[D, D]`, of images of D values."""
    mean = images.reshape(len(images), -1).mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = sum(part.T @ part for part in _centred(images, mean))
    return mean, np.asarray(np.linalg.eigh(covariance)[1].astype(np.float32))


def project(images: Images, mean: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coefficients of images, `[D, N]`."""
    return np.ascontiguousarray(np.concatenate([part @ axes for part in _centred(images, mean)]).T)


def restore(coefficients: NDArray[np.float32], mean: NDArray[np.float32], axes: NDArray[np.float32]) -> Images:
    """The images of coefficients, `[D, N]`."""
    pixels = np.rint(coefficients.T @ axes.T + mean).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3))


def _centred(images: Images, mean: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(images), 4096):
        part = images[start : start + 4096]
        yield part.reshape(len(part), -1) - mean


def code(of_train: NDArray[np.float32], of_images: NDArray[np.float32], step: float) -> tuple[float, NDArray[np.float32]]:
    """Rounds the coefficients of images, `[D, N]`.

    Returns:
        Bytes an image, and the coefficients as they come back.
    """
    bits, restored = 0.0, np.empty_like(of_images)
    for row, (seen, wanted) in enumerate(zip(of_train, of_images, strict=True)):
        symbols = np.rint(wanted / step).astype(np.int32)
        bits += ideal_bits(np.rint(seen / step).astype(np.int32), symbols)
        restored[row] = symbols * np.float32(step)
    return bits / 8 / of_images.shape[1], restored


def ideal_bits(seen: NDArray[np.int32], symbols: NDArray[np.int32]) -> float:
    """What all symbols cost by the frequencies of those that were seen."""
    low, high = min(seen.min(), symbols.min()), max(seen.max(), symbols.max())
    counts = np.bincount(seen - low, minlength=int(high - low + 1)) + UNSEEN
    return float(np.log2(counts.sum()) * len(symbols) - np.log2(counts[symbols - low]).sum())
