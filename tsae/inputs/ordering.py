"""Tables of keys that are too large to be held twice: sorted, searched and taken from by runs of rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

RUN_ROWS = 2**18
"""Rows that are copied at once. With the longest keys they take 1 GB: what Arrow counts in 32 bits ends at 2."""

SAMPLES = 64
"""Keys of each run that choose where the parts of a sorted table end."""

FEW = 1000
"""How many times more rows than keys there must be for looking up each key to be faster than hashing all rows."""


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, without a copy where it is one already."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


def ascends(keys: pa.ChunkedArray) -> bool:
    """Whether each key is greater than the one before."""
    return bool(pc.all(pc.less(keys[:-1], keys[1:])).as_py()) if len(keys) > 1 else True


def in_order(parts: list[pa.Table]) -> tuple[pa.Table, int]:
    """The rows of some tables sorted by the column `key`, the first of those of one key; in memory they are there once.

    Args:
        parts: The tables, of one schema, at least one; the list is empty afterwards.

    Returns:
        The table, in chunks of some `RUN_ROWS`, and how many rows were repetitions.
    """
    table = pa.concat_tables(parts)
    parts.clear()
    rows, is_sorted = len(table), ascends(table.column("key"))
    splitters = [] if is_sorted else _splitters(table)
    runs = _runs([table])
    del table
    found = list(runs) if is_sorted else list(_merged(_split(runs, splitters)))
    result = pa.concat_tables(found)
    pa.default_memory_pool().release_unused()
    return result, rows - len(result)


def _runs(tables: list[pa.Table]) -> Iterator[pa.Table]:
    """A table by runs, each one chunk; what has been given is no longer held here."""
    table = tables.pop()
    while len(table) > RUN_ROWS:
        run, table = table.slice(0, RUN_ROWS), table.slice(RUN_ROWS)
        yield run.combine_chunks()
    yield table.combine_chunks()


def _splitters(table: pa.Table) -> list[str]:
    """Keys that divide a table into parts of about a run each."""
    step = max(1, RUN_ROWS // SAMPLES)
    keys = table.column("key")
    sample = sorted(keys[row].as_py() for row in range(0, len(keys), step))
    return sample[SAMPLES::SAMPLES]


def _split(runs: Iterator[pa.Table], splitters: list[str]) -> list[list[pa.Table]]:
    """The pieces of each part, in the order of the runs; each sorted."""
    parts: list[list[pa.Table]] = [[] for _ in range(len(splitters) + 1)]
    for run in runs:
        run = run.take(pc.sort_indices(run.column("key")))
        ends = [_bisect(run.column("key"), splitter) for splitter in splitters]
        for part, start, end in zip(parts, [0, *ends], [*ends, len(run)], strict=True):
            if end > start:
                part.append(run.take(pa.array(np.arange(start, end))))  # a copy: a slice would keep the whole run
    return parts


def _merged(parts: list[list[pa.Table]]) -> Iterator[pa.Table]:
    """Each part as one sorted chunk, without repetitions: the sort is stable, and equal keys are in one part."""
    parts.reverse()
    while parts:
        pieces = parts.pop()
        if not pieces:
            continue
        part = pa.concat_tables(pieces)
        pieces.clear()
        part = part.take(pc.sort_indices(part.column("key"))).combine_chunks()
        keys = whole(part.column("key"))
        is_first = np.concatenate([[True], np.asarray(pc.not_equal(keys[1:], keys[:-1]))])
        yield part if is_first.all() else part.filter(pa.array(is_first)).combine_chunks()


def take_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Some rows of a table, in the order asked for, by runs: Arrow would copy all chunks into one first."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    ends = np.searchsorted(ascending, np.arange(0, len(table) + RUN_ROWS, RUN_ROWS))
    taken = [
        table.slice(run * RUN_ROWS, RUN_ROWS).combine_chunks().take(pa.array(ascending[start:end] - run * RUN_ROWS))
        for run, (start, end) in enumerate(itertools.pairwise(ends.tolist()))
        if end > start
    ]
    found = pa.concat_tables(taken).combine_chunks() if taken else table.slice(0, 0)
    return found.take(pa.array(np.argsort(order))) if (order[1:] < order[:-1]).any() else found


def find_sorted(column: pa.ChunkedArray, values: pa.Array) -> NDArray[np.int64]:
    """Where some texts are in a sorted column; -1 for what is not there. Looks only where they can be."""
    if not len(values):
        return np.empty(0, np.int64)
    ends = pc.min_max(values).as_py()
    first, last = _bisect(column, ends["min"]), _bisect(column, ends["max"])
    if last + 1 - first > FEW * len(values):
        return np.array([_row_of(column, value, first, last) for value in values.to_pylist()], np.int64)
    found = pc.index_in(values, value_set=column.slice(first, last + 1 - first)).cast(pa.int64())
    return np.asarray(pc.fill_null(pc.add(found, first), -1))


def _row_of(column: pa.ChunkedArray, value: str, first: int, last: int) -> int:
    row = _bisect(column, value, first, last)
    return row if row < len(column) and column[row].as_py() == value else -1


def _bisect(column: pa.ChunkedArray, value: str, first: int = 0, last: int | None = None) -> int:
    """The first row of a sorted column that is not before a text; Python orders texts as Arrow does their bytes."""
    low, high = first, len(column) if last is None else last
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if column[middle].as_py() < value else (low, middle)
    return low
