"""The layers of the seed's networks as convolutions alone: each batch normalisation folded into the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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
    weight, bias = _plain(tensors, name)
    mean, variance = (tensors[f"{norm}.running_{what}"].astype(np.float64) for what in ("mean", "var"))
    factor = tensors[f"{norm}.weight"] / np.sqrt(variance + BATCH_NORM_EPSILON)
    along_outputs = np.expand_dims(factor, [axis for axis in range(4) if axis != output_axis])
    folded = (bias - mean) * factor + tensors[f"{norm}.bias"]
    return Convolution((weight * along_outputs).astype(np.float32), folded.astype(np.float32))
