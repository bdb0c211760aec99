"""Local disks: reading regular files only, writing in one step and to last, compare-and-set under a lock."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from tsae.paths.facts import FileFacts, as_os_error, check_expected

try:
    import fcntl
except ImportError:  # not POSIX: then without locks, as on a file system that has none
    fcntl = None  # type: ignore[assignment]

LOCK_WAIT_S = 10.0
"""How long `Folder.replace` waits for another writer, who needs milliseconds unless the disk hangs."""


FOLDER_CANNOT = {errno.EINVAL, errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems answer that cannot lock or sync a folder."""


def local_facts(status: os.stat_result) -> FileFacts:
    """The facts of a regular file, from what `stat` says of it."""
    _check_regular(status.st_mode)
    return FileFacts(status.st_size, str(status.st_mtime_ns))


@contextlib.contextmanager
def opened(path: str, folder: int | None = None) -> Iterator[int]:
    """The descriptor of a regular file, closed afterwards; with the descriptor of a folder, of a name in it."""
    if "\0" in path:
        raise OSError("its name has a zero byte, which no file's may have")
    with as_os_error(ascii(path)):  # Unicode has characters that no file's name may have
        descriptor = open_regular(path, os.O_RDONLY, folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(path: str, flags: int, folder: int | None = None) -> int:
    """Opens a regular file without waiting for the other end of a pipe."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, dir_fd=folder)
    try:
        _check_regular(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError("it is not a regular file")


def read_all(descriptor: int) -> bytes:
    """What is left to read."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return file.read()


def pread(descriptor: int, start: int, length: int) -> bytes:
    """The bytes at a position, fewer only where the file ends; one call reads 2 GB at most."""
    parts = []
    while length and (part := os.pread(descriptor, length, start)):
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_local_range(path: str, start: int, length: int) -> bytes | None:
    """A part of a regular file; None if the file ends before."""
    with opened(path) as descriptor:
        # Before any memory is set aside for a length that a damaged file may have told.
        if os.fstat(descriptor).st_size < start + length:
            return None
        return pread(descriptor, start, length)


def local_sizes(base: str) -> dict[str, int]:
    """All files below a folder, by relative name with `/`, with their sizes."""
    # Not fsspec's `find`, which leaves out a whole folder if one of its files goes while it is listed.
    sizes: dict[str, int] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in _entries(os.path.join(base, folder)):
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{folder}{entry.name}/")
            elif (size := _entry_size(entry)) is not None:
                sizes[folder + entry.name] = size
    return dict(sorted(sizes.items()))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _entry_size(entry: os.DirEntry[str]) -> int | None:
    """None if it has gone since it was listed; 0 for a link to nothing."""
    try:
        return entry.stat().st_size
    except OSError:
        if not entry.is_symlink() and os.path.lexists(entry.path):
            raise
        return 0 if entry.is_symlink() else None


TEMPORARY = re.compile(r"(?:^|/)\.tsae-\d+-\d+\.tmp$")
"""Names of what a kill may leave behind: nobody else's files are called so."""


def replace_file(path: str | Path, data: bytes, durable: bool = False) -> None:
    """Writes a local file beside its place and moves it there, so that a kill leaves the old one or the new one.

    Args:
        path: Where.
        data: Its bytes.
        durable: Return only when it is on the disk, so that a power cut leaves the new one.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    # Not the file's own name and more: that may be as long as a name can be already.
    _move_in(os.path.join(os.path.dirname(path), temporary_name()), os.fspath(path), data, durable, None)
    if durable:
        sync_folder(os.path.dirname(path) or ".")


_numbers = itertools.count(secrets.randbits(62))
"""From a random one, as machines that share a disk may have processes of the same number."""


def _draw_numbers() -> None:
    global _numbers
    _numbers = itertools.count(secrets.randbits(62))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw_numbers)


def temporary_name() -> str:
    """A name that `TEMPORARY` matches and no other process uses."""
    return f".tsae-{os.getpid()}-{next(_numbers)}.tmp"


def _move_in(temporary: str, path: str, data: bytes, durable: bool, folder: int | None) -> None:
    """Writes `temporary` and renames it to `path`; with the descriptor of a folder, both are names in it."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        try:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    """Writes without the objects of `open`, which take a fifth of the time of a small file."""
    written = os.write(descriptor, data)
    while written < len(data):  # one call writes 2 GB at most
        written += os.write(descriptor, memoryview(data)[written:])


def make_folders(folder: str) -> set[str]:
    """Makes a folder and those above it; returns the ones that got a new folder."""
    changed, here = set(), folder
    while not os.path.isdir(here) and here != os.path.dirname(here):
        here = os.path.dirname(here)
        changed.add(here)
    os.makedirs(folder, exist_ok=True)
    return changed


def remove_empty(folder: str, names: Iterable[PurePosixPath]) -> None:
    """Removes those of some folders, named relative to `folder`, that are empty."""
    for name in sorted(names, key=lambda path: -len(path.parts)):
        if name.parts:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(folder, name))


def sync_folder(folder: str) -> None:
    """Returns when the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in FOLDER_CANNOT:
            raise


def replace_local(path: str, data: bytes, expected: bytes | None) -> None:
    """Compares and writes under a lock on the folder; raises `ConflictError`."""
    # By names in the locked folder: were it removed and made anew, writing into the old one would fail, not slip through.
    with locked_folder(os.path.dirname(path)) as folder:
        name = os.path.basename(path)
        check_expected(path, _read_at(folder, name), expected)
        _move_in(temporary_name(), name, data, True, folder)
        _sync(folder)


@contextlib.contextmanager
def locked_folder(path: str) -> Iterator[int]:
    """The descriptor of a folder that nobody else can lock while the block runs."""
    folder = os.open(path, os.O_RDONLY)
    try:
        _lock(folder, path)
        yield folder
    finally:
        os.close(folder)  # which gives the lock back, as the kernel does for a process that dies


def _lock(folder: int, path: str) -> None:
    """Waits for the only lock on an open folder, if its file system has locks."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while fcntl is not None:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                reason = f"another process has it locked for {LOCK_WAIT_S:.0f} s; `fuser -v` shows which, end it or wait"
                raise OSError(f"{path}: {reason}") from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno in FOLDER_CANNOT:
                return
            raise


def _read_at(folder: int, name: str) -> bytes | None:
    try:
        with opened(name, folder) as descriptor:
            return read_all(descriptor)
    except FileNotFoundError:
        return None
