"""One file that is read at random: many small parts of it, all of one state."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator

from tsae.paths.disk import local_facts, opened, pread
from tsae.paths.facts import FileFacts, as_os_error
from tsae.paths.folder import filesystem, stat_file
from tsae.paths.names import is_url, plain
from tsae.paths.store import cat_range


@dataclasses.dataclass(frozen=True)
class OpenFile:
    """A file that `open_file` has opened; threads may read it at once.

    Attributes:
        path: Local path or URL.
        descriptor: Of a local file: were another one moved to its place, this one would still be read.
    """

    path: str
    descriptor: int | None

    def facts(self) -> FileFacts:
        """What tells its state now.

        Raises:
            OSError: if that cannot be told.
        """
        return stat_file(self.path) if self.descriptor is None else local_facts(os.fstat(self.descriptor))

    def read(self, start: int, length: int) -> bytes:
        """The bytes at a position, fewer only where the file ends.

        Raises:
            OSError: if they cannot be read.
        """
        if self.descriptor is not None:
            return pread(self.descriptor, start, length)
        with as_os_error(self.path):
            files, name = filesystem(self.path)
            return cat_range(files, name, start, length) or b""

    def as_stream(self, block_bytes: int) -> io.BufferedReader:
        """A seekable binary file object, which reads `block_bytes` at least at once."""
        return io.BufferedReader(_Stream(self), block_bytes)


@contextlib.contextmanager
def open_file(path: str) -> Iterator[OpenFile]:
    """Opens a regular file, local or remote; closed after the block.

    Raises:
        OSError: if it is not there or not a regular file.
    """
    if is_url(path):
        yield OpenFile(path, None)
        return
    with opened(plain(path)) as descriptor:
        yield OpenFile(path, descriptor)


class _Stream(io.RawIOBase):
    """An `OpenFile` with a position."""

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._file, self._position, self._size_bytes = file, 0, file.facts().size_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}
        self._position = max(0, starts[whence] + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(self._position, min(len(buffer), max(0, self._size_bytes - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
