"""What is known of every record without decoding one: compact columns of a whole state, and finding keys in them.

A record takes 26 bytes, its key and 4 bytes for that, and 4 for each order that is asked for. Columns of a shard are shared
between states that have it, so a commit costs reading what is new.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tsae.archive import ArchiveFiles, Shard
from tsae.errors import CorruptDataError, TsaeError
from tsae.selection.matching import derive

NO_LABEL = -1

MAX_LABEL_BYTES = 4096
"""As in an archive: longer ones are damage."""

MERGED_SHARE = 300
"""Fewer new keys than one in so many are looked up, some 30 us each; else sorting all anew, 0.1 us each, is faster."""

NUMBERS: dict[str, Any] = {
    "widths": np.uint32,
    "heights": np.uint32,
    "psnrs_db": np.float32,
    "sizes_bytes": np.uint32,
    "qualities": np.uint8,
    "lossless": np.bool_,
    "crc32s": np.uint32,
    "labels": np.int32,
}
"""Columns of numbers and their types; see `Columns`."""


class Labels:
    """Numbers for labels, which only become more; shared by all states of a server."""

    def __init__(self) -> None:
        """Without any."""
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, name: str | None) -> int:
        """The number of a label, `NO_LABEL` for none."""
        if name is None:
            return NO_LABEL
        if name not in self._codes:
            if len(name.encode()) > MAX_LABEL_BYTES:
                raise ValueError(f"a label of more than {MAX_LABEL_BYTES} bytes")
            self._codes[name] = len(self.names)
            self.names.append(name)
        return self._codes[name]

    def find(self, name: str) -> int | None:
        """The number of a label that there is."""
        return self._codes.get(name)


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Columns of N records in the order of positions.

    Attributes:
        keys: Arrays of strings, one after the other.
        widths: Of the original images, in px, uint32 `[N]`.
        heights: Of the original images, in px, uint32 `[N]`.
        psnrs_db: float32 `[N]`; NaN where not measured.
        sizes_bytes: Of stream and lossless image, uint32 `[N]`.
        qualities: uint8 `[N]`; 0 where the coding has none.
        lossless: Whether the image is stored losslessly as well, bool `[N]`.
        crc32s: Checksums of the records, uint32 `[N]`.
        labels: Numbers of labels, int32 `[N]`.
    """

    keys: tuple[pa.StringArray, ...]
    widths: NDArray[np.uint32]
    heights: NDArray[np.uint32]
    psnrs_db: NDArray[np.float32]
    sizes_bytes: NDArray[np.uint32]
    qualities: NDArray[np.uint8]
    lossless: NDArray[np.bool_]
    crc32s: NDArray[np.uint32]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.widths)


def join(parts: Sequence[Columns]) -> Columns:
    """The records of all parts; keys are not copied."""
    empty = {name: np.empty(0, kind) for name, kind in NUMBERS.items()}
    numbers = {name: np.concatenate([empty[name], *(getattr(part, name) for part in parts)]) for name in NUMBERS}
    return Columns(tuple(itertools.chain(*(part.keys for part in parts))), **numbers)


def cut(columns: Columns) -> list[Columns]:
    """The parts that were joined, one for each array of keys; nothing is copied."""
    ends = list(itertools.accumulate(map(len, columns.keys)))
    return [
        Columns((keys,), **{name: getattr(columns, name)[end - len(keys) : end] for name in NUMBERS})
        for keys, end in zip(columns.keys, ends, strict=True)
    ]


def read_columns(shard: Shard, labels: Labels) -> Columns:
    """The columns of a shard.

    Raises:
        CorruptDataError: if it cannot be read.
    """
    try:
        part = join([_columns_of(shard.table(group), labels) for group in range(shard.row_groups)])
        keys = pa.concat_arrays(part.keys)  # one array of a shard, so that fewer have to be searched
        return dataclasses.replace(part, keys=(keys,))
    except (ValueError, pa.ArrowException) as error:
        raise CorruptDataError(f"{shard.source}: {error}; restore the file") from error


def _columns_of(table: pa.Table, labels: Labels) -> Columns:
    """The columns of a row group."""
    return Columns(
        keys=tuple(table.column("key").chunks),
        widths=_numpy(table.column("width")),
        heights=_numpy(table.column("height")),
        psnrs_db=_numpy(table.column("psnr_db")),
        sizes_bytes=_numpy(derive(table, "bytes")).astype(np.uint32),
        qualities=_numpy(pc.fill_null(derive(table, "quality"), 0)).astype(np.uint8),
        lossless=_numpy(derive(table, "is_lossless")),
        crc32s=_numpy(table.column("crc32")),
        labels=_label_codes(table.column("label"), labels),
    )


def _numpy(column: Any) -> NDArray[Any]:
    return np.asarray(column.to_numpy())


def _label_codes(column: pa.ChunkedArray, labels: Labels) -> NDArray[np.int32]:
    """Numbers of labels; a dictionary's entries are looked at once."""
    array = column.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes = np.array([labels.code(name) for name in array.dictionary.to_pylist()] + [NO_LABEL], np.int32)
    rows = array.indices.cast(pa.int64()).fill_null(-1).to_numpy()
    return np.asarray(codes[rows])


