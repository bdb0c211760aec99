"""One way to reach files, local or remote (`s3://`, `gs://`, `memory://` ...), through fsspec. Owns no format.

A string with `scheme://` is a URL, `file://` excepted; anything else is a local path, taken literally.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import stat
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tsae.errors import InputError

URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


LOCAL_URL = re.compile(r"^(file|local)://")


def _plain(path: str) -> str:
    """A `file://` URL as the local path that it names, so that nothing treats it as remote; others as they are."""
    return LOCAL_URL.sub("", path)


def is_url(path: str) -> bool:
    """Whether `path` is a URL rather than a local path."""
    return bool(URL.match(_plain(path)))


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of `path`, and the path as that filesystem writes it.

    Raises:
        InputError: if the URL's scheme is unknown or its driver is not installed.
    """
    if not is_url(path):
        return _local(), os.path.abspath(_plain(path))
    try:
        files, name = fsspec.core.url_to_fs(path)
        return files, str(name)
    except (ValueError, ImportError) as error:
        raise InputError(f"{path}: cannot be reached ({error}); check the scheme, install its fsspec driver") from error


@functools.cache
def _local() -> LocalFileSystem:
    return LocalFileSystem()


def join(base: str, name: str) -> str:
    """The path of `name` (with `/`) below `base`."""
    return f"{base}{name}" if base.endswith("://") else f"{base.rstrip('/')}/{name}"


def absolute(path: str) -> str:
    """The same path, not depending on the current folder, with no `/` at its end; URLs stay as they are otherwise."""
    if not is_url(path):
        return os.path.abspath(_plain(path))
    scheme, separator, rest = path.partition("://")
    return scheme + separator + rest.rstrip("/")


def parent(path: str) -> str:
    """The folder that an absolute path lies in."""
    if not is_url(path):
        return os.path.dirname(path)
    scheme, separator, rest = path.partition("://")
    return scheme + separator + rest.rpartition("/")[0]


def relative(path: str, folder: str) -> str | None:
    """The name, with `/`, of an absolute path below an absolute folder; None if it does not lie below."""
    start = folder if folder.endswith("/") else folder + "/"
    return path[len(start) :] if path.startswith(start) and path != start else None


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it, links resolved where both are local."""
    if not is_url(path) and not is_url(folder):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def read_file(path: str, most_bytes: int | None = None) -> bytes:
    """Reads a whole file.

    Args:
        path: Local path or URL.
        most_bytes: Refuse files larger than this before reading them; None is no limit.

    Returns:
        Its bytes.

    Raises:
        OSError: if it is not there, not readable, too large, or not a regular file (a pipe would wait for ever).
    """
    if is_url(path):
        files, name = filesystem(path)
        _check_size(files.info(name)["size"] if most_bytes is not None else None, most_bytes)
        return bytes(files.cat_file(name))
    if "\0" in path:
        raise OSError("its name has a zero byte, which no file's may have")
    with open(path, "rb", buffering=0, opener=_open_regular) as file:
        _check_size(os.fstat(file.fileno()).st_size, most_bytes)
        return file.read()


def _open_regular(path: str, flags: int) -> int:
    """Opens a regular file without waiting for the other end of a pipe."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise IsADirectoryError("it is a folder") if stat.S_ISDIR(mode) else OSError("it is not a regular file")


def _check_size(size_bytes: int | None, most_bytes: int | None) -> None:
    if most_bytes is not None and size_bytes is not None and size_bytes > most_bytes:
        raise OSError(f"{size_bytes} bytes, more than the {most_bytes} that are read")


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of files named by `/`-separated relative paths; a plain value, so it travels to workers.

    Attributes:
        path: Local path or URL.
    """

    path: str

    def _reach(self, name: str = "") -> tuple[Any, str]:
        files, base = filesystem(self.path)
        return files, join(base, name) if name else base

    def exists(self, name: str = "") -> bool:
        """Whether the file `name`, or with no name the folder itself, is there."""
        files, path = self._reach(name)
        return bool(files.exists(path))

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The bytes of a file, or the first of them.

        Raises:
            OSError: if it cannot be read.
        """
        files, path = self._reach(name)
        return bytes(files.cat_file(path, end=most_bytes))

    def open(self, name: str) -> Any:
        """A seekable binary file object for reading, not buffered further.

        Raises:
            OSError: if it cannot be opened.
        """
        files, path = self._reach(name)
        return files.open(path, "rb")

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in one step: readers see the old one or the whole new one.

        Raises:
            OSError: if it cannot be written.
        """
        files, path = self._reach(name)
        if not isinstance(files, LocalFileSystem):
            files.pipe_file(path, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, data)

    def sizes_bytes(self) -> dict[str, int]:
        """All files below, by relative name, with their sizes; empty if the folder is not there."""
        files, base = self._reach()
        if not files.exists(base):
            return {}
        files.invalidate_cache()
        found = files.find(base, detail=True)
        return {name[len(base.rstrip("/")) + 1 :]: facts["size"] for name, facts in found.items()}

    def remove(self, names: Iterable[str]) -> None:
        """Removes files, as far as they are there, and the folders below this one that are empty then.

        Raises:
            OSError: if one cannot be removed.
        """
        names = list(names)
        for name in names:
            files, path = self._reach(name)
            with contextlib.suppress(FileNotFoundError):
                files.rm_file(path)
        if not is_url(self.path):
            _remove_empty(self.path, {parent for name in names for parent in PurePosixPath(name).parents})


def _remove_empty(folder: str, names: Iterable[PurePosixPath]) -> None:
    for name in sorted(names, key=lambda path: -len(path.parts)):
        if name.parts:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(folder, name))


TEMPORARY = re.compile(r"(?:^|/)\.tsae-\d+-\d+\.tmp$")
"""Names of what a kill may leave behind: nobody else's files are called so."""


def replace_file(path: str | Path, data: bytes) -> None:
    """Writes a local file beside its place and moves it there, so that a kill leaves the old one or the new one.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    # Not the file's own name and more: that may be as long as a name can be already.
    temporary = os.path.join(os.path.dirname(path), f".tsae-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
