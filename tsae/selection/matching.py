"""Which rows of a table of records meet the conditions of a selection: of what shards store, or of columns kept in memory."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tsae.archive import ENTROPY_CODED
from tsae.selection import Comparison, Condition

DERIVED: dict[str, tuple[str, ...]] = {
    "bytes": ("lossless", "stream"),
    "is_lossless": ("lossless",),
    "quality": ("coding",),
}
"""Columns that selections know and shards do not store, and the stored ones that they follow from."""


def derive(table: pa.Table, name: str) -> Any:
    """One of the `DERIVED` columns of a table of stored ones.

    `bytes` is int64, `is_lossless` bool, `quality` int16 and null where the coding has none.
    """
    if name == "bytes":
        lengths = [pc.fill_null(pc.binary_length(table.column(each)), 0).cast(pa.int64()) for each in DERIVED["bytes"]]
        return pc.add(*lengths)
    if name == "is_lossless":
        return pc.is_valid(table.column("lossless"))
    codings = table.column("coding").cast(pa.uint8()).cast(pa.int16())
    is_known = pc.greater_equal(codings, ENTROPY_CODED.start)
    return pc.if_else(is_known, pc.subtract(codings, pa.scalar(ENTROPY_CODED.start - 1, pa.int16())), None)


def mask(table: pa.Table, conditions: Sequence[Condition]) -> Any:
    """For each row whether it meets all conditions, as a boolean array without nulls; None where there is no condition."""
    found = None
    for condition in conditions:
        compare = COMPARISONS[condition.comparison]
        one = pc.fill_null(compare(table.column(condition.column), condition.value), False)
        found = one if found is None else pc.and_(found, one)
    return found


def _matches(column: pa.ChunkedArray, glob: str) -> pa.Array:
    """For each key whether a glob matches it, as `tsae.archive.matches`."""
    match = re.compile(fnmatch.translate(glob)).match
    return pa.array([match(key) is not None for chunk in column.chunks for key in chunk.to_pylist()], pa.bool_())


def _is_one_of(column: pa.ChunkedArray, values: Sequence[str]) -> pa.Array:
    """For each label whether it is one of some; a dictionary is not expanded, as in `column_values`."""
    array, wanted = column.unify_dictionaries().combine_chunks(), pa.array(values, pa.string())
    if not pa.types.is_dictionary(array.type):
        return pc.is_in(array, wanted)
    is_wanted = pc.is_in(array.dictionary.cast(pa.string()), wanted)
    return is_wanted.take(array.indices)


COMPARISONS: dict[Comparison, Callable[[pa.ChunkedArray, Any], Any]] = {
    "starts with": pc.starts_with,
    "matches": _matches,
    "is one of": _is_one_of,
    "is": pc.equal,
    "at least": pc.greater_equal,
    "at most": pc.less_equal,
}
