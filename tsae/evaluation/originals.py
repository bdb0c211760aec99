"""The images that an archive was made of, listed: with their labels, and with those that the archive lacks.

`tsae.originals` finds single ones without listing a folder; here each of them counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.config import IMAGE_SIZE_PX
from tsae.errors import ImageError
from tsae.images import decode_image, resize
from tsae.inputs import Item, Read, list_inputs, map_inputs


class Loaded(NamedTuple):
    """What there is of some keys.

    Attributes:
        rows: Numbers of the keys whose original could be read, ascending.
        images: Those, uint8 `[len(rows), 32, 32, 3]`.
        labels: Of those, as they lie beside the originals; None where there is none.
        missing: Keys without an original.
        unreadable: Keys of originals that cannot be read, each with the reason.
    """

    rows: list[int]
    images: NDArray[np.uint8]
    labels: list[str | None]
    missing: list[str]
    unreadable: list[tuple[str, str]]


class ListedOriginals:
    """An INPUT, listed once. Images are read when they are asked for, and resized as compressing does."""

    def __init__(self, source: str, root: str | None = None) -> None:
        """Lists the input.

        Args:
            source: A folder, tar or Parquet file of images, glob or list; local or URL.
            root: For a list, the folder that its keys are relative to; None is the list's own.

        Raises:
            InputError: if it cannot be listed.
        """
        self.source = source
        self._listing = list_inputs(source, root)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._listing.keys)

    def rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """The number of each key's original; -1 where there is none, int64 `[N]`."""
        return self._listing.find(keys)

    def keys(self, rows: Sequence[int]) -> list[str]:
        """The keys of some originals by number."""
        return [self._listing.keys[row] for row in rows]

    def load(self, keys: Sequence[str]) -> Loaded:
        """The originals of some keys, as far as there are any."""
        found = self.rows(keys)
        there = np.flatnonzero(found >= 0).tolist()
        order = sorted(there, key=lambda number: int(found[number]))
        items = self._listing.items(np.array([found[number] for number in order], np.int64))
        read = dict(zip(order, zip(items, map_inputs(_read, items, self._listing.root), strict=True), strict=True))
        rows = [number for number in there if not isinstance(read[number][1], str)]
        images = [read[number][1] for number in rows]
        return Loaded(
            rows,
            np.stack(images) if images else np.empty((0, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8),
            [read[number][0].label for number in rows],
            [key for key, row in zip(keys, found.tolist(), strict=True) if row < 0],
            [(keys[number], outcome) for number, (_, outcome) in sorted(read.items()) if isinstance(outcome, str)],
        )


def _read(item: Item, read: Read) -> NDArray[np.uint8] | str:
    """Pixels; or why there are none."""
    try:
        return resize(decode_image(read()[0]))
    except ImageError as error:
        return f"{ar.shown(item.key)}: the original cannot be read: {error}"
