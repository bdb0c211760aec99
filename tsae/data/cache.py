"""Decoded images that stay in memory, which processes share: what one has decoded in an epoch, all have in the next."""

from __future__ import annotations

import math
import multiprocessing.context
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsae.errors import InputError

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - not for files of ours: what is there is asked only
"""Where Linux keeps memory that processes share; who writes more than it holds is killed."""


class SharedCache:
    """Values of the first images of a data set, filled as they are decoded.

    Nothing is replaced: an epoch takes each image once, so the one that was used last is the one that is needed last, and of
    more images than there is room for, a cache that replaces would have none when it comes. Memory is taken as it is filled.

    Workers of multiprocessing share it, forked or spawned. Any other pickle is an empty cache.
    """

    def __init__(self, images: int, shape: Sequence[int], dtype: torch.dtype, room_bytes: int | None) -> None:
        """Makes room.

        Args:
            images: Number of images of the data set, N.
            shape: Of one image's values.
            dtype: Of them.
            room_bytes: Most bytes of values, and at most half of the memory that can be shared; None for all images.

        Raises:
            InputError: if all images are more than can be shared.
        """
        self._arguments = (images, tuple(shape), dtype, room_bytes)
        item_bytes, free_bytes = max(1, math.prod(shape) * dtype.itemsize), _free_bytes()
        if room_bytes is None and images * item_bytes > free_bytes:
            needed = (
                f"{images} images take {images * item_bytes / 1e6:.0f} MB, of shared memory {free_bytes / 1e6:.0f} MB are free"
            )
            raise InputError(
                f"{needed}; enlarge {SHARED_MEMORY}, or leave preload out, which keeps as many as there is room for"
            )
        places = images if room_bytes is None else min(images, min(room_bytes, free_bytes // 2) // item_bytes)
        self._values = _shared((places, *shape), dtype)
        self._is_there = _shared((images,), torch.uint8).zero_()

    def __reduce__(self) -> tuple[Any, ...]:
        if multiprocessing.context.get_spawning_popen() is None:
            return SharedCache, self._arguments
        return _restored, (self._arguments, self._values, self._is_there)

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the values of each image are there, bool `[N]`."""
        return self._is_there.numpy()[numbers].astype(np.bool_)

    def take(self, numbers: NDArray[np.int64]) -> Tensor:
        """A copy of the values of images that are there, `[N, ...]`."""
        return self._values[torch.from_numpy(numbers)]

    def put(self, numbers: NDArray[np.int64], values: Tensor) -> None:
        """Keeps values as far as there is room; what is not of the cache's shape and dtype is not kept."""
        if values.dtype != self._values.dtype or values.shape[1:] != self._values.shape[1:]:
            return
        fits = torch.from_numpy(numbers) < len(self._values)
        self._values[torch.from_numpy(numbers)[fits]] = values[fits]
        self._is_there[torch.from_numpy(numbers)[fits]] = 1  # last: who reads it finds the values


def _restored(arguments: tuple[Any, ...], values: Tensor, is_there: Tensor) -> SharedCache:
    cache = SharedCache.__new__(SharedCache)
    cache._arguments, cache._values, cache._is_there = arguments, values, is_there
    return cache


def _shared(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory that processes share; `Tensor.share_memory_` would copy, and so take all of it at once."""
    storage = torch.UntypedStorage._new_shared(max(1, math.prod(shape) * dtype.itemsize))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]


def _free_bytes() -> int:
    """How much more memory can be shared, as far as that is known."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):
        return 2**62
    return found.f_bavail * found.f_frsize
