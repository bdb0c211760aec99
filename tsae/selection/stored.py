"""The images of a selection from the shards of an archive.

Reads the columns that it needs, of the row groups that can hold a match; where no order is asked for it holds one row group at
a time, and in an order with a limit some multiples of that limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tsae.archive import ArchiveFiles, Shard, shown
from tsae.errors import InputError
from tsae.selection import SORTS, Selection
from tsae.selection.matching import DERIVED, derive, mask

PRUNED_ROWS = 2**16
"""Rows that are gathered before those beyond the limit of an ordered selection are forgotten."""


def select(files: ArchiveFiles, selection: Selection, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The images of a selection in its order.

    Args:
        files: Of the archive.
        selection: Which.
        columns: Of the records, `bytes` and `position`.

    Yields:
        Tables with these columns, labels as plain text; never an empty one.

    Raises:
        InputError: if there is no image of the key `after`.
        TsaeError: if a file cannot be read.
    """
    names = list(dict.fromkeys([*columns, "position", *sorted(selection.columns)]))
    place = None if selection.after is None else _Place.of_key(files, selection.after, selection)
    parts = _matching(files, selection, names, place)
    left = selection.limit
    for table in parts if selection.is_in_place else _ordered(parts, selection):
        part = table.select(list(columns)).slice(0, left)
        if left is not None:
            left -= len(part)
        if len(part):
            yield part
        if left == 0:
            return


def positions(files: ArchiveFiles, selection: Selection) -> Iterator[NDArray[np.int64]]:
    """Positions of the images of a selection, int64 `[N]` at a time, in its order.

    Raises:
        TsaeError: as `select`.
    """
    return (table.column("position").to_numpy() for table in select(files, selection, ["position"]))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an image is in an order.

    Attributes:
        column: What the order is by.
        value: The image's value of it.
        position: Its position.
        shard: The shard that it lies in.
    """

    column: str
    value: Any
    position: int
    shard: int

    @classmethod
    def of_key(cls, files: ArchiveFiles, key: str, selection: Selection) -> _Place:
        shard = files.shard_of(key)
        if shard is None:
            raise InputError(f"after {shown(key)}: {files.folder.path} has no image of that key; see its keys with tsae ls")
        column, reader = SORTS[selection.sort], files.shard(shard)
        row_group = reader.group_of(key)
        assert row_group is not None  # noqa: S101 (for the type checker: the shard has the key)
        table = _read(reader, row_group, list({"key", "position", column}), files.rows_before(shard))
        row = table.filter(pc.equal(table.column("key"), key)).to_pylist()[0]
        return cls(column, row[column], row["position"], shard)

    def is_before(self, table: pa.Table, reverse: bool) -> Any:
        """For each row whether it comes later, as a boolean array."""
        beyond, values = pc.less if reverse else pc.greater, table.column(self.column)
        if self.column == "position":
            return beyond(values, self.position)
        is_tied_later = pc.greater(table.column("position"), self.position)
        if self.value is None:
            return pc.and_(pc.is_null(values), is_tied_later)
        is_tied = pc.and_(pc.fill_null(pc.equal(values, self.value), False), is_tied_later)
        return pc.or_(pc.fill_null(beyond(values, self.value), True), is_tied)


def _matching(files: ArchiveFiles, selection: Selection, names: list[str], place: _Place | None) -> Iterator[pa.Table]:
    """The images that match, row group by row group, in the order of positions."""
    starts, conditions = selection.starts, selection.conditions
    first = place.shard if place and selection.is_in_place else 0
    for shard in range(first, files.shards):
        facts = files.facts(shard)
        if not _may_match(selection, starts, facts):
            continue
        reader, before = files.shard(shard), files.rows_before(shard)
        for row_group in range(reader.row_groups):
            first_key, last_key, _ = reader.describe(row_group)
            if _may_hold(starts, first_key, last_key):
                table = _read(reader, row_group, names, before)
                is_match = mask(table, conditions)
                if place is not None:
                    is_later = place.is_before(table, selection.reverse)
                    is_match = is_later if is_match is None else pc.and_(is_match, is_later)
                yield _plain(reader, row_group, table if is_match is None else table.filter(is_match))


def _may_match(selection: Selection, starts: list[str], facts: dict[str, Any]) -> bool:
    """Whether what a list says of a shard leaves room for a match."""
    least_db, most_db = facts["psnr_min_db"], selection.max_psnr_db
    is_too_good = most_db is not None and least_db is not None and least_db > most_db
    return not is_too_good and _may_hold(starts, facts["first_key"], facts["last_key"])


def _may_hold(starts: list[str], first_key: str | None, last_key: str | None) -> bool:
    """Whether keys that start so can lie between two keys; an unknown one is no bound."""
    return all(
        (last_key is None or last_key >= start) and (first_key is None or first_key <= start or first_key.startswith(start))
        for start in starts
    )


def _read(reader: Shard, row_group: int, names: Sequence[str], before: int) -> pa.Table:
    """Columns of a row group, as well what is derived from them and `position`; `before` is where the shard starts."""
    derived = sorted(DERIVED.keys() & set(names))
    stored = (set(names) - {*derived, "position"}).union(*(DERIVED[name] for name in derived))
    start, rows = before + reader.start_of(row_group), reader.describe(row_group)[2]
    numbers = pa.table({"position": np.arange(start, start + rows)})
    table = reader.table(row_group, sorted(stored)).append_column("position", numbers.column(0)) if stored else numbers
    for name in derived:
        table = table.append_column(name, derive(table, name))
    return table.select(list(names))


def _plain(reader: Shard, row_group: int, table: pa.Table) -> pa.Table:
    """The same with labels as plain text."""
    if "label" not in table.column_names:
        return table
    labels = pa.array([row["label"] for row in reader.rows_of(table, row_group, ["label"])], pa.string())
    return table.set_column(table.column_names.index("label"), "label", labels)


def _ordered(parts: Iterator[pa.Table], selection: Selection) -> Iterator[pa.Table]:
    """All parts as one table in the order asked for, cut to the limit."""
    most = None if selection.limit is None else max(PRUNED_ROWS, 2 * selection.limit)
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if most is not None and sum(map(len, held)) > most:
            held = [_sorted(held, selection)]
    if held:
        yield _sorted(held, selection)


def _sorted(tables: list[pa.Table], selection: Selection) -> pa.Table:
    """One table in order, nulls at the end."""
    table, direction = pa.concat_tables(tables), "descending" if selection.reverse else "ascending"
    keys = [(SORTS[selection.sort], direction)]
    if selection.sort != "position":
        keys.append(("position", "ascending"))
    return table.take(pc.sort_indices(table, sort_keys=keys).slice(0, selection.limit))
