"""Provenance: which file each record of a shard was made from, and which state of it. Owns its columns and its file.

Only bringing an archive up to date needs it. It can be left out or deleted: then all inputs count as changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from tsae.archive.files import is_named_after
from tsae.archive.parquet import TableFile, read_table
from tsae.errors import CorruptDataError
from tsae.paths import Folder

DIGEST_BYTES = 16
"""Bytes of the SHA-256 of an input that are kept: no two of 10^9 files share them by chance (10^-20)."""

PROVENANCE_FILE = TableFile(
    "a provenance table",
    pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("size_bytes", pa.uint64(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
            pa.field("sha256", pa.binary(DIGEST_BYTES), nullable=False),
        ]
    ),
    encodings=(("size_bytes", "DELTA_BINARY_PACKED"),),
    incompressible=("sha256",),
)


MAX_BYTES = 2**26
"""Of a provenance file, no more is read: 4,096 of the longest keys take 17 MB."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """A state of an input file.

    Attributes:
        size_bytes: Its size.
        version: What the store tells of its state: the time of change in ns of a local file, else an ETag or a time.
        sha256: The first `DIGEST_BYTES` of the SHA-256 of its bytes.
    """

    size_bytes: int
    version: str
    sha256: bytes

    @classmethod
    def of(cls, data: bytes, version: str) -> Origin:
        """The state that the bytes of a whole file are of."""
        return cls(len(data), version, hashlib.sha256(data).digest()[:DIGEST_BYTES])


def provenance_to_bytes(origins: Mapping[str, Origin]) -> bytes:
    """A Parquet file of the origins of some keys, in their order; equal origins give equal bytes."""
    states = origins.values()
    columns = [list(origins), *([getattr(state, name) for state in states] for name in PROVENANCE_FILE.schema.names[1:])]
    return PROVENANCE_FILE.to_bytes(pa.table(columns, schema=PROVENANCE_FILE.schema), [len(origins)])


def provenance_from_bytes(data: bytes, source: str) -> dict[str, Origin]:
    """Reads `provenance_to_bytes`' file.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Raises:
        CorruptDataError: if it is no such file.
    """
    columns: Sequence[list[object]] = list(read_table(PROVENANCE_FILE, data, source).to_pydict().values())
    return {key: Origin(*facts) for key, *facts in zip(*columns, strict=True)}


def read_origins(archive: Folder, name: str | None) -> dict[str, Origin]:
    """What the records of a shard were made from, by key; empty where that was left out, or is damaged."""
    if name is None:
        return {}
    try:
        data = archive.read(name, MAX_BYTES)
        return provenance_from_bytes(data, name) if is_named_after(name, data) else {}
    except (OSError, CorruptDataError):
        return {}
