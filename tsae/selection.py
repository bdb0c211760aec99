"""Which images of an archive, and in which order: what `ls`, `get`, `sheet` and data sets are asked for.

The only home of filters. Reads the columns that it needs, of the row groups that can hold a match; where no order is asked
for it holds one row group at a time, and in an order with a limit some multiples of that limit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tsae.archive import ArchiveFiles, Shard, matches, shown
from tsae.errors import InputError

Sort = Literal["position", "key", "psnr", "bytes"]

SORTS: dict[str, str] = {"position": "position", "key": "key", "psnr": "psnr_db", "bytes": "bytes"}
"""What an order is by, and the column that it needs."""

BYTES = {"stream", "lossless"}
"""What `bytes`, the sum of their lengths, needs."""

WILDCARD = re.compile(r"[*?\[]")

PRUNED_ROWS = 2**16
"""Rows that are gathered before those beyond the limit of an ordered selection are forgotten."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Images that all of these hold for; by itself, all images in the order of positions.

    Attributes:
        glob: Matches the key; `*` also matches `/`.
        prefix: The key starts with it.
        labels: The label is one of them; None takes images without a label too.
        min_psnr_db: Least PSNR in dB of the image from its latents; images without a measured one are left out.
        max_psnr_db: Greatest, likewise.
        min_bytes: Least bytes stored of an image: its stream, and its lossless file where there is one.
        max_bytes: Most.
        min_px: Least width and least height of the original in pixels.
        max_px: Greatest width and greatest height.
        sort: What the order is by; images that are equal in it are in the order of positions, those without PSNR are last.
        reverse: Whether greater ones come first.
        after: A key: only images that come after its image in this order, whether or not that one is selected.
        limit: At most so many.
    """

    glob: str | None = None
    prefix: str | None = None
    labels: tuple[str, ...] | None = None
    min_psnr_db: float | None = None
    max_psnr_db: float | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    min_px: int | None = None
    max_px: int | None = None
    sort: Sort = "position"
    reverse: bool = False
    after: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without an archive.

        Raises:
            InputError: if there is no such order, or a limit is negative.
        """
        if self.sort not in SORTS:
            raise InputError(f"order by {self.sort!r}: there is none; choose one of {', '.join(SORTS)}")
        if self.limit is not None and self.limit < 0:
            raise InputError(f"limit {self.limit}: must be 0 or more")

    @property
    def is_in_place(self) -> bool:
        """Whether the order is that of positions."""
        return self.sort == "position" and not self.reverse

    @property
    def knows_bytes(self) -> bool:
        """Whether `bytes` is asked about, so that streams are read."""
        return self.sort == "bytes" or self.min_bytes is not None or self.max_bytes is not None

    def columns(self) -> set[str]:
        """The columns that decide."""
        by = {
            "key": self.glob is not None or self.prefix is not None,
            "label": self.labels is not None,
            "psnr_db": self.min_psnr_db is not None or self.max_psnr_db is not None,
            "bytes": self.knows_bytes,
            "width": self.min_px is not None or self.max_px is not None,
            "height": self.min_px is not None or self.max_px is not None,
        }
        return {name for name, is_needed in by.items() if is_needed} | ({SORTS[self.sort]} - {"position"})


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
    names = list(dict.fromkeys([*columns, "position", *sorted(selection.columns())]))
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
    starts = [text for text in (selection.prefix, selection.glob and WILDCARD.split(selection.glob)[0]) if text]
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
                mask = _mask(table, selection)
                if place is not None:
                    is_later = place.is_before(table, selection.reverse)
                    mask = is_later if mask is None else pc.and_(mask, is_later)
                yield _plain(reader, row_group, table if mask is None else table.filter(mask))


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
    """Columns of a row group, with `bytes` and `position` as far as they are asked for; `before` is where the shard starts."""
    stored = (set(names) - {"bytes", "position"}) | (BYTES if "bytes" in names else set())
    start, rows = before + reader.start_of(row_group), reader.describe(row_group)[2]
    numbers = pa.table({"position": np.arange(start, start + rows)})
    table = reader.table(row_group, sorted(stored)).append_column("position", numbers.column(0)) if stored else numbers
    if "bytes" in names:
        lengths = [pc.fill_null(pc.binary_length(table.column(name)), 0).cast(pa.int64()) for name in sorted(BYTES)]
        table = table.append_column("bytes", pc.add(*lengths))
    return table.select(list(names))


def _plain(reader: Shard, row_group: int, table: pa.Table) -> pa.Table:
    """The same with labels as plain text."""
    if "label" not in table.column_names:
        return table
    labels = pa.array([row["label"] for row in reader.rows_of(table, row_group, ["label"])], pa.string())
    return table.set_column(table.column_names.index("label"), "label", labels)


def _mask(table: pa.Table, selection: Selection) -> Any:
    """For each row whether it matches, as a boolean array; None where all do."""
    tests = [
        (column, compare, bound)
        for column, compare, bound in (
            ("psnr_db", pc.greater_equal, selection.min_psnr_db),
            ("psnr_db", pc.less_equal, selection.max_psnr_db),
            ("bytes", pc.greater_equal, selection.min_bytes),
            ("bytes", pc.less_equal, selection.max_bytes),
            ("width", pc.greater_equal, selection.min_px),
            ("height", pc.greater_equal, selection.min_px),
            ("width", pc.less_equal, selection.max_px),
            ("height", pc.less_equal, selection.max_px),
            ("key", pc.starts_with, selection.prefix),
        )
        if bound is not None
    ]
    masks = [pc.fill_null(compare(table.column(column), bound), False) for column, compare, bound in tests]
    if selection.labels is not None:
        masks.append(_has_label(table.column("label"), selection.labels))
    if selection.glob is not None:
        masks.append(pa.array([matches(key, selection.glob) for key in table.column("key").to_pylist()], pa.bool_()))
    mask = None
    for one in masks:
        mask = one if mask is None else pc.and_(mask, one)
    return mask


def _has_label(column: pa.ChunkedArray, labels: Sequence[str]) -> pa.Array:
    """For each row whether its label is one of some; a dictionary is not expanded, as in `column_values`."""
    array, wanted = column.unify_dictionaries().combine_chunks(), pa.array(labels, pa.string())
    if not pa.types.is_dictionary(array.type):
        return pc.is_in(array, wanted)
    is_wanted = pc.is_in(array.dictionary.cast(pa.string()), wanted)
    return pc.fill_null(is_wanted.take(array.indices), False)


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
