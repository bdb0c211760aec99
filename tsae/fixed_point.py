"""Transforms in fixed point: every activation is an integer and every sum exact, whatever computes it in whatever order.

Weights and activations can be held in float32, in which all integers up to 2^24 are exact: `Layer` makes sure that no sum can
leave that range, so neither the order of a sum, nor the batch size, nor fused multiply-add can change a result. What computes
them fast is `tsae.coding.exact`'s matter; `FixedPointTransform.run` says what must come of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT_LIMIT = 2**24
"""All integers up to this magnitude are exact in float32."""

STREAM_LIMIT = 4095
"""Greatest magnitude of the inner representation that blocks add to; its unit is 1/64."""

MIX_LIMIT = 2047
"""Greatest magnitude after the depthwise convolution; its unit is 1/32."""

HIDDEN_LIMIT = 2047
"""Greatest value of a rectified hidden unit; its unit is 1/64."""

KERNEL = 5
"""Side of the depthwise kernels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One convolution: `floor(sum(weight * x) + bias) / 2^shift + 1/2)`, before its result is cut to a range.

    Attributes:
        weight: int16 `[outputs, inputs]` for 1x1, `[channels, 25]` for a depthwise 5x5 (rows of its kernel).
        bias: int32 `[Q, outputs]`, by quality; or one row for all of them.
        shift: int32 `[outputs]`, 1 to 30.
    """

    weight: NDArray[np.int16]
    bias: NDArray[np.int32]
    shift: NDArray[np.int32]

    def check(self, input_limit: int) -> None:
        """Checks types and shapes, and that every sum is exact for inputs up to a magnitude.

        Raises:
            ValueError: if not.
        """
        outputs = len(self.weight)
        good = self.weight.dtype == np.int16 and self.bias.dtype == np.int32 and self.shift.dtype == np.int32
        good = good and self.weight.ndim == 2 and self.bias.ndim == 2 and self.bias.shape[1:] == self.shift.shape == (outputs,)
        if not good or not self.weight.size or not self.bias.size:
            raise ValueError(f"weight {self.weight.shape}, bias {self.bias.shape} and shift {self.shift.shape} do not fit")
        if not ((self.shift >= 1) & (self.shift <= 30)).all():
            raise ValueError("a shift outside 1 to 30")
        sums = np.abs(self.weight.astype(np.int64)).sum(1) * input_limit
        sums = sums + np.abs(self.bias.astype(np.int64)).max(0) + (np.int64(1) << (self.shift.astype(np.int64) - 1))
        if (sums >= EXACT_LIMIT).any():
            raise ValueError(f"a sum that can reach {int(sums.max())}, beyond {EXACT_LIMIT - 1}")

    def to_tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays by name, as a model file stores them."""
        return {f"{name}.{field.name}": getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], name: str) -> Layer:
        """Reads `to_tensors`'s arrays.

        Raises:
            KeyError: if one is missing.
        """
        return cls(*(np.ascontiguousarray(tensors[f"{name}.{field.name}"]) for field in dataclasses.fields(cls)))


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPointTransform:
    """Inputs at 8x8 to outputs at 8x8, in integers.

    ```
    x -> first -> cut to +-4095 -> t
    t -> mix, cut to +-2047 -> expand, cut to 0..2047 -> reduce -> + t, cut to +-4095 -> t      for each block
    t -> last -> y
    ```

    Attributes:
        layers: first; mix, expand and reduce of each block; last.
        input_limit: Greatest magnitude of an input.
    """

    layers: tuple[Layer, ...]
    input_limit: int

    def __post_init__(self) -> None:
        """Checks that the layers fit together and that every sum is exact.

        Raises:
            ValueError: if not.
        """
        if len(self.layers) < 2 or (len(self.layers) - 2) % 3:
            raise ValueError(f"{len(self.layers)} layers: 2 and 3 for each block are needed")
        limits = (MIX_LIMIT, HIDDEN_LIMIT, STREAM_LIMIT)
        width = len(self.layers[0].weight)
        for number, layer in enumerate(self.layers):
            kind = (number - 1) % 3 if 0 < number < len(self.layers) - 1 else None
            layer.check(self.input_limit if number == 0 else STREAM_LIMIT if kind in (None, 0) else limits[kind - 1])
            inputs = layer.weight.shape[1]
            expected = {0: KERNEL * KERNEL, 1: width, 2: len(self.layers[number - 1].weight), None: width}[kind]
            outputs = len(layer.weight) if kind in (None, 1) else width
            if number and (inputs, len(layer.weight)) != (expected, outputs):
                raise ValueError(f"layer {number} is {layer.weight.shape}, not {outputs} times {expected}")
        if len({len(layer.bias) for layer in self.layers} - {1}) > 1:
            raise ValueError("biases for different numbers of qualities")

    @property
    def inputs(self) -> int:
        """Channels that it takes."""
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Channels that it gives."""
        return len(self.layers[-1].weight)

    @property
    def qualities(self) -> int:
        """How many its biases are for."""
        return max(len(layer.bias) for layer in self.layers)

    @property
    def blocks(self) -> int:
        """How many there are of mix, expand and reduce."""
        return len(self.layers) // 3

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(layer.weight.size + layer.bias.size for layer in self.layers)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The layers' arrays by name."""
        named = [layer.to_tensors(str(number)) for number, layer in enumerate(self.layers)]
        return {name: array for tensors in named for name, array in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], input_limit: int) -> FixedPointTransform:
        """Reads `to_tensors`'s arrays.

        Raises:
            ValueError: if they do not fit together.
        """
        numbers = sorted({int(name.split(".")[0]) for name in tensors})
        try:
            return cls(tuple(Layer.from_tensors(tensors, str(number)) for number in range(len(numbers))), input_limit)
        except KeyError as error:
            raise ValueError(f"no {error.args[0]}") from error

    def run(self, x: NDArray[np.int64], quality: int) -> NDArray[np.int64]:
        """Computes in 64-bit integers: what every implementation must give. Slow.

        Args:
            x: int64 `[B, inputs, 8, 8]`, within the input limit.
            quality: 1 to the number of qualities.

        Returns:
            int64 `[B, outputs, 8, 8]`.
        """
        first, *inner, last = self.layers
        t = np.clip(_pointwise(first, x, quality), -STREAM_LIMIT, STREAM_LIMIT)
        for mix, expand, reduce in zip(inner[::3], inner[1::3], inner[2::3], strict=True):
            mixed = np.clip(_depthwise(mix, t, quality), -MIX_LIMIT, MIX_LIMIT)
            hidden = np.clip(_pointwise(expand, mixed, quality), 0, HIDDEN_LIMIT)
            t = np.clip(t + _pointwise(reduce, hidden, quality), -STREAM_LIMIT, STREAM_LIMIT)
        return _pointwise(last, t, quality)


