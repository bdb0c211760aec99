"""The images that an archive was made from, by key: read again where INPUT of `compress` names them, never kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from PIL import Image

from tsae import paths
from tsae.archive import key_fault
from tsae.errors import ImageError, InputError
from tsae.images import decode_image
from tsae.inputs import Item, Listing, Read, list_inputs, map_inputs

T = TypeVar("T")


class Originals:
    """Reads originals. Safe to share between threads."""

    def __init__(self, source: str) -> None:
        """Lists what the source names, unless it is a folder: there a key says where its file is.

        Args:
            source: INPUT as `compress` takes it: a folder, a container, a glob or a list.

        Raises:
            InputError: if it is not there, or names no image.
        """
        self.source = source
        self._listing: Listing | None = None
        try:
            is_folder = paths.kind(source) == "folder"
        except OSError as error:
            raise InputError(f"{source}: cannot be read ({error.strerror or error}); check the path") from error
        if not is_folder:
            self._listing = list_inputs(source)

    def map(self, function: Callable[[Image.Image], T], keys: Sequence[str]) -> list[T | ImageError]:
        """What a function makes of the original of each key, an RGB image of its own size, or why there is none."""

        def make(item: Item, read: Read) -> T | ImageError:
            try:
                return function(decode_image(read()[0]))
            except ImageError as error:
                return error

        items = self._find(keys)
        there = iter(map_inputs(make, [item for item in items if isinstance(item, Item)], self._root))
        return [next(there) if isinstance(item, Item) else item for item in items]

    @property
    def _root(self) -> str:
        return paths.absolute(self.source) if self._listing is None else self._listing.root

    def _find(self, keys: Sequence[str]) -> list[Item | ImageError]:
        """Where the original of each key is."""
        faults = [key_fault(key) for key in keys]
        if self._listing is None:
            return [ImageError(fault) if fault else Item(key) for key, fault in zip(keys, faults, strict=True)]
        rows = self._listing.find(keys)
        found = iter(self._listing.items(rows[rows >= 0]))
        return [
            next(found) if row >= 0 else ImageError("is not among what was named")
            for key, row in zip(keys, rows.tolist(), strict=True)
        ]