class Index:
    """All records of a state: a row of the index for each, in the order of positions, without those of damaged shards."""

    def __init__(
        self,
        parts: Sequence[tuple[int, Columns]],
        labels: Labels,
        damages: Sequence[str] = (),
        before: Index | None = None,
    ) -> None:
        """Joins what is known of shards.

        Args:
            parts: Position of the first record of each shard, and its columns.
            labels: Whose numbers the columns have.
            damages: What was wrong with shards that are left out.
            before: The index of the state before: if there is only little more now, its order of keys is built upon.
        """
        self.columns = join([part for _, part in parts])
        self.labels, self.damages = labels, tuple(damages)
        self._ends = list(itertools.accumulate(len(keys) for keys in self.columns.keys))
        starts = [end - len(keys) for end, keys in zip(self._ends, self.columns.keys, strict=True)]
        self._moved = [position - start for (position, _), start in zip(parts, starts, strict=True)]
        self.by_key = self._order(before)

    def _order(self, before: Index | None) -> NDArray[np.uint32] | None:
        """Rows in the order of keys; None if that is their own, as after a single run."""
        keys = self.columns.keys
        ends = [(part[0].as_py(), part[-1].as_py()) for part in keys]
        if all(before[1] < after[0] for before, after in itertools.pairwise(ends)):
            return None
        if before is not None and self._has_little_more_than(before):
            return _merge(before, keys[len(before.columns.keys) :])
        order = pc.sort_indices(pa.chunked_array(list(keys), pa.string()))
        return np.asarray(order.to_numpy().astype(np.uint32))

    def _has_little_more_than(self, before: Index) -> bool:
        old, new = before.columns.keys, self.columns.keys
        starts_same = len(old) <= len(new) and all(a is b for a, b in zip(old, new, strict=False))
        return starts_same and (len(self) - len(before)) * MERGED_SHARE < len(before)

    def __len__(self) -> int:
        """Number of records."""
        return len(self.columns)

    def key(self, row: int) -> str:
        """The key of a row."""
        part = bisect.bisect_right(self._ends, row)
        keys = self.columns.keys[part]
        return str(keys[row - self._ends[part] + len(keys)].as_py())

    def position(self, row: int) -> int:
        """The position in the archive of a row."""
        return row + self._moved[bisect.bisect_right(self._ends, row)]

    def row(self, rank: int) -> int:
        """The row at a place in the order of keys."""
        return rank if self.by_key is None else int(self.by_key[rank])

    def rank(self, key: str) -> int:
        """How many keys are less than a key."""
        return bisect.bisect_left(range(len(self)), key, key=lambda rank: self.key(self.row(rank)))

    def find(self, key: str) -> int | None:
        """The row of a key; None if there is none."""
        rank = self.rank(key)
        if rank < len(self) and self.key(row := self.row(rank)) == key:
            return row
        return None

    def ranks_of(self, prefix: str) -> tuple[int, int]:
        """First and last (excluded) place in the order of keys of those with a prefix."""
        start = self.rank(prefix)
        end = bisect.bisect_right(range(len(self)), prefix, lo=start, key=lambda rank: self.key(self.row(rank))[: len(prefix)])
        return start, end

    def rows_between(self, start: int, end: int) -> NDArray[np.int64] | NDArray[np.uint32]:
        """Rows of places in the order of keys."""
        return np.arange(start, end) if self.by_key is None else self.by_key[start:end]

    def label(self, row: int) -> str | None:
        """The label of a row."""
        code = int(self.columns.labels[row])
        return None if code == NO_LABEL else self.labels.names[code]


def _merge(before: Index, keys: Sequence[pa.StringArray]) -> NDArray[np.uint32]:
    """Rows in the order of keys of an index and some more keys, whose places are looked up in its order."""
    more = pa.chunked_array(list(keys), pa.string())
    order = pc.sort_indices(more)
    ranks = [before.rank(key) for key in more.take(order).to_pylist()]
    old = np.arange(len(before), dtype=np.uint32) if before.by_key is None else before.by_key
    return np.insert(old, ranks, order.to_numpy().astype(np.uint32) + np.uint32(len(before)))


class Indexer:
    """Makes indices of states, one after the other; what a shard has in common with the last state is not read again."""

    def __init__(self) -> None:
        """Without any."""
        self.labels = Labels()
        self._known: dict[str, Columns] = {}
        self._last: Index | None = None

    def make(self, files: ArchiveFiles, go_on: Callable[[], bool] = lambda: True) -> Index:
        """Reads what is not known yet.

        Args:
            files: The state.
            go_on: Asked before each shard; if not, what has been read is an index.
        """
        names, parts, damages, position = [], [], [], 0
        for entry in files.entries():
            if not go_on():
                break
            try:
                part = self._known.get(entry.file) or read_columns(files.open_entry(entry), self.labels)
                names.append(entry.file)
                parts.append((position, part))
            except TsaeError as error:
                damages.append(str(error))
            position += entry.rows
        self._last = Index(parts, self.labels, damages, self._last)
        self._known = dict(zip(names, cut(self._last.columns), strict=True))
        return self._last
