"""Which records a client asked for, in which order, a page at a time. Milliseconds for 100,000 records."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsae.selection import Selection, Sort
from tsae.selection.matching import mask
from tsae.serve.columns import Index


@dataclasses.dataclass(frozen=True)
class Page:
    """Some of the records that a selection finds.

    Attributes:
        rows: Of the index, in order.
        total: How many there are without regard to `after` and `limit`.
        has_more: Whether others follow.
    """

    rows: list[int]
    total: int
    has_more: bool


class Pages:
    """Evaluates selections on an index; keeps the orders that were asked for. Safe to share between threads."""

    def __init__(self, index: Index) -> None:
        """Sorts nothing yet."""
        self._index = index
        self._orders: dict[tuple[Sort, bool], NDArray[Any]] = {}

    def page(self, selection: Selection) -> Page:
        """A page of what a selection finds.

        Raises:
            KeyError: if there is no record of the key `after`, and the order is not that of keys.
        """
        rows = self._in_order(selection)
        start = 0 if selection.after is None else self._place_after(selection, selection.after)
        limit = len(rows) if selection.limit is None else selection.limit
        found = self._found(selection, rows)
        if found is None:
            return Page(rows[start : start + limit].tolist(), len(rows), start + limit < len(rows))
        places = np.flatnonzero(found)
        first = int(np.searchsorted(places, start))
        return Page(rows[places[first : first + limit]].tolist(), len(places), first + limit < len(places))

    def _in_order(self, selection: Selection) -> NDArray[Any]:
        """Rows in the order of a selection; where that is the order of keys, those whose keys start as they must."""
        if selection.sort == "key":
            rows = self._index.rows_between(*self._range(selection))
            return rows[::-1] if selection.reverse else rows
        if selection.sort == "position":
            rows = np.arange(len(self._index))
            return rows[::-1] if selection.reverse else rows
        return self._order(selection.sort, selection.reverse)

    def _range(self, selection: Selection) -> tuple[int, int]:
        """First and last (excluded) place in the order of keys of those that start as they must."""
        ranges = [self._index.ranks_of(text) for text in selection.starts]
        start, end = max((start for start, _ in ranges), default=0), min((end for _, end in ranges), default=len(self._index))
        return start, max(start, end)

    def _found(self, selection: Selection, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which of the rows a selection finds; None if all of them. Where keys start is looked up in their order."""
        conditions = [each for each in selection.conditions if each.comparison != "starts with"]
        table = self._table.select(sorted({each.column for each in conditions}))
        is_part = len(rows) < len(self._index)
        found = mask(table.take(rows) if is_part else table, conditions)
        masks = [] if found is None else [np.asarray(found.to_numpy(zero_copy_only=False))]
        if selection.starts and selection.sort != "key":
            starts_so = np.zeros(len(self._index), np.bool_)
            starts_so[self._index.rows_between(*self._range(selection))] = True
            masks.append(starts_so)
        if not masks:
            return None
        array: NDArray[np.bool_] = np.logical_and.reduce(masks)
        return array if is_part else array[rows]

    @functools.cached_property
    def _table(self) -> pa.Table:
        """The index as selections know records; numbers are not copied."""
        columns, labels = self._index.columns, self._index.labels
        codes = pa.array(columns.labels, mask=columns.labels < 0)
        return pa.table(
            {
                "key": pa.chunked_array(list(columns.keys), pa.string()),
                "label": pa.DictionaryArray.from_arrays(codes, pa.array(labels.names, pa.string())),
                "width": columns.widths,
                "height": columns.heights,
                "psnr_db": columns.psnrs_db,
                "bytes": columns.sizes_bytes,
                "quality": columns.qualities,
                "is_lossless": columns.lossless,
            }
        )

    def _order(self, sort: Sort, reverse: bool) -> NDArray[Any]:
        if (sort, reverse) not in self._orders:
            columns = self._index.columns
            values: NDArray[Any] = columns.psnrs_db if sort == "psnr" else columns.sizes_bytes.astype(np.int64)
            self._orders[sort, reverse] = np.argsort(-values if reverse else values, kind="stable").astype(np.uint32)
        return self._orders[sort, reverse]

    def _place_after(self, selection: Selection, after: str) -> int:
        """The place in the order right behind a key."""
        index, sort, reverse = self._index, selection.sort, selection.reverse
        if sort == "key":
            start, end = self._range(selection)
            rank = index.rank(after)
            is_there = rank < len(index) and index.key(index.row(rank)) == after
            return min(max(end - rank if reverse else rank + is_there - start, 0), end - start)
        row = index.find(after)
        if row is None:
            raise KeyError(after)
        if sort == "position":
            return len(index) - row if reverse else row + 1
        values = index.columns.psnrs_db if sort == "psnr" else index.columns.sizes_bytes

        def place(row: int) -> tuple[float, int]:
            value = float(values[row])
            return (math.inf if math.isnan(value) else -value if reverse else value), row

        return bisect.bisect_right(self._order(sort, reverse), place(row), key=lambda other: place(int(other)))


def describe(index: Index, row: int) -> dict[str, Any]:
    """What a page tells of a record; JSON values."""
    columns = index.columns
    psnr_db, quality = float(columns.psnrs_db[row]), int(columns.qualities[row])
    return {
        "key": index.key(row),
        "label": index.label(row),
        "width": int(columns.widths[row]),
        "height": int(columns.heights[row]),
        "psnr_db": None if math.isnan(psnr_db) else psnr_db,
        "bytes": int(columns.sizes_bytes[row]),
        "lossless": bool(columns.lossless[row]),
        "quality": quality or None,
    }
