"""Access to the records of a committed archive: by key, by shard, all of them. Owns finding, not decoding."""

from __future__ import annotations

import bisect
import fnmatch
import hashlib
from collections.abc import Iterator
from typing import Any

from tsae.archive.failures import Failure, failures_from_bytes
from tsae.archive.manifest import MODEL_FILE, Manifest, read_manifest
from tsae.archive.records import Records
from tsae.archive.shards import ShardReader
from tsae.errors import CorruptDataError, FormatError
from tsae.paths import Folder


def matches(key: str, glob: str | None) -> bool:
    """Whether a glob matches a key; `*` also matches `/`, and None matches all."""
    return glob is None or fnmatch.fnmatchcase(key, glob)


class ArchiveFiles:
    """The files of one committed archive, opened as they are needed."""

    def __init__(self, path: str) -> None:
        """Reads the manifest.

        Args:
            path: Local path or URL of the archive.

        Raises:
            FormatError: if there is no archive of this version.
        """
        self.folder = Folder(path)
        self.manifest: Manifest = read_manifest(self.folder)
        self._last_keys = [shard.last_key for shard in self.manifest.shards]
        self._open_shard: tuple[int, ShardReader] | None = None

    def model_file(self) -> bytes:
        """The bytes of the model, known to be those that the archive was written with.

        Raises:
            FormatError: if the file is missing or is another one.
        """
        return self._read(MODEL_FILE, self.manifest.model_sha256)

    def shard(self, index: int) -> ShardReader:
        """Opens shard `index`; the last one used stays open.

        Raises:
            CorruptDataError: if it is missing, damaged, or not the shard that the manifest names.
            FormatError: if it is a shard without metadata.
        """
        if self._open_shard is not None and self._open_shard[0] == index:
            return self._open_shard[1]
        entry = self.manifest.shards[index]
        source = f"{self.folder.path}/{entry.file}"
        try:
            reader = ShardReader(self.folder.open(entry.file), source)
        except OSError as error:
            raise CorruptDataError(f"{source}: cannot be opened ({error.strerror or error}); restore the file") from error
        expected = (entry.rows, (entry.first_key, entry.last_key), self.manifest.model_sha256)
        if (reader.rows, reader.key_range(), reader.metadata().get("model_sha256")) != expected:
            raise CorruptDataError(f"{source}: not the shard that the manifest names; restore the file")
        self._open_shard = index, reader
        return reader

    def get(self, key: str) -> Records:
        """The record of one key, reading one row group.

        Raises:
            KeyError: if there is none.
            CorruptDataError: if it is damaged.
        """
        index = bisect.bisect_left(self._last_keys, key)
        if index == len(self._last_keys) or key < self.manifest.shards[index].first_key:
            raise KeyError(key)
        shard = self.shard(index)
        row_group = shard.find(key)
        if row_group is None:
            raise KeyError(key)
        records, intact = shard.read(row_group)
        row = bisect.bisect_left(records.keys, key)
        if row == len(records) or records.keys[row] != key:
            raise KeyError(key)
        if not intact[row]:
            raise CorruptDataError(f"{shard.source}: the record of {key!r} does not match its checksum; restore the file")
        return records.take([row])

    def keys(self, glob: str | None = None) -> Iterator[str]:
        """All keys in order, or those that a glob matches (`*` also matches `/`).

        Raises:
            CorruptDataError: if a shard cannot be read.
        """
        for index in range(len(self.manifest.shards)):
            keys = self.shard(index).keys()
            yield from (key for key in keys if matches(key, glob))

    def rows(self, columns: list[str], glob: str | None = None) -> Iterator[dict[str, Any]]:
        """The named columns of all records in order, or of those whose key a glob matches.

        Raises:
            CorruptDataError: if a shard cannot be read.
        """
        for index in range(len(self.manifest.shards)):
            yield from (row for row in self.shard(index).columns(columns) if matches(row["key"], glob))

    def failures(self) -> list[Failure]:
        """The failures table.

        Raises:
            FormatError: if a file of it cannot be read, or is not the one that the manifest names.
        """
        found = []
        for entry in self.manifest.failures:
            found += failures_from_bytes(self._read(entry.file, entry.sha256), f"{self.folder.path}/{entry.file}")
        return sorted(found, key=lambda failure: failure.path)

    def _read(self, name: str, sha256: str) -> bytes:
        """A whole file, known to be the one that was written."""
        source = f"{self.folder.path}/{name}"
        try:
            data = self.folder.read(name)
        except OSError as error:
            raise FormatError(f"{source}: cannot be read ({error.strerror or error}); restore the file") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise FormatError(f"{source}: SHA-256 {digest}, the archive needs {sha256}; restore the file")
        return data

    def close(self) -> None:
        """Closes what is open."""
        if self._open_shard is not None:
            self._open_shard[1].close()
            self._open_shard = None
