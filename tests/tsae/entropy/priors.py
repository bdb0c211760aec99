"""Small priors of arbitrary numbers, the same for ever: nothing here depends on a random generator of a library."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from math import erf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsae.entropy import Prior

TABLE_ROWS, QUALITIES = 12, 3


def numbers(name: str, limit: int, *shape: int) -> NDArray[np.int64]:
    """Within +-limit."""
    data = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * int(np.prod(shape))), "<u4").astype(np.int64)
    return (data % (2 * limit + 1) - limit).reshape(shape)


def table(row: int, offset: int) -> tuple[int, list[int]]:
    """The least difference and the cumulative frequencies of a normal distribution; wider by half an octave a row."""
    sigma, mean = 2 ** (-2.0 + row / 2), (offset - 8) / 16
    reach = max(1, int(2.5 * sigma))
    edges = [0.5 * (1 + erf((k - 0.5 - mean) / sigma / sqrt(2))) for k in range(-reach, reach + 2)]
    inside = [round((high - low) * 32000) + 1 for low, high in itertools.pairwise(edges)]
    inside[reach] += 32768 - sum(inside) - 40  # 40 for the escape
    cumulative = np.cumsum([0, *inside, 40]).tolist()
    return -reach, cumulative


def tensors(
    seed: int = 0, slices: Sequence[int] = (1, 1, 2), owns: int = 1, units: int = 5, strength: int = 1
) -> dict[str, Any]:
    """The arrays of a prior; one channel in four is not active, but for the last quality."""
    channels = sum(slices)
    tables = [table(row, offset) for row in range(TABLE_ROWS) for offset in range(16)]

    def some(name: str, limit: int, *shape: int, dtype: type[np.generic] = np.int32) -> NDArray[Any]:
        return numbers(f"{seed} {name}", limit, *shape).astype(dtype)

    active = some("active", 2, QUALITIES, channels) > -2
    active[-1] = True
    return {
        "slices": np.array(slices, np.int32),
        "active": active.astype(np.uint8),
        "gain": 4096 + some("gain", 3000, QUALITIES, channels),
        "step": 1024 + some("step", 700, QUALITIES, channels),
        "log_gain": 5 * 2**18 + some("log_gain", 2**18, QUALITIES, channels),
        "field_start": some("field_start", 20000, QUALITIES, units),
        "field_position": some("field_position", 20000, 64, units),
        "field_weight": some("field_weight", 100 * strength, channels, 9, 2, units, dtype=np.int16),
        "own_weight": some("own_weight", 100 * strength, owns, 12, 2, units, dtype=np.int16),
        "mean_start": some("mean_start", 40000, channels, 64),
        "mean_head": some("mean_head", 100 * strength, channels, units, dtype=np.int16),
        "mean_causal": some("mean_causal", 1000 * strength, channels, 12),
        "scale_start": some("scale_start", 2**18, channels, 64),
        "scale_head": some("scale_head", 100 * strength, channels, units, dtype=np.int16),
        "scale_causal": some("scale_causal", 1000 * strength, channels, 12),
        "magnitude": np.array([16 * k.bit_length() for k in range(256)], np.int32),
        "table_least": np.array([least for least, _ in tables], np.int32),
        "table_first": np.cumsum([0] + [len(cumulative) for _, cumulative in tables], dtype=np.int32),
        "cumulative": np.concatenate([cumulative for _, cumulative in tables]).astype(np.uint16),
    }


def prior(**options: Any) -> Prior:
    """The prior of these arrays."""
    return Prior(**tensors(**options))
