"""Files and folders wherever they are: local disk or remote store, one way to reach both."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tsae.errors import InputError
from tsae.paths.disk import (
    local_facts,
    local_sizes,
    locked_folder,
    make_folders,
    open_regular,
    opened,
    pread,
    read_all,
    read_local_range,
    remove_empty,
    replace_file,
    replace_local,
    sync_folder,
)
from tsae.paths.facts import FileFacts, as_os_error, check_size
from tsae.paths.holds import Hold, link_file, read_and_hold, unheld
from tsae.paths.names import absolute, is_url, join, plain
from tsae.paths.store import (
    S3_RETRIES,
    cat_range,
    is_s3,
    options,
    remote_facts,
    remove_remote,
    replace_remote,
    replace_s3,
    upload,
)
from tsae.paths.tree import find_files


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of `path`, and the path as that filesystem writes it.

    A remote one keeps no listings, which would hide what others write. One for S3 gives up reading from a silent store
    after 5 minutes at most, where s3fs by itself takes half an hour, and on one that refuses connections within seconds. Nor
    does it ask for the size of each file before it reads it, to read large ones in parts at once.

    Raises:
        InputError: if the URL's scheme is unknown or its driver is not installed.
    """
    if not is_url(path):
        return _local(), os.path.abspath(plain(path))
    try:
        files, name = fsspec.core.url_to_fs(path, **options(path.partition("://")[0]))
    except (ValueError, ImportError) as error:
        raise InputError(f"{path}: cannot be reached ({error}); check the scheme, install its fsspec driver") from error
    if is_s3(files):
        files.retries, files.max_concurrency = S3_RETRIES, 1
    return files, str(name)


@functools.cache
def _local() -> LocalFileSystem:
    return LocalFileSystem()


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
    return read_file_with_facts(path, most_bytes)[0]


def read_file_with_facts(path: str, most_bytes: int | None = None) -> tuple[bytes, FileFacts]:
    """Reads a whole file, as `read_file` does, and what `stat_file` says of it before the first byte is read.

    Locally both come from one descriptor, so they belong to the same file even if another one takes its place.

    Raises:
        OSError: as `read_file`.
    """
    if is_url(path):
        return _read_remote(path, most_bytes)
    with opened(plain(path)) as descriptor:
        facts = local_facts(os.fstat(descriptor))
        check_size(facts.size_bytes, most_bytes)
        return read_all(descriptor), facts


def _read_remote(path: str, most_bytes: int | None) -> tuple[bytes, FileFacts]:
    with as_os_error(path):
        files, name = filesystem(path)
        facts = remote_facts(files.info(name))
        check_size(facts.size_bytes, most_bytes)
        data = bytes(files.cat_file(name))
        check_size(len(data), most_bytes)
        return data, facts


def stat_file(path: str) -> FileFacts:
    """The facts of a regular file.

    Args:
        path: Local path or URL.

    Raises:
        OSError: if it is not there or not a regular file.
    """
    with as_os_error(path):
        if not is_url(path):
            return local_facts(os.stat(plain(path)))
        files, name = filesystem(path)
        return remote_facts(files.info(name))


def find_remote(folder: str) -> Iterator[tuple[str, FileFacts | None]]:
    """All files below a remote folder, as `find_files` gives them.

    Args:
        folder: URL.
    """
    yield from find_files(*filesystem(folder))


