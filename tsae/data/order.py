"""Which images make a batch: an order that seed and epoch give, and a share of it for each rank. Needs no torch.

The order is a property of the data set, seed and epoch alone. Ranks and workers take turns in it, so neither changes which
images come, nor which come together in a step of all ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Uneven = Literal["keep", "drop", "pad"]

WINDOW = 64
"""Row groups whose images are mixed with each other: 16 MB of streams, or 30,000 to 80,000 images."""


def epoch_order(groups: NDArray[np.intp], seed: int, epoch: int, window: int = WINDOW) -> NDArray[np.int64]:
    """A permutation of images: row groups in random order, so many at a time, and the images of those in random order.

    Of an archive with no more row groups than `window` all permutations are equally likely. PCG64 gives the same bits in
    every version of numpy, so the order is the same everywhere.

    Args:
        groups: Number of the row group of each image, intp `[N]`.
        seed: 0 or more.
        epoch: 0 or more; another one gives another order.
        window: Row groups that are mixed, 1 or more.

    Returns:
        Numbers of images, int64 `[N]`.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    random = np.random.PCG64([seed, epoch])
    place = np.empty(len(numbers), np.int64)
    place[np.argsort(random.random_raw(len(numbers)), kind="stable")] = np.arange(len(numbers))
    return np.asarray(np.lexsort((random.random_raw(len(groups)), place[group] // window)), np.int64)


@dataclasses.dataclass
class BatchOrder:
    """The batches of one rank: for `DataLoader(..., batch_sampler=)`, which asks for them in the main process.

    With `W` ranks and batches of `B`, step `k` of all ranks together has the images `k * W * B` to `(k + 1) * W * B` of the
    epoch's order, and rank `r` the `r`-th part of them. So a state may be taken up by another number of ranks, with
    batches of another size: it says how many images of the order are done.

    Attributes:
        groups: Number of the row group of each image, intp `[N]`; see `LatentDataset.groups`.
        batch_size: Images of a batch, 1 or more.
        shuffle: Whether in the order of `epoch_order`, or in that of the data set.
        seed: Of the order.
        rank: Number of this rank, below `world_size`.
        world_size: Number of ranks.
        uneven: What is done with the last images, fewer than a batch for each rank. "keep" gives each image to one rank
            once, in a smaller last batch; where there are fewer images than ranks, some ranks have one batch less.
            "drop" leaves them out, and "pad" repeats images from the start of the order so that each rank gets as many:
            with both, all ranks have equally many batches of equal sizes.
        window: Row groups that are mixed.
        epoch: 0 or more.
        images: How many images of the order are done; the batches go on after them.
        fingerprint: Which images these are; states of others are refused. See `LatentDataset`.
    """

    groups: NDArray[np.intp]
    batch_size: int
    shuffle: bool = True
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    uneven: Uneven = "keep"
    window: int = WINDOW
    epoch: int = 0
    images: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: if one is not as described.
        """
        if min(self.batch_size, self.window) < 1 or min(self.seed, self.epoch, self.images) < 0:
            raise ValueError("batch_size and window must be 1 or more; seed, epoch and images 0 or more")
        if not 0 <= self.rank < self.world_size or self.uneven not in ("keep", "drop", "pad"):
            raise ValueError(f"rank {self.rank} of {self.world_size}, uneven {self.uneven!r}")

    @property
    def step(self) -> int:
        """Images of a step of all ranks."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch."""
        self.epoch, self.images = epoch, 0

    def __len__(self) -> int:
        """Batches that are left of the epoch, for this rank."""
        full, rest = divmod(max(0, len(self.groups) - self.images), self.step)
        first, last = self._share(rest)
        return full + (last > first)

    def _share(self, rest: int) -> tuple[int, int]:
        """This rank's part of the last images, fewer than a step; with "pad" beyond their end."""
        if self.uneven == "drop":
            return 0, 0
        size = self.world_size
        if self.uneven == "pad":
            rest = -(-rest // size) * size
        return self.rank * rest // size, (self.rank + 1) * rest // size

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Numbers of the images of each batch, int64 `[B]`."""
        count = len(self.groups)
        order = epoch_order(self.groups, self.seed, self.epoch, self.window) if self.shuffle else np.arange(count)
        start = min(self.images, count)
        whole = count - (count - start) % self.step
        for first in range(start + self.rank * self.batch_size, whole, self.step):
            yield order[first : first + self.batch_size]
        first, last = self._share(count - whole)
        if last > first:
            yield np.concatenate([order[whole:], np.resize(order, self.world_size)])[first:last]

    def state(self, batches: int = 0) -> dict[str, Any]:
        """What `load_state` takes up, JSON values only.

        Args:
            batches: That this rank has had since the order was made, or a state or epoch was set: only who takes them knows.
        """
        images = min(len(self.groups), self.images + batches * self.step)
        return {"seed": self.seed, "epoch": self.epoch, "images": images, **self._facts()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on after the images that are done; seed and epoch become those of the state.

        Raises:
            ValueError: if it is of other images, or of another way to order them.
        """
        other = {name: state.get(name) for name, value in self._facts().items() if state.get(name) != value}
        if other:
            raise ValueError(f"the state is of {other}, not {self._facts()}: what is done of one order says nothing of another")
        self.seed, self.epoch, self.images = (int(state[name]) for name in ("seed", "epoch", "images"))

    def _facts(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "count": len(self.groups),
            "shuffle": self.shuffle,
            "window": self.window,
        }
