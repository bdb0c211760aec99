"""The failures table: what did not come through, and why. Owns its columns and its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from tsae.errors import FormatError

FAILURE_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("path", "stage", "error", "message")])


@dataclasses.dataclass(frozen=True)
class Failure:
    """One image that did not come through.

    Attributes:
        path: Its key; a name that is not UTF-8 is percent-escaped.
        stage: Where it ended: "list", "read", "decode" or "write".
        error: The class of the error.
        message: What was wrong, on one line.
    """

    path: str
    stage: str
    error: str
    message: str


def failures_to_bytes(failures: Iterable[Failure]) -> bytes:
    """A Parquet file of the failures, sorted by path; equal failures give equal bytes.

    What is not UTF-8, such as a file's name in a message, is escaped with backslashes.
    """
    rows = [_encodable(dataclasses.asdict(failure)) for failure in sorted(failures, key=dataclasses.astuple)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist(rows, FAILURE_SCHEMA), sink, compression="zstd", store_schema=False, write_page_checksum=True
    )
    return bytes(sink.getvalue())


def _encodable(row: dict[str, str]) -> dict[str, str]:
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in row.items()}


def failures_from_bytes(data: bytes, source: str) -> list[Failure]:
    """Reads `failures_to_bytes`' file.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Returns:
        The failures, sorted by path.

    Raises:
        FormatError: if it is no Parquet file with those columns.
    """
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True).cast(FAILURE_SCHEMA)
        if any(column.null_count for column in table.columns):
            raise ValueError("empty cells")
        return [Failure(**row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise FormatError(f"{source}: no failures table ({' '.join(str(error).split())[:200]}); restore the file") from error
