"""One file that is written bit by bit, for what is too large to be held: readers see the whole of it, or what was there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from tsae.paths.disk import make_folders, temporary_name
from tsae.paths.facts import as_os_error
from tsae.paths.folder import filesystem
from tsae.paths.names import is_url, plain
from tsae.paths.store import upload


@contextlib.contextmanager
def written_file(path: str) -> Iterator[BinaryIO]:
    """A new file, seekable, that takes its place when the block ends; if the block raises, nothing is left of it.

    Args:
        path: Local path or URL. What goes to a store is gathered in a temporary file first.

    Raises:
        OSError: if it cannot be written.
    """
    if is_url(path):
        with _uploaded(path) as file:
            yield file
        return
    place = os.path.abspath(plain(path))
    make_folders(os.path.dirname(place))
    temporary = os.path.join(os.path.dirname(place), temporary_name())
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, place)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _uploaded(path: str) -> Iterator[BinaryIO]:
    with tempfile.NamedTemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0, os.SEEK_END)
        with as_os_error(path):
            files, name = filesystem(path)
            upload(files, "put_file", file.tell(), file.name, name)
