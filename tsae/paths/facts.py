"""What tells states of a file apart, and the one kind of error that reading and writing raise."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from tsae.errors import TsaeError


class ConflictError(OSError):
    """A file is not what its writer last knew: somebody else has written or removed it."""


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """What tells one state of a file from another without reading it.

    Attributes:
        size_bytes: Its size; -1 if the store does not say.
        version: Changes whenever the content does, as far as the store can tell; "" if it cannot.
    """

    size_bytes: int
    version: str


@contextlib.contextmanager
def as_os_error(path: str) -> Iterator[None]:
    """Turns what a driver raises (botocore's and aiohttp's errors, its own `ValueError`) into an `OSError` of one line.

    Raises:
        OSError: for any exception but this package's own and those that end the process.
    """
    try:
        yield
    except (OSError, TsaeError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise OSError(f"{path}: {reason}") from error


def check_size(size_bytes: int, most_bytes: int | None) -> None:
    """Raises OSError for a file that is too large."""
    if most_bytes is not None and size_bytes > most_bytes:
        raise OSError(f"{size_bytes} bytes, more than the {most_bytes} that are read")


def check_expected(path: str, content: bytes | None, expected: bytes | None) -> None:
    """Raises `ConflictError` for a file that is not as its writer last knew it; None is one that is not there."""
    if content != expected:
        raise ConflictError(f"{path}: somebody else has {'removed' if content is None else 'written'} it meanwhile")
