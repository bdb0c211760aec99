"""Streams of many records, row group by row group: for those who read all of an archive again and again, as training does."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsae.archive.access import ArchiveFiles
from tsae.archive.records import Records, bare_records
from tsae.errors import CorruptDataError


@dataclasses.dataclass(frozen=True, eq=False)
class _Streams:
    """The streams of a row group, known to be intact: what a record costs is one slice."""

    codings: list[int]
    data: bytes
    ends: list[int]
    lossless: list[bytes | None] | None


class RowGroups:
    """The row groups of an archive in the order of positions, numbered. Safe to share between threads, and to pickle.

    Attributes:
        starts: Position of each group's first record, and at the end the number of images, int64 `[G + 1]`.
    """

    def __init__(self, files: ArchiveFiles, kept: int) -> None:
        """Reads the lists, no shard.

        Args:
            files: Of the archive.
            kept: Row groups whose streams are kept for the next call, of 250 kB each.

        Raises:
            TsaeError: if a list is damaged.
        """
        places, starts = [], [0]
        for shard in range(files.shards):
            reader = files.shard(shard)
            for row_group in range(reader.row_groups):
                places.append((shard, row_group))
                starts.append(starts[-1] + reader.describe(row_group)[2])
        self._set(files, kept, np.array(starts, np.int64), np.array(places, np.int32).reshape(-1, 2))

    def _set(self, files: ArchiveFiles, kept: int, starts: NDArray[np.int64], places: NDArray[np.int32]) -> None:
        self.starts = starts
        self._files, self._kept, self._places = files, kept, places
        self._streams = functools.lru_cache(kept)(self._read)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._files, self._kept, self.starts, self._places

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._set(*state)

    def of(self, positions: NDArray[np.int64]) -> NDArray[np.intp]:
        """The number of the row group of each position, intp `[N]`."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def records(self, positions: NDArray[np.int64]) -> Records:
        """The records at some positions, in the order asked for, without keys, sizes, labels and PSNR.

        Where all bytes of a row group's streams are those that were written, which is found out once, nothing else of its
        records is read or checked. Where not, records are read and checked one by one.

        Raises:
            IndexError: if there is no such position.
            CorruptDataError: if one of these records is damaged; the message names its key.
        """
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < int(self.starts[-1]):
            raise IndexError(f"positions {positions.min()} to {positions.max()} of {self.starts[-1]}")
        try:
            return self._gather(positions)
        except CorruptDataError:
            return self._files.records_at(positions.tolist())

    def _gather(self, positions: NDArray[np.int64]) -> Records:
        groups = self.of(positions)
        rows = (positions - self.starts[groups]).tolist()
        streams: list[bytes] = []
        codings: list[int] = []
        lossless: list[bytes | None] = [None] * len(rows)
        for number, (group, row) in enumerate(zip(groups.tolist(), rows, strict=True)):
            found = self._streams(group)
            streams.append(found.data[found.ends[row] : found.ends[row + 1]])
            codings.append(found.codings[row])
            if found.lossless is not None:
                lossless[number] = found.lossless[row]
        return bare_records(streams, np.array(codings, np.uint8), lossless)

    def _read(self, group: int) -> _Streams:
        shard, row_group = self._places[group].tolist()
        table = self._files.shard(shard).streams(row_group)
        column, exact = table.column("stream").combine_chunks(), table.column("lossless")
        _, ends, data = column.buffers()
        return _Streams(
            table.column("coding").to_pylist(),
            data.to_pybytes() if data else b"",
            np.frombuffer(ends, np.int32)[column.offset : column.offset + len(column) + 1].tolist(),
            exact.to_pylist() if exact.null_count < len(exact) else None,
        )
