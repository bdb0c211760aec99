"""Fixed-point transforms computed fast, and proven: the integers of 64-bit arithmetic, or a refusal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsae.backends import Network, fixed_point_network
from tsae.errors import ModelError
from tsae.fixed_point import FixedPointTransform

PROVEN_BATCHES = (1, 2, 16, 17, 64)
"""Batch sizes at which a network is compared with integers when it is made: libraries may choose differently."""


class FixedPointNetwork:
    """A `FixedPointTransform` on one device. Safe to share."""

    def __init__(self, transform: FixedPointTransform, device: str = "cpu") -> None:
        """Makes the network of the lowest quality, and compares it with integers; others differ from it in biases only.

        Args:
            transform: The integers.
            device: "cpu" or "cuda".

        Raises:
            ModelError: if this device, as its library is set up, does not compute exactly.
        """
        self._transform = transform
        self._device = device
        self._networks: dict[int, Network] = {}
        self._prove()

    def _prove(self) -> None:
        limit = self._transform.input_limit
        x = np.random.default_rng(0).choice(np.array([-limit, -limit // 3, 0, limit]), (2, self._transform.inputs, 8, 8))
        expected = self._transform.run(x, 1)
        for size in PROVEN_BATCHES:
            batch, answer = (np.resize(values, (size, *values.shape[1:])) for values in (x, expected))
            if not np.array_equal(self.run(batch.astype(np.float32), 1), answer):
                raise ModelError(
                    f"device {self._device}: does not compute exactly as its library is set up; "
                    'call torch.set_float32_matmul_precision("highest"), or use another device'
                )

    def run(self, x: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
        """Maps integers to integers, exactly as `FixedPointTransform.run`.

        Args:
            x: Integers in float32 `[B, inputs, 8, 8]`, within the input limit.
            quality: 1 to the number of qualities.

        Returns:
            Integers in float32 `[B, outputs, 8, 8]`.
        """
        if quality not in self._networks:
            self._networks[quality] = fixed_point_network(self._transform, quality, self._device)
        return self._networks[quality](x)
