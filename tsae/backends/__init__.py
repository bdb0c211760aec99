"""How networks are computed: on a CPU by ONNX Runtime (`onnx.py`), on a GPU by torch (`torch.py`), which only then is imported.

Importing torch takes longer than compressing a few thousand images, and more memory than the rest of a worker. ONNX Runtime
computes the same convolutions as fast or faster (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsae.backends.layers import ClassifierLayers, SeedLayers
from tsae.fixed_point import FixedPointTransform

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Float32 `[B, C, H, W]` to float32 `[B, C', H', W']`; may be called by several threads at once."""


class SeedNetworks(NamedTuple):
    """Images `[B, 3, 32, 32]` in 0..1 to latents `[B, 8, 8, 8]`, and back."""

    analysis: Network
    synthesis: Network


def seed_networks(layers: SeedLayers, device: str) -> SeedNetworks:
    """The seed's networks on "cpu" or "cuda"."""
    backend = _backend(device)
    return SeedNetworks(backend.seed_analysis(layers, device), backend.seed_synthesis(layers, device))


def fixed_point_network(transform: FixedPointTransform, quality: int, device: str) -> Network:
    """A network of integers at one quality on "cpu" or "cuda"; whether it is exact is for the caller to prove."""
    network: Network = _backend(device).fixed_point(transform, quality, device)
    return network


def classifier_network(layers: ClassifierLayers, device: str) -> Network:
    """A classifier's network on "cpu" or "cuda": `[B, C, H, W]` to logits `[B, K, 1, 1]`."""
    network: Network = _backend(device).classifier(layers, device)
    return network


def _backend(device: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{'onnx' if device == 'cpu' else 'torch'}")
