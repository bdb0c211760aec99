"""The images that an INPUT names, as columns: some 60 bytes for each, where Python's objects would take 200 and more."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tsae.archive.failures import Failure
from tsae.archive.records import MAX_KEY_BYTES, key_fault
from tsae.images import ENDINGS
from tsae.inputs.ordering import find_sorted, in_order, take_rows

TEXTS = pa.dictionary(pa.int32(), pa.string())
"""Texts that many rows share."""

COLUMNS = {
    "key": pa.large_string(),
    "label": TEXTS,
    "container": TEXTS,
    "position": pa.int64(),
    "size_bytes": pa.int64(),
    "version": TEXTS,
}
"""Columns of a listing, by the attributes of `Item`; all but the key may be missing."""

VERSIONS = pa.large_string()
"""Of `version` where each file has its own: a dictionary holds 2 GB at most, less than the ETags of 10^8 files."""

BATCH = 2**14
"""Rows that are Python's objects at once."""

JOINED_TABLES = 16
"""So many of `BATCH` rows are copied into one."""

CAREFUL = r"(?:^|/)\.{0,2}(?:/|$)|\x00|^[A-Za-z]:"
"""What a key with a fault that is not its length matches; some others match too."""

Rows = Sequence[int] | NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Item:
    """One image that an INPUT names: a file, or a member of a container.

    Attributes:
        key: Of the image.
        label: None if it has none.
        container: What to put behind the root, with `/`, for the path of its container; "" where the root is the
            container itself; None for a file.
        position: In the container: of the member's first byte in a tar, or its row in a Parquet file.
        size_bytes: Its size, where the listing tells it.
        version: The state of the container, or of a file in a remote store, when it was listed; None where not told.
    """

    key: str
    label: str | None = None
    container: str | None = None
    position: int | None = None
    size_bytes: int | None = None
    version: str | None = None


class Keys(Sequence[str]):
    """A column of keys, as a sequence of Python's strings that are made when they are asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self._column[index].to_pylist())
        return str(self._column[index].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BATCH):
            yield from self[start : start + BATCH]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Keys({self[:10]}, {len(self)} in all)"


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The images that an INPUT names.

    Attributes:
        root: Folder or container, local or URL, that keys are relative to.
        table: Some of `COLUMNS`, sorted by key: by code point, which is also the order of the UTF-8 bytes; no key twice.
        failures: What was found but cannot be an input.
        skipped: Number of files and members passed over because of their endings.
        notes: Lines that the user should see.
    """

    root: str
    table: pa.Table
    failures: list[Failure] = dataclasses.field(default_factory=list)
    skipped: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, root: str, keys: Sequence[str]) -> Listing:
        """A listing of files, of keys in any order."""
        return cls(root, pa.table({"key": pa.array(sorted(keys), COLUMNS["key"])}))

    @functools.cached_property
    def keys(self) -> Keys:
        """All keys."""
        return Keys(self.table.column("key"))

    @property
    def rows(self) -> range:
        """The numbers of all rows."""
        return range(len(self.table))

    @property
    def labels(self) -> dict[str, str]:
        """Key to label, of those that have one."""
        return {item.key: item.label for item in self.items(self.rows) if item.label is not None}

    def select(self, rows: Rows) -> pa.Table:
        """Some rows, with all columns, dictionaries resolved."""
        if isinstance(rows, range):
            table = self.table.slice(rows.start, len(rows))
        else:
            table = take_rows(self.table, np.asarray(rows, np.int64))
        return fill(table).cast(pa.schema({name: _plain(kind) for name, kind in COLUMNS.items()}))

    def items(self, rows: Rows) -> list[Item]:
        """Some rows as objects."""
        return items_of(self.select(rows))

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """The rows of some keys; -1 for one that is not listed."""
        return find_sorted(self.table.column("key"), pa.array(keys, COLUMNS["key"]))


def items_of(table: pa.Table) -> list[Item]:
    """The rows of what `Listing.select` gives."""
    return [Item(*row) for row in zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True)]


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if kind in (TEXTS, pa.large_string()) else kind


def fill(table: pa.Table) -> pa.Table:
    """A table with all `COLUMNS`, in their order; those that it lacks are null."""
    columns = [
        table.column(name) if name in table.column_names else pa.nulls(len(table), kind) for name, kind in COLUMNS.items()
    ]
    return pa.table(columns, names=list(COLUMNS))


class Batches:
    """Rows that become tables, a batch at a time."""

    def __init__(self, *names: str) -> None:
        self._names, self._rows, self._tables = names, list[tuple[Any, ...]](), list[pa.Table]()

    def add(self, *row: Any) -> None:
        """Adds a row."""
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = [pa.array([row[i] for row in self._rows], _plain(COLUMNS[name])) for i, name in enumerate(self._names)]
        table = pa.table(columns, names=list(self._names))
        self._tables.append(table.cast(pa.schema({name: COLUMNS[name] for name in self._names})))
        self._rows = []

    def tables(self) -> list[pa.Table]:
        """All rows; at least one table, maybe without any."""
        if self._rows or not self._tables:
            self._flush()
        return self._tables