def kind(path: str) -> Literal["file", "folder"] | None:
    """What is at a path; None if nothing is, or a link to nothing.

    Whatever is no folder is a file here, pipes and devices too. In a store, a prefix with files is a folder. Unlike
    fsspec's `exists`, `isfile` and `isdir`, a store that does not answer is not taken for one that has no such file.

    Args:
        path: Local path or URL; links are followed.

    Raises:
        OSError: if that cannot be told.
    """
    with as_os_error(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        files, name = filesystem(path)
        if isinstance(files, LocalFileSystem):
            return "folder" if stat.S_ISDIR(os.stat(name).st_mode) else "file"
        return "folder" if files.info(name)["type"] == "directory" else "file"
    return None


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

    def _local(self, name: str = "") -> str | None:
        """Where a file is on a local disk; None if the folder is remote."""
        return None if is_url(self.path) else self._reach(name)[1]

    def exists(self, name: str = "") -> bool:
        """Whether the file `name`, or with no name the folder itself, is there.

        Raises:
            OSError: if that cannot be told.
        """
        with as_os_error(self.path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            files, path = self._reach(name)
            # Not fsspec's `exists`, which takes a store that does not answer for one that has no such file.
            files.info(path)
            return True
        return False

    def is_missing(self, name: str = "") -> bool:
        """Whether a folder below, or with no name this one, is certainly not there, so that no file in it can be.

        Only of local folders that is ever said: asking a store costs as much as asking for a file.
        """
        files, path = self._reach(name)
        if not isinstance(files, LocalFileSystem):
            return False
        try:
            os.stat(path)
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        return False

    def stat(self, name: str) -> FileFacts:
        """The facts of a regular file.

        Raises:
            OSError: if it is not there or not a regular file.
        """
        return stat_file(join(absolute(self.path), name))

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        """The bytes of a regular file, or the first of them.

        Raises:
            OSError: if it cannot be read.
        """
        local = self._local(name)
        if local is None:
            return self._read_remote(name, most_bytes)
        with opened(local) as descriptor:
            return read_all(descriptor) if most_bytes is None else pread(descriptor, 0, most_bytes)

    def read_and_hold(self, name: str, most_bytes: int) -> tuple[bytes, Hold | None]:
        """The same, and on a local disk a hold on the file, by which `unheld` knows that it is still needed.

        Raises:
            OSError: if it cannot be read.
        """
        local = self._local(name)
        return (self._read_remote(name, most_bytes), None) if local is None else read_and_hold(local, most_bytes)

    @contextlib.contextmanager
    def unheld(self, name: str) -> Iterator[bool]:
        """Whether nobody holds a file, as far as that can be told: in a remote store, nobody can.

        While the block runs nobody new can hold it.

        Raises:
            OSError: if that cannot be found out.
        """
        local = self._local(name)
        with contextlib.nullcontext(True) if local is None else unheld(local) as is_free:
            yield is_free

    def link(self, name: str, other: str) -> None:
        """Gives a file of a local folder a second name.

        Raises:
            OSError: if the file system cannot do that, or the folder is remote.
        """
        local, target = self._local(name), self._local(other)
        if local is None or target is None:
            raise OSError(f"{self.path}: a store has no links")
        link_file(local, target)

    def _read_remote(self, name: str, most_bytes: int | None) -> bytes:
        with as_os_error(self.path):
            files, path = self._reach(name)
            if most_bytes is None:
                return bytes(files.cat_file(path))
            # An empty file has not even a first byte to give.
            return cat_range(files, path, 0, most_bytes) or b""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """The `length` bytes of a regular file from `start` on; threads may call it at once, no position is shared.

        Raises:
            OSError: if it cannot be read, or ends before.
        """
        path = join(self.path, name)
        local = self._local(name)
        if start < 0 or length < 0:
            raise OSError(f"{path}: no file has {length} bytes from {start} on")
        data = self._range_remote(name, start, length) if local is None else read_local_range(local, start, length)
        if data is None or len(data) != length:
            raise OSError(f"{path}: it ends before the {length} bytes from {start} on do")
        return data

    def _range_remote(self, name: str, start: int, length: int) -> bytes | None:
        with as_os_error(self.path):
            files, path = self._reach(name)
            return cat_range(files, path, start, length)

    def open(self, name: str) -> Any:
        """A seekable binary file object for reading, not buffered further.

        Raises:
            OSError: if it cannot be opened.
        """
        with as_os_error(self.path):
            files, path = self._reach(name)
            if isinstance(files, LocalFileSystem):
                return open(path, "rb", buffering=0, opener=open_regular)
            return files.open(path, "rb")

    def write(self, name: str, data: bytes, durable: bool = False) -> None:
        """Writes a file in one step: readers see the old one or the whole new one.

        Args:
            name: Its name.
            data: Its bytes.
            durable: Return only when the file and the folders that lead to it are on the disk, so that a power cut
                cannot take them back. A remote store answers for that by itself.

        Raises:
            OSError: if it cannot be written.
        """
        with as_os_error(self.path):
            files, path = self._reach(name)
            if not isinstance(files, LocalFileSystem):
                upload(files, "pipe_file", len(data), path, data)
                return
            changed: set[str] = set()
            try:
                replace_file(path, data, durable)
            except FileNotFoundError:  # only now: looking for it first is a seventh of writing a small file
                changed = make_folders(os.path.dirname(path))
                replace_file(path, data, durable)
            if durable:
                self._sync_above(name, changed)

    def _sync_above(self, name: str, changed: set[str]) -> None:
        """Syncs the folders above a file's own, up to this one and to those that got a new folder."""
        above = {os.path.normpath(os.path.join(self._reach()[1], up)) for up in list(PurePosixPath(name).parents)[1:]}
        for folder in sorted(changed | above, reverse=True):
            sync_folder(folder)

    def replace(self, name: str, data: bytes, expected: bytes | None) -> None:
        """Writes a file durably if its content is what the caller believes, in one step that no other `replace` can split.

        Locally the folder that holds the file is locked (flock), which leaves nothing behind; a file system that
        cannot lock folders, such as some network ones, gets the file without. S3 compares by itself (If-Match,
        If-None-Match). In memory, and in stores of any other kind, the step is whole among the threads of one process
        only. On S3, an answer that got lost is told from a conflict by reading back; so `data` should not be what another
        writer would write too, if only one of them is to win.

        Args:
            name: Its name.
            data: Its new bytes.
            expected: Its bytes up to now; None if it is not there.

        Raises:
            ConflictError: if its content is another one; it is as it was then.
            OSError: if it cannot be written, or another process keeps the lock.
        """
        with as_os_error(self.path):
            files, path = self._reach(name)
            if isinstance(files, LocalFileSystem):
                changed = make_folders(os.path.dirname(path))
                replace_local(path, data, expected)
                self._sync_above(name, changed)
            elif is_s3(files):
                replace_s3(files, path, data, expected)
            else:
                replace_remote(files, path, data, expected)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """On a local disk, no other process can `replace` a file while the block runs; elsewhere this does nothing.

        Nor can the block itself `replace` a file of the same folder: it would wait for itself.

        Args:
            name: Of the file.

        Raises:
            OSError: if its folder is not there, or another process keeps the lock.
        """
        local = self._local(name)
        with locked_folder(os.path.dirname(local)) if local is not None else contextlib.nullcontext():
            yield

    def sizes_bytes(self) -> dict[str, int]:
        """All files below, by relative name, with their sizes; empty if the folder is not there.

        Raises:
            OSError: if they cannot be listed, or only in part.
        """
        with as_os_error(self.path), contextlib.suppress(FileNotFoundError):
            files, base = self._reach()
            if isinstance(files, LocalFileSystem):
                return local_sizes(base)
            files.invalidate_cache()
            sizes = {name: facts.size_bytes for name, facts in find_files(files, base) if facts is not None}
            return dict(sorted(sizes.items()))
        return {}

    def remove(self, names: Iterable[str]) -> None:
        """Removes files, as far as they are there, and the folders below this one that are empty then.

        Raises:
            OSError: if one cannot be removed.
        """
        names = list(names)
        with as_os_error(self.path):
            files, base = self._reach()
            if not isinstance(files, LocalFileSystem):
                remove_remote(files, [join(base, name) for name in names])
                return
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(join(base, name))
            remove_empty(base, {parent for name in names for parent in PurePosixPath(name).parents})
