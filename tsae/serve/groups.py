"""Records by position, through a cache of row groups: what was read last is not read and checked again."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tsae.archive import ArchiveFiles, Records, shown
from tsae.errors import CorruptDataError, TsaeError
from tsae.serve.cache import ByteCache


class GroupReader:
    """Reads records of any state of an archive. Safe to share between threads."""

    def __init__(self, budget_bytes: int) -> None:
        """Keeps row groups of so many bytes, some 250 kB each."""
        self.tables: ByteCache[tuple[str, int], pa.Table] = ByteCache(budget_bytes)

    def read(self, files: ArchiveFiles, positions: Sequence[int]) -> list[Records | TsaeError]:
        """The record at each position, as `Records` of length 1, or what is wrong with it; each row group is read once."""
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        found: list[Records | TsaeError] = [CorruptDataError("not read")] * len(positions)
        for place, position in enumerate(positions):
            try:
                shard, group, row = files.place(position)
                wanted.setdefault((shard, group), []).append((place, row))
            except TsaeError as error:
                found[place] = error
        for (shard, group), rows in wanted.items():
            places = [place for place, _ in rows]
            for place, result in zip(places, self._pick(files, shard, group, [row for _, row in rows]), strict=True):
                found[place] = result
        return found

    def _pick(self, files: ArchiveFiles, shard: int, group: int, rows: list[int]) -> Sequence[Records | TsaeError]:
        """Some rows of a row group."""
        try:
            reader = files.shard(shard)
            table = self.tables.get((reader.source, group))
            if table is None:
                table = reader.table(group)
                self.tables.put((reader.source, group), table, table.nbytes)
            records, intact = reader.check(table.take(rows), group)
        except TsaeError as error:
            return [error] * len(rows)
        return [records.take([i]) if intact[i] else _damaged(reader.source, records.keys[i]) for i in range(len(rows))]


def _damaged(source: str, key: str) -> CorruptDataError:
    return CorruptDataError(f"{source}: the record of {shown(key)} does not match its checksum; restore the file")