class Finding:
    """What is found while an INPUT is listed: tables, and a batch of rows that are still objects.

    Attributes:
        root: As the listing's.
        failures: As the listing's.
        skipped: As the listing's.
        notes: As the listing's.
        label_files: Names, below the root, of tables with labels that were passed by.
        is_tree: Whether the names of folders may stand for labels.
    """

    def __init__(self, root: str, is_tree: bool = False) -> None:
        self.root, self.is_tree = root, is_tree
        self.failures: list[Failure] = []
        self.skipped = 0
        self.notes: list[str] = []
        self.label_files: list[str] = []
        self._tables: list[pa.Table] = []
        self._loose = 0
        self._rows: list[Mapping[str, Any]] = []
        self._keys: list[str] = []

    def add(self, key: str, **fields: Any) -> None:
        """Adds an image, with further attributes of `Item`; one whose name cannot be a key becomes a failure."""
        if fault := key_fault(key):
            self.fail(key, "InputError", fault)
            return
        self._keys.append(key)
        if fields:
            self._rows.append(fields)
        if len(self._keys) == BATCH:
            self._flush()

    def add_if_image(self, key: str, **fields: Any) -> None:
        """Adds a file that has the ending of an image; counts any other."""
        if has_image_ending(key):
            self.add(key, **fields)
        else:
            self.skipped += 1

    def fail(self, name: str, error: str, message: str) -> None:
        """Notes what was found but cannot be an input."""
        self.failures.append(Failure(printable(name), "list", error, message))

    def add_table(self, table: pa.Table, container: str | None = None, version: str = "") -> None:
        """Adds images as a table of some of `COLUMNS`; those whose names cannot be keys become failures.

        Args:
            table: The images.
            container: The one that they are members of; their keys are names in it then.
            version: Its state.
        """
        if container is not None:
            table = _in_container(table, container, version)
        table = table.cast(pa.schema({name: COLUMNS[name] for name in table.column_names}))
        suspects = may_have_fault(table.column("key"))
        for key in table.column("key").filter(suspects).to_pylist():
            if fault := key_fault(key):
                self.fail(key, "InputError", fault)
        if pc.any(suspects).as_py():
            table = table.filter(pa.array([key_fault(key) is None for key in table.column("key").to_pylist()]))
        self._append(table)

    def _append(self, table: pa.Table) -> None:
        """Adds a table; of small ones some are joined now and then, as each keeps more memory than it needs."""
        self._tables.append(table)
        self._loose += 1
        if self._loose == JOINED_TABLES:
            loose = self._tables[-self._loose :]
            if all(other.schema == table.schema for other in loose) and TEXTS not in table.schema.types:
                self._tables[-self._loose :] = [pa.concat_tables(loose).combine_chunks()]
            self._loose = 0

    def join(self, other: Finding) -> None:
        """Adds what was found elsewhere below the same root."""
        other._flush()
        self._tables += [table for table in other._tables if len(table)]
        self._loose = 0
        self.failures += other.failures
        self.skipped += other.skipped
        self.notes += other.notes

    def _flush(self) -> None:
        columns = {"key": pa.array(self._keys, COLUMNS["key"])}
        if self._rows:  # then for each key: no source tells more of some
            for name in self._rows[0]:
                kind = VERSIONS if name == "version" else COLUMNS[name]
                columns[name] = pa.array([row[name] for row in self._rows], _plain(kind)).cast(kind)
        self._append(pa.table(columns))
        self._keys, self._rows = [], []

    def sorted_table(self, source: str) -> pa.Table:
        """All rows, sorted and without repetitions; what was gathered is gone then."""
        self._flush()
        tables = [pa.concat_tables(self._tables, promote_options="default").unify_dictionaries()]
        self._tables, self._loose = [], 0
        table, repeated = in_order(tables)
        if repeated:
            self.notes.append(f"{source}: names {repeated} images more than once; each is compressed once")
        return table


def _in_container(table: pa.Table, container: str, version: str) -> pa.Table:
    """The table with keys below a container, and the columns that tell of it."""
    if container:
        kind = COLUMNS["key"]
        keys = pc.binary_join_element_wise(pa.scalar(container, kind), table.column("key"), pa.scalar("/", kind))
        table = table.set_column(table.column_names.index("key"), "key", keys)
    first = pa.repeat(pa.scalar(0, pa.int32()), len(table))
    for name, text in (("container", container), ("version", version)):
        table = table.append_column(name, pa.DictionaryArray.from_arrays(first, pa.array([text])))
    return table


def may_have_fault(keys: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Where `key_fault` has to be asked: it takes a hundred times as long."""
    return pc.or_(pc.match_substring_regex(keys, CAREFUL), pc.greater(pc.binary_length(keys), MAX_KEY_BYTES))


def has_image_ending(name: str) -> bool:
    """Whether a name marks an image."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A name that is not UTF-8 with its bytes percent-escaped; any other as it is."""
    return name if _is_utf8(name) else quote_from_bytes(os.fsencode(name), safe="/ ")