def _pointwise(layer: Layer, x: NDArray[np.int64], quality: int) -> NDArray[np.int64]:
    return _divide(layer, np.einsum("oi,bihw->bohw", layer.weight.astype(np.int64), x), quality)


def _depthwise(layer: Layer, x: NDArray[np.int64], quality: int) -> NDArray[np.int64]:
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (KERNEL // 2, KERNEL // 2), (KERNEL // 2, KERNEL // 2)))
    total = np.zeros_like(x)
    for tap in range(KERNEL * KERNEL):
        row, column = divmod(tap, KERNEL)
        weight = layer.weight[:, tap].astype(np.int64)[:, None, None]
        total += weight * padded[:, :, row : row + height, column : column + width]
    return _divide(layer, total, quality)


def _divide(layer: Layer, total: NDArray[np.int64], quality: int) -> NDArray[np.int64]:
    """Adds the bias and divides by the power of two, to the nearest integer, ties up."""
    bias, shift = layer.bias[min(quality, len(layer.bias)) - 1].astype(np.int64), layer.shift.astype(np.int64)
    rounded = total + (bias + (np.int64(1) << (shift - 1)))[:, None, None]
    return np.asarray(rounded >> shift[:, None, None])


def is_mix(transform: FixedPointTransform, number: int) -> bool:
    """Whether a layer is a depthwise convolution."""
    return 0 < number < len(transform.layers) - 1 and number % 3 == 1


def scaled_layer(transform: FixedPointTransform, number: int, quality: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight `[outputs, inputs]` and bias `[outputs]` of a layer divided by its power of two, which is exact.

    The bias contains the half that makes rounding down round to the nearest, so that `floor(weight * x + bias)` is the result.
    """
    layer = transform.layers[number]
    factor = np.float32(2.0) ** -layer.shift.astype(np.float32)
    half = np.int64(1) << (layer.shift.astype(np.int64) - 1)
    bias = layer.bias[min(quality, len(layer.bias)) - 1] + half
    return layer.weight.astype(np.float32) * factor[:, None], bias.astype(np.float32) * factor
