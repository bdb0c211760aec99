"""Reading what a listing names: files one by one, members container by container, in the order of their places."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from tsae import paths
from tsae.archive.records import key_fault
from tsae.errors import ImageError
from tsae.images import MAX_FILE_BYTES
from tsae.inputs.containers import ChangedError, check_unchanged, container_path, is_tar
from tsae.inputs.listing import Item
from tsae.inputs.tables import one_line, read_rows
from tsae.inputs.tars import read_tar_member

REMOTE_READERS = 16
"""Files of a remote store that are asked for at once: waiting dominates there."""

DISK_READERS = 8
"""Files of a local disk that are fetched at once, once reading has turned out to wait for it."""

AHEAD = 64
"""Files between those that are read and those that are fetched meanwhile."""

SLOW_READ_S = 0.0002
"""Mean time of a read that shows that files come from a disk: from memory they take a tenth of that."""

T = TypeVar("T")
Content = tuple[bytes, paths.FileFacts]
Read = Callable[[], Content]
"""Gives the bytes of an image and the state that they are of; raises `ImageError`, with the reason."""


class ContainerError(ImageError):
    """The container of an image could not be reached; what is in it may be intact."""


State = tuple[int | None, str | None]
"""Size in bytes and version; None where one cannot be told."""


def is_same(state: State, other: State) -> bool:
    """Whether two states are the same, as far as they are known; a size that only one of them knows does not count."""
    return state[1] == other[1] and (None in (state[0], other[0]) or state[0] == other[0])


def stat_input(root: str, item: Item) -> State:
    """The state of one listed image without reading it.

    That of a member is its container's and its place.

    Args:
        root: Of the listing.
        item: The image.
    """
    listed = _listed_state(item)
    if listed is not None:
        return listed
    try:
        facts = paths.stat_file(paths.join(root, item.key))
        return facts.size_bytes, facts.version
    except (OSError, ValueError):
        return None, None


def _listed_state(item: Item) -> State | None:
    """The state that the listing tells; None if the file has to be asked for."""
    if item.container is not None:
        return item.size_bytes, member_version(item)
    return None if item.version is None else (item.size_bytes, item.version)


def member_version(item: Item) -> str:
    """The version of a member; "" where the store tells none of its container."""
    return f"{item.version}:{item.position}" if item.version else ""


def read_input(root: str, key: str) -> Content:
    """Reads one listed file.

    Args:
        root: Of the listing.
        key: Of the image.

    Returns:
        Its bytes, and the state that they are of.

    Raises:
        ImageError: if it cannot be read; the message says why.
    """
    try:
        return paths.read_file_with_facts(paths.join(root, key), MAX_FILE_BYTES)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
    remedy = "run the command again" if isinstance(error, ChangedError) else "check the file and its permissions"
    return ImageError(f"cannot be read: {reason}; {remedy}")


def map_states(items: Sequence[Item], root: str) -> list[State]:
    """The states of listed images, in their order, several asked for at once where they are remote."""
    states = [_listed_state(item) for item in items]
    unlisted = [item for item, state in zip(items, states, strict=True) if state is None]  # no thread for what is known
    asked = iter(_map(functools.partial(stat_input, root), unlisted, root))
    return [next(asked) if state is None else state for state in states]


def _map(function: Callable[[Any], T], values: Sequence[Any], root: str) -> list[T]:
    if not paths.is_url(root):
        return [function(value) for value in values]
    with ThreadPoolExecutor(REMOTE_READERS) as pool:
        return list(pool.map(function, values))


def map_inputs(function: Callable[[Item, Read], T], items: Sequence[Item], root: str) -> list[T]:
    """Maps over listed images, several at once where they are remote.

    Args:
        function: From an image and what reads it to anything; it must read at once, if at all.
        items: The images.
        root: Of the listing.

    Returns:
        The results, in the order of the images.
    """
    results: dict[int, T] = {}
    order = sorted(range(len(items)), key=lambda index: (items[index].container or "", items[index].position or 0))
    for container, group in itertools.groupby(order, key=lambda index: items[index].container):
        indices = list(group)
        members = [items[index] for index in indices]
        results |= zip(indices, _map_group(function, members, container, root), strict=True)
    return [results[index] for index in range(len(items))]


def _map_group(function: Callable[[Item, Read], T], items: list[Item], container: str | None, root: str) -> list[T]:
    if container is None and paths.is_url(root):
        return _map(lambda item: function(item, functools.partial(read_input, root, item.key)), items, root)
    if container is None:
        with _ReadAhead(root, [item.key for item in items]) as ahead:
            return [function(item, functools.partial(ahead.read, number)) for number, item in enumerate(items)]
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(paths.open_file(container_path(root, container)))
            check_unchanged(file, items[0].version)
        except OSError as error:
            failed = functools.partial(_raise, error)
            return [function(item, failed) for item in items]
        return (_map_tar if is_tar(file.path) else _map_table)(function, items, file)


class _ReadAhead:
    """Reads local files in their order, and where that means waiting for a disk, has the next ones fetched meanwhile."""

    def __init__(self, root: str, keys: Sequence[str]) -> None:
        self._root, self._keys = root, keys
        self._waited_s = 0.0
        self._pool: ThreadPoolExecutor | None = None

    def read(self, number: int) -> Content:
        """As `read_input` for the key of that number."""
        if number % AHEAD == 0:
            self._fetch_ahead(number)
        started_s = time.perf_counter()
        try:
            return read_input(self._root, self._keys[number])
        finally:
            self._waited_s += time.perf_counter() - started_s

    def _fetch_ahead(self, number: int) -> None:
        if self._pool is None and self._waited_s > AHEAD * SLOW_READ_S:
            self._pool = ThreadPoolExecutor(DISK_READERS)
        self._waited_s = 0.0
        if self._pool is not None:
            for key in self._keys[number + AHEAD : number + 2 * AHEAD]:
                self._pool.submit(_fetch, paths.join(self._root, key))

    def __enter__(self) -> _ReadAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _fetch(path: str) -> None:
    """Has the system read a file into its memory; whatever is wrong with it, who reads it will say so."""
    with contextlib.suppress(OSError, ValueError), paths.open_file(path) as file:
        if file.descriptor is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


def _raise(error: Exception) -> Content:
    raise ContainerError(str(_unreadable(error))) from error


def _map_tar(function: Callable[[Item, Read], T], items: list[Item], file: paths.OpenFile) -> list[T]:
    return _map(lambda item: function(item, functools.partial(_read_member, file, item)), items, file.path)


def _read_member(file: paths.OpenFile, item: Item) -> Content:
    size_bytes = item.size_bytes or 0
    try:
        check_size(size_bytes)
        data = read_tar_member(file, item.position or 0, size_bytes)
        if file.descriptor is not None:  # elsewhere it would cost a request for each member
            check_unchanged(file, item.version)
    except OSError as error:
        raise _unreadable(error) from error
    return data, paths.FileFacts(size_bytes, member_version(item))


def check_size(size_bytes: int) -> None:
    """Raises OSError for what no honest image takes."""
    if size_bytes > MAX_FILE_BYTES:
        raise OSError(f"{size_bytes} bytes, more than the {MAX_FILE_BYTES} that are read")


def _map_table(function: Callable[[Item, Read], T], items: list[Item], file: paths.OpenFile) -> list[T]:
    values = read_rows(file, [item.position or 0 for item in items], items[0].version)
    pairs = zip(items, values, strict=True)
    return [function(item, functools.partial(_read_cell, file, item, value)) for item, (_, value) in pairs]


def _read_cell(file: paths.OpenFile, item: Item, value: Any) -> Content:
    """What `read_rows` has found in a row."""
    if isinstance(value, Exception):
        raise _unreadable(value) from value
    if isinstance(value, bytes):
        return value, paths.FileFacts(len(value), member_version(item))
    if not isinstance(value, str) or key_fault(value):
        reason = f"its row has no bytes, and the path {str(value)[:100]!r} does not lie beside the Parquet file"
        raise ImageError(f"cannot be read: {reason}; store the bytes in the row")
    data, facts = read_input(paths.parent(file.path), value)
    return data, paths.FileFacts(facts.size_bytes, f"{member_version(item)}:{facts.version}")
