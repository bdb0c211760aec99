"""The layers of networks as convolutions alone: each batch normalisation folded into the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH_NORM_EPSILON = 1e-3


class Convolution(NamedTuple):
    """Weight float32 `[out, in, 3, 3]`, of a transposed convolution `[in, out, 3, 3]`, and bias float32 `[out]`."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


class SeedLayers(NamedTuple):
    """The three convolutions of the analysis, and of the synthesis, of which the first two are transposed."""

    analysis: list[Convolution]
    synthesis: list[Convolution]


Then = Literal["rectify", "pool", "blur-pool", "spread"]
"""What follows a convolution.

"rectify": what is negative becomes 0. "pool": that, and the greatest of 2x2. "blur-pool": that, the greatest of 2x2 at every
place (of fewer at the lower and right edge), and the mean of 2x2 of those, so that it matters less where the places lie (Zhang,
*Making convolutional networks shift-invariant again*, 2019). "spread": 16 channels become 4x4 of one.
"""

POOLING: tuple[Then, ...] = ("pool", "blur-pool")
"""What halves rows and columns."""

SPREAD = 4

LEAST_VARIANCE = 0.004
"""Added to the variance of an image before it is divided by its root, so that noise is not all that is left of a flat one."""


def side_after(then: Then, side: int) -> int:
    """Rows of what `then` gives."""
    if then in POOLING:
        return side // 2
    return side * SPREAD if then == "spread" else side


class ClassifierLayers(NamedTuple):
    """A classifier's network, of which batch normalisations are folded already.

    What enters the first convolution that spreads nothing is brought to mean 0 and variance 1 over each image: it does
    not matter how dark or faint that is.

    Attributes:
        scale: What each channel of the input is multiplied by, float32 `[C]`.
        offset: What is added then, float32 `[C]`.
        convolutions: Of 3x3, but the last one, whose kernel is as large as what it sees.
        then: What follows each of them but the last.
        side: Rows and columns of the input.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    convolutions: list[Convolution]
    then: tuple[Then, ...]
    side: int

    def sides(self) -> list[int]:
        """Rows of what each convolution sees, the last one included.

        Raises:
            ValueError: if an odd number would be halved.
        """
        sides = [self.side]
        for what in self.then:
            if what in POOLING and sides[-1] % 2:
                raise ValueError(f"{sides[-1]} rows are to be pooled")
            sides.append(side_after(what, sides[-1]))
        return sides


def seed_layers(tensors: Mapping[str, NDArray[Any]]) -> SeedLayers:
    """Folds `bn(conv(x)) = s (W x + b - mean) / sd + t`, again a convolution, with weights `W s / sd`.

    Args:
        tensors: Of a `SeedAutoencoder`, by torch's names.
    """
    analysis = [_fold(tensors, "g_a.0", "g_a.1", 0), _fold(tensors, "g_a.4", "g_a.5", 0), _plain(tensors, "g_a.8")]
    synthesis = [_fold(tensors, "g_s.0", "g_s.1", 1), _fold(tensors, "g_s.3", "g_s.4", 1), _plain(tensors, "g_s.6")]
    return SeedLayers(analysis, synthesis)


def _plain(tensors: Mapping[str, NDArray[Any]], name: str) -> Convolution:
    return Convolution(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _fold(tensors: Mapping[str, NDArray[Any]], name: str, norm: str, output_axis: int) -> Convolution:
    return fold(_plain(tensors, name), tensors, norm, BATCH_NORM_EPSILON, output_axis)


def fold(
    layer: Convolution, tensors: Mapping[str, NDArray[Any]], norm: str, epsilon: float, output_axis: int = 0
) -> Convolution:
    """A convolution and the batch normalisation after it as one.

    Args:
        layer: The convolution.
        tensors: Hold the normalisation, by torch's names.
        norm: Its name.
        epsilon: What it adds to variances.
        output_axis: Of the weights; 1 for a transposed convolution.
    """
    weight, bias = layer
    mean, variance = (tensors[f"{norm}.running_{what}"].astype(np.float64) for what in ("mean", "var"))
    factor = tensors[f"{norm}.weight"] / np.sqrt(variance + epsilon)
    along_outputs = np.expand_dims(factor, [axis for axis in range(4) if axis != output_axis])
    folded = (bias - mean) * factor + tensors[f"{norm}.bias"]
    return Convolution((weight * along_outputs).astype(np.float32), folded.astype(np.float32))
