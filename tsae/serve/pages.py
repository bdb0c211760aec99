"""Which records a client asked for, in which order, a page at a time. Milliseconds for 100,000 records."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tsae.serve.columns import Index

Sort = Literal["key", "psnr", "bytes"]


@dataclasses.dataclass(frozen=True)
class Query:
    """What to choose and how to sort it.

    Attributes:
        prefix: Of keys; empty is all.
        label: None is any or none.
        min_psnr_db: Leaves out worse images, and those that were not measured; None is all.
        sort: What to sort by; equal ones by key.
        is_descending: The other way round; images that were not measured come last either way.
    """

    prefix: str = ""
    label: str | None = None
    min_psnr_db: float | None = None
    sort: Sort = "key"
    is_descending: bool = False


@dataclasses.dataclass(frozen=True)
class Page:
    """Some of the records that a query finds.

    Attributes:
        rows: Of the index, in order.
        total: How many the query finds.
        has_more: Whether others follow.
    """

    rows: list[int]
    total: int
    has_more: bool


class Pages:
    """Answers queries on an index; keeps the orders that were asked for. Safe to share between threads."""

    def __init__(self, index: Index) -> None:
        """Sorts nothing yet."""
        self._index = index
        self._orders: dict[tuple[Sort, bool], NDArray[np.uint32]] = {}

    def page(self, query: Query, limit: int, after: str | None = None) -> Page:
        """A page of what a query finds.

        Args:
            query: What to find.
            limit: Most records of the page.
            after: The last key of the page before; None for the first page.

        Raises:
            KeyError: if there is no record of the key `after`, and the order is not that of keys.
        """
        rows = self._in_order(query)
        start = 0 if after is None else self._place_after(query, after)
        mask = self._mask(query, rows)
        if mask is None:
            found = rows[start : start + limit]
            return Page(found.tolist(), len(rows), start + limit < len(rows))
        places = np.flatnonzero(mask)
        first = int(np.searchsorted(places, start))
        chosen = rows[places[first : first + limit]]
        return Page(chosen.tolist(), len(places), first + limit < len(places))

    def _in_order(self, query: Query) -> NDArray[Any]:
        """Rows in the order of a query; where that is the order of keys, those with its prefix."""
        if query.sort != "key":
            return self._order(query.sort, query.is_descending)
        rows = self._index.rows_between(*self._range(query))
        return rows[::-1] if query.is_descending else rows

    def _range(self, query: Query) -> tuple[int, int]:
        return self._index.ranks_of(query.prefix) if query.prefix else (0, len(self._index))

    def _mask(self, query: Query, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which of the rows a query finds; None if all of them."""
        columns, conditions = self._index.columns, []
        if query.prefix and query.sort != "key":
            has_prefix = np.zeros(len(self._index), np.bool_)
            has_prefix[self._index.rows_between(*self._range(query))] = True
            conditions.append(has_prefix[rows])
        if query.label is not None:
            code = self._index.labels.find(query.label)
            conditions.append(columns.labels[rows] == (-2 if code is None else code))
        if query.min_psnr_db is not None:
            conditions.append(columns.psnrs_db[rows] >= np.float64(query.min_psnr_db))
        return np.logical_and.reduce(conditions) if conditions else None

    def _values(self, sort: Sort, is_descending: bool) -> NDArray[Any]:
        """What to sort by, ascending."""
        columns = self._index.columns
        values = columns.psnrs_db if sort == "psnr" else columns.sizes_bytes.astype(np.int64)
        return -values if is_descending else values

    def _order(self, sort: Sort, is_descending: bool) -> NDArray[np.uint32]:
        if (sort, is_descending) not in self._orders:
            rows = self._index.rows_between(0, len(self._index))
            order = np.argsort(self._values(sort, is_descending)[rows], kind="stable")
            self._orders[sort, is_descending] = rows[order].astype(np.uint32)
        return self._orders[sort, is_descending]

    def _place_after(self, query: Query, after: str) -> int:
        """The place in the order right behind a key."""
        index = self._index
        if query.sort == "key":
            start, end = self._range(query)
            rank = index.rank(after)
            is_there = rank < len(index) and index.key(index.row(rank)) == after
            place = end - rank if query.is_descending else rank + is_there - start
            return min(max(place, 0), end - start)
        row = index.find(after)
        if row is None:
            raise KeyError(after)
        order = self._order(query.sort, query.is_descending)
        wanted = (self._value(query, row), after)
        return bisect.bisect_right(order, wanted, key=lambda other: (self._value(query, other), index.key(int(other))))

    def _value(self, query: Query, row: int) -> float:
        columns = self._index.columns
        value = float(columns.psnrs_db[row] if query.sort == "psnr" else columns.sizes_bytes[row])
        return math.inf if math.isnan(value) else -value if query.is_descending else value


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
