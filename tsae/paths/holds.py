"""Holds on local files: how a reader tells a writer that it still needs what a file names. They are shared locks (flock)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from tsae.paths.disk import FOLDER_CANNOT, open_regular, pread

try:
    import fcntl
except ImportError:  # not POSIX: then without locks, as on a file system that has none
    fcntl = None  # type: ignore[assignment]

HOLD_WAIT_S = 2.0
"""How long to wait for a writer who decides whether anybody holds a file; that takes microseconds."""


class Hold:
    """Tells those who would remove what a file names that somebody still reads by it: a shared lock (flock).

    It ends with `release`, with this object, or with the process. A forked process shares it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Ends it; again changes nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        """As `release`."""
        self.release()


def read_and_hold(path: str, most_bytes: int) -> tuple[bytes, Hold | None]:
    """The first bytes of a regular file, and a hold on this very file, though another one may take its place.

    None where its file system has no locks.
    """
    deadline = time.monotonic() + HOLD_WAIT_S
    while True:
        descriptor = open_regular(path, os.O_RDONLY)
        try:
            is_held = _try_lock(descriptor, is_shared=True)
            # A file that was removed before it was locked is one that its remover took for free.
            if (is_held and os.fstat(descriptor).st_nlink) or is_held is None or time.monotonic() > deadline:
                data = pread(descriptor, 0, most_bytes)
                hold = Hold(os.dup(descriptor)) if is_held else None
                return data, hold
        finally:
            os.close(descriptor)
        time.sleep(0.002)


@contextlib.contextmanager
def unheld(path: str) -> Iterator[bool]:
    """Whether nobody holds a file; if so, nobody can while the block runs. One that is not there nobody holds."""
    try:
        descriptor = _open_to_lock(path)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _try_lock(descriptor, is_shared=False) is not False
    finally:
        os.close(descriptor)


def _open_to_lock(path: str) -> int:
    try:
        return open_regular(path, os.O_RDWR)  # to write, as network file systems want for an exclusive lock
    except PermissionError:
        return open_regular(path, os.O_RDONLY)


def _try_lock(descriptor: int, *, is_shared: bool) -> bool | None:
    """Whether an open file could be locked; None if its file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in FOLDER_CANNOT:
            return None
        raise
    return True


def link_file(path: str, other: str) -> None:
    """Gives a file a second name; whatever has that name already loses it."""
    os.makedirs(os.path.dirname(other), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(other)
    os.link(path, other)
