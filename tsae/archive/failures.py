"""The failures table: what did not come through, and why. Owns its columns and its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pyarrow as pa

from tsae.archive.parquet import TableFile, read_table
from tsae.errors import CorruptDataError, FormatError

FAILURE_FILE = TableFile(
    "a failures table",
    pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=False) for name in ("path", "stage", "error", "message")),
            pa.field("size_bytes", pa.uint64()),
            pa.field("version", pa.string()),
        ]
    ),
)

GROUP_ROWS = 4096
"""Failures in a row group: some 100 kB."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """One image that did not come through.

    Attributes:
        path: Its key; a name that is not UTF-8 is percent-escaped.
        stage: Where it ended: "list", "read", "decode" or "write".
        error: The class of the error.
        message: What was wrong, on one line.
        size_bytes: Of the file, where it could be read: tells whether it was changed since.
        version: Of the file, see `tsae.archive.provenance`; None where it could not be read.
    """

    path: str
    stage: str
    error: str
    message: str
    size_bytes: int | None = None
    version: str | None = None


def failures_to_bytes(failures: Iterable[Failure]) -> bytes:
    """A Parquet file of the failures, sorted by path; equal failures give equal bytes.

    What is not UTF-8, such as a file's name in a message, is escaped with backslashes.
    """
    rows = [
        _encodable(failure) for failure in sorted(failures, key=lambda failure: (failure.path, failure.stage, failure.message))
    ]
    groups = [min(GROUP_ROWS, len(rows) - start) for start in range(0, len(rows), GROUP_ROWS)]
    return FAILURE_FILE.to_bytes(pa.Table.from_pylist(rows, FAILURE_FILE.schema), groups)


def _encodable(failure: Failure) -> dict[str, object]:
    fields = dataclasses.asdict(failure)
    return {k: v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for k, v in fields.items()}


def failures_from_bytes(data: bytes, source: str) -> list[Failure]:
    """Reads `failures_to_bytes`' file.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Returns:
        The failures, sorted by path.

    Raises:
        FormatError: if it is no such file.
    """
    try:
        return [Failure(**row) for row in read_table(FAILURE_FILE, data, source).to_pylist()]
    except (CorruptDataError, ValueError) as error:
        raise FormatError(f"{source}: no failures table ({' '.join(str(error).split())[:200]}); restore the file") from error
