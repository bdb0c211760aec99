"""What is known of each image of an archive that was measured: plain columns, some 100 bytes an image and its key."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """Facts of N images, by column.

    Attributes:
        keys: Of the images.
        labels: None where an image has none.
        sizes_px: The shorter side of the original, int64 `[N]`.
        sizes_bytes: What is stored of the image, stream and lossless file, int64 `[N]`.
        is_exact: Whether a lossless file is stored, bool `[N]`.
        psnrs_db: Of what is decoded, against the original at the archive's size; 100 where it is exact, float64 `[N]`.
        ssims: Likewise, see `tsae.metrics.ssim`, float64 `[N]`.
        lumas: Mean brightness of the original, 0 to 255, float64 `[N]`.
        sharpness: Variance of the Laplacian of the original, float64 `[N]`.
        read_original: What the classifier reads from the original: an index into its classes, int64 `[N]`.
        read_decoded: The same from what is decoded.
        sure_original: Probability of that reading, float64 `[N]`.
        sure_decoded: Likewise.
    """

    keys: list[str]
    labels: list[str | None]
    sizes_px: NDArray[np.int64]
    sizes_bytes: NDArray[np.int64]
    is_exact: NDArray[np.bool_]
    psnrs_db: NDArray[np.float64]
    ssims: NDArray[np.float64]
    lumas: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    read_original: NDArray[np.int64]
    read_decoded: NDArray[np.int64]
    sure_original: NDArray[np.float64]
    sure_decoded: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.keys)

    @classmethod
    def join(cls, parts: Sequence[Facts]) -> Facts:
        """The facts of all parts, in order; at least one part."""
        return cls(*(_join([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(cls)))

    def truths(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """What should be read of each image, as an index into the classes; -1 where no label tells, int64 `[N]`."""
        numbers = {name: number for number, name in enumerate(classes)}
        return np.array([-1 if label is None else numbers.get(label, -1) for label in self.labels], np.int64)


def _join(columns: Sequence[Any]) -> Any:
    return np.concatenate(columns) if isinstance(columns[0], np.ndarray) else list(itertools.chain(*columns))


@dataclasses.dataclass(frozen=True, eq=False)
class Readings:
    """What became of the readings of N images by compression.

    Attributes:
        facts: Of the images.
        classes: Of the classifier.
    """

    facts: Facts
    classes: tuple[str, ...]

    @functools.cached_property
    def truths(self) -> NDArray[np.int64]:
        """See `Facts.truths`."""
        return self.facts.truths(self.classes)

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Where the truth is known, bool `[N]`."""
        return np.asarray(self.truths >= 0)

    @functools.cached_property
    def expected(self) -> NDArray[np.int64]:
        """What the decoded image should be read as: the truth, or else what the original was read as, int64 `[N]`."""
        return np.where(self.is_labelled, self.truths, self.facts.read_original)

    @property
    def right_original(self) -> NDArray[np.bool_]:
        """Whether the original is read as expected, bool `[N]`."""
        return np.asarray(self.facts.read_original == self.expected)

    @property
    def right_decoded(self) -> NDArray[np.bool_]:
        """Whether the decoded image is, bool `[N]`."""
        return np.asarray(self.facts.read_decoded == self.expected)

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """Whether both are read the same, bool `[N]`."""
        return np.asarray(self.facts.read_original == self.facts.read_decoded)

    @property
    def is_lost(self) -> NDArray[np.bool_]:
        """Read from the original and not from the decoded image, bool `[N]`."""
        return np.asarray(self.right_original & ~self.right_decoded)

    @property
    def is_gained(self) -> NDArray[np.bool_]:
        """The other way round, bool `[N]`."""
        return np.asarray(~self.right_original & self.right_decoded)
