"""Labels of files: from `labels.csv`, from GTSRB's own tables, or from the names of their folders, the first that is there.

A `labels.csv` with nothing but its header gives no labels, and so turns off the others.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from tsae import paths
from tsae.archive.records import MAX_LABEL_BYTES
from tsae.errors import InputError
from tsae.inputs.listing import BATCH, TEXTS, Batches, Finding
from tsae.inputs.ordering import find_sorted, whole

LABELS_FILE = "labels.csv"
GTSRB_FILE = re.compile(r"(?:^|/)GT-[^/]*\.csv$")
"""`GT-00000.csv` in each folder of a class, `GT-final_test.csv` beside the test images."""


def is_label_file(name: str) -> bool:
    """Whether a name marks a table of GTSRB's labels."""
    return bool(GTSRB_FILE.search(name))


def add_labels(finding: Finding, table: pa.Table) -> pa.Table:
    """Gives images the labels that lie beside them, if any do.

    A table that cannot be read is not passed over: on an update, all images would lose their labels.

    Args:
        finding: What was found.
        table: Its images, sorted by key.

    Raises:
        InputError: if a table of labels cannot be read.
    """
    source = paths.join(finding.root, LABELS_FILE)
    if _is_there(source):
        return _join(finding, table, _labels_csv(source), source)
    if finding.label_files:
        tables = [part for name in sorted(finding.label_files) for part in _gtsrb(finding.root, name)]
        labelled = _join(finding, table, tables, finding.root)
        if count := len(table) - labelled.column("label").null_count:
            finding.notes.append(f"labels: of {count} images, from the column ClassId of GT-*.csv")
            return labelled
    return _from_folders(finding, table) if finding.is_tree else table


def _is_there(source: str) -> bool:
    try:
        return paths.kind(source) == "file"
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{source}: labels cannot be read ({reason}); fix or remove the file")


def _labels_csv(source: str) -> list[pa.Table]:
    """Keys and labels of a `labels.csv`."""
    try:
        with paths.open_file(source) as file:
            rows = _columns(file, ",", "path", "label")
            if rows is None:
                raise ValueError("its first line does not name the columns path and label")
            return _batches(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(source, error) from error


def _gtsrb(root: str, name: str) -> list[pa.Table]:
    """Keys and labels of a table of GTSRB; its public table of test images has no labels."""
    source, folder = paths.join(root, name), name.rpartition("/")[0]
    start = folder and folder + "/"
    try:
        with paths.open_file(source) as file:
            rows = _columns(file, ";", "Filename", "ClassId") or ()
            return _batches((start + key, label) for key, label in rows if key)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(source, error) from error


def _columns(file: paths.OpenFile, delimiter: str, *names: str) -> Iterator[tuple[str, str]] | None:
    """Two columns of a table with a header, "" where a row is too short; None if the header does not name both."""
    rows = csv.reader(io.TextIOWrapper(file.as_stream(2**20), "utf-8-sig", newline=""), delimiter=delimiter)
    header = next(rows, [])
    if not set(names) <= set(header):
        return None
    first, second = map(header.index, names)
    return ((row[first], row[second]) for row in rows if len(row) > max(first, second))


def _batches(rows: Iterable[tuple[str, str]]) -> list[pa.Table]:
    batches = Batches("key", "label")
    for key, label in rows:
        if key and label:
            batches.add(key, label)
    return batches.tables()


def _join(finding: Finding, table: pa.Table, tables: list[pa.Table], source: str) -> pa.Table:
    """The table with the labels that tables of key and label give."""
    lookup = sort_labels(finding, tables, source)
    column = pa.chunked_array([lookup.labels_of(part) for part in _slices(table.column("key"))], TEXTS)
    rest = table.drop_columns(["label"]) if "label" in table.column_names else table
    return rest.append_column("label", column)


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """Labels by key.

    Attributes:
        keys: Sorted.
        labels: Of these keys.
    """

    keys: pa.Array
    labels: pa.Array

    def labels_of(self, keys: pa.Array) -> pa.Array:
        """The labels of some keys; null where there is none."""
        found = pa.array(find_sorted(pa.chunked_array([self.keys]), keys))
        return self.labels.take(pc.if_else(pc.less(found, 0), None, found))


def sort_labels(finding: Finding, tables: list[pa.Table], source: str) -> Lookup:
    """Sorts tables of key and label, which are gone then; of several labels of a key, the last counts.

    Args:
        finding: Where it is noted how many labels are too long.
        tables: At least one.
        source: Where they are from, for messages.
    """
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    tables.clear()
    table = shorten(finding, table, source)
    table = table.take(pc.sort_indices(whole(table.column("key")))).combine_chunks()
    keys = whole(table.column("key"))
    if len(keys) > 1:  # the sort is stable, so the last of equal ones stood last
        is_last = pa.concat_arrays([pc.not_equal(keys[:-1], keys[1:]), pa.array([True])])
        if not pc.all(is_last).as_py():
            table = table.filter(is_last).combine_chunks()
    return Lookup(whole(table.column("key")), whole(table.column("label")))


def shorten(finding: Finding, table: pa.Table, source: str) -> pa.Table:
    """The rows of a table with labels that are not too long."""
    labels = whole(table.column("label"))
    is_long = pc.greater(pc.binary_length(labels.dictionary), MAX_LABEL_BYTES)
    if not pc.any(is_long).as_py():
        return table
    keep = pc.invert(is_long.take(labels.indices))
    finding.notes.append(f"{source}: {len(keep) - keep.true_count} labels of more than {MAX_LABEL_BYTES} bytes are left out")
    return table.filter(keep).combine_chunks()


def _slices(keys: pa.ChunkedArray) -> Iterator[pa.Array]:
    return (whole(keys.slice(start, BATCH)) for start in range(0, len(keys), BATCH))


class FolderLabels:
    """Whether the names of folders are labels: if all images lie equally deep, in folders of at least two names."""

    def __init__(self) -> None:
        self._depths: set[int] = set()
        self._names: set[str] = set()  # two at most, which is enough to know

    @property
    def are_labels(self) -> bool:
        """Whether they are, of all images so far."""
        return len(self._depths) == 1 and 0 not in self._depths and len(self._names) > 1

    def add(self, keys: pa.Array) -> None:
        """Adds images by their keys."""
        self._depths.update(pc.count_substring(keys, "/").unique().to_pylist())
        if len(self._names) < 2 and 0 not in self._depths:
            self._names.update(folder_names(keys).dictionary[:2].to_pylist())


def _from_folders(finding: Finding, table: pa.Table) -> pa.Table:
    """The names of the folders that images lie in, if these are labels."""
    keys, folders = table.column("key"), FolderLabels()
    for part in _slices(keys):
        folders.add(part)
    if not folders.are_labels:
        return table
    names = pa.chunked_array(map(folder_names, _slices(keys)), TEXTS).unify_dictionaries()
    note = f"labels: {len(names.chunk(0).dictionary)} folder names; a {LABELS_FILE} with only the line path,label gives none"
    finding.notes.append(note)
    return table.append_column("label", names)


def folder_names(keys: pa.Array) -> pa.Array:
    """The names of the folders that images lie in, by keys with a `/`, as `TEXTS`."""
    names = pc.replace_substring_regex(keys, r"(?s)^(?:.*/)?([^/]*)/[^/]*$", r"\1")
    return names.cast(pa.string()).dictionary_encode().cast(TEXTS)
