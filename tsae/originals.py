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


class MissingError(ImageError):
    """A listing of the originals does not have that key."""


class Originals:
    """Reads originals. Safe to share between threads."""

    def __init__(self, source: str, root: str | None = None, is_listed: bool = False) -> None:
        """Lists what the source names, unless it is a folder: there a key says where its file is.

        Args:
            source: INPUT as `compress` takes it: a folder, a container, a glob or a list; local or URL.
            root: For a list, the folder that its keys are relative to; None is the list's own.
            is_listed: Whether to list a folder as well, as `listing` and `labels` need it.

        Raises:
            InputError: if it is not there or names no image, or there is a root for what is no list.
        """
        self.source = source
        try:
            is_folder = paths.kind(source) == "folder"
        except OSError as error:
            raise InputError(f"{source}: cannot be read ({error.strerror or error}); check the path") from error
        does_list = is_listed or not is_folder or root is not None  # which for a folder is refused
        self._listing = list_inputs(source, root) if does_list else None

    @property
    def listing(self) -> Listing:
        """All of them.

        Raises:
            ValueError: for a folder that was not to be listed.
        """
        if self._listing is None:
            raise ValueError(f"{self.source}: is not listed")
        return self._listing

    def labels(self, keys: Sequence[str]) -> list[str | None]:
        """The label that lies beside the original of each key; None where there is none, or no original."""
        rows = self.listing.find(keys)
        found = iter(self.listing.items(rows[rows >= 0]))
        return [next(found).label if row >= 0 else None for row in rows.tolist()]

    def map(self, function: Callable[[Image.Image], T], keys: Sequence[str]) -> list[T | ImageError]:
        """What a function makes of the original of each key, an RGB image of its own size.

        Where there is none, or it is no image, the reason; that is a `MissingError` if a listing does not have the key.
        """

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
        if self._listing is None:
            faults = [key_fault(key) for key in keys]
            return [ImageError(fault) if fault else Item(key) for key, fault in zip(keys, faults, strict=True)]
        rows = self._listing.find(keys)
        found = iter(self._listing.items(rows[rows >= 0]))
        return [next(found) if row >= 0 else MissingError("is not among what was named") for row in rows.tolist()]


def open_originals(source: str | None, root: str | None = None) -> Originals | None:
    """The originals that a command may be given; None without a source.

    Raises:
        InputError: as `Originals`, or if there is a root alone.
    """
    if source is None and root is not None:
        raise InputError(f"--root {root}: is for a list of originals; name that with --originals")
    return None if source is None else Originals(source, root)
