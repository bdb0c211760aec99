"""Labels of files: from `labels.csv`, from GTSRB's own tables, or from the names of their folders, the first that is there.

A `labels.csv` with nothing but its header gives no labels, and so turns off the others.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from tsae import paths
from tsae.archive.records import MAX_LABEL_BYTES
from tsae.errors import InputError
from tsae.inputs.listing import BATCH, COLUMNS, TEXTS, Finding, find_sorted, whole

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
        rows = itertools.chain.from_iterable(_gtsrb(finding.root, name) for name in sorted(finding.label_files))
        labelled = _join(finding, table, rows, finding.root)
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


def _labels_csv(source: str) -> Iterator[tuple[str, str]]:
    """Keys and labels of a `labels.csv`."""
    try:
        rows = _open_csv(source, ",")
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise ValueError("its first line does not name the columns path and label")
        yield from ((row["path"], row["label"]) for row in rows)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(source, error) from error


def _gtsrb(root: str, name: str) -> Iterator[tuple[str, str]]:
    """Keys and labels of a table of GTSRB; its public table of test images has no labels."""
    source, folder = paths.join(root, name), name.rpartition("/")[0]
    try:
        rows = _open_csv(source, ";")
        if {"Filename", "ClassId"} <= set(rows.fieldnames or ()):
            start = folder and folder + "/"
            yield from ((start + (row["Filename"] or ""), row["ClassId"]) for row in rows)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(source, error) from error


def _open_csv(source: str, delimiter: str) -> csv.DictReader[str]:
    data = io.BytesIO(paths.read_file(source))
    return csv.DictReader(io.TextIOWrapper(data, "utf-8-sig", newline=""), delimiter=delimiter)


def _join(finding: Finding, table: pa.Table, rows: Iterable[tuple[str, str]], source: str) -> pa.Table:
    """The table with the labels that rows of key and label give; of several for a key, the last."""
    keys, labels, too_long = _columns(rows)
    if too_long:
        finding.notes.append(f"{source}: {too_long} labels of more than {MAX_LABEL_BYTES} bytes are left out")
    parts = [_labels_of(part, keys, labels) for part in _slices(whole(table.column("key")))]
    column = pa.chunked_array(parts, TEXTS)
    rest = table.drop_columns(["label"]) if "label" in table.column_names else table
    return rest.append_column("label", column).combine_chunks()


def _columns(rows: Iterable[tuple[str, str]]) -> tuple[pa.Array, pa.Array, int]:
    """Keys, sorted, and labels; and how many were too long."""
    found = (row for row in rows if row[0] and row[1])
    tables, too_long = [pa.table({"key": pa.array([], COLUMNS["key"]), "label": pa.array([], TEXTS)})], 0
    while batch := list(itertools.islice(found, BATCH)):
        short = [row for row in batch if len(row[1].encode()) <= MAX_LABEL_BYTES]
        too_long += len(batch) - len(short)
        columns = [pa.array([row[0] for row in short], COLUMNS["key"]), pa.array([row[1] for row in short], pa.string())]
        tables.append(pa.table([columns[0], columns[1].dictionary_encode().cast(TEXTS)], names=["key", "label"]))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    order = pc.sort_indices(whole(table.column("key")))
    table = table.take(order).combine_chunks()
    keys = whole(table.column("key"))
    if len(keys) > 1:  # the sort is stable, so the last of equal ones stood last
        is_last = pa.concat_arrays([pc.not_equal(keys[:-1], keys[1:]), pa.array([True])])
        table = table.filter(is_last).combine_chunks()
    return whole(table.column("key")), whole(table.column("label")), too_long


def _slices(keys: pa.Array) -> Iterator[pa.Array]:
    return (keys.slice(start, BATCH) for start in range(0, len(keys), BATCH))


def _labels_of(part: pa.Array, keys: pa.Array, labels: pa.Array) -> pa.Array:
    found = pa.array(find_sorted(keys, part))
    return labels.take(pc.if_else(pc.less(found, 0), None, found))


def _from_folders(finding: Finding, table: pa.Table) -> pa.Table:
    """The names of the folders that images lie in, if all lie equally deep in at least two."""
    depths = pc.min_max(pc.count_substring(table.column("key"), "/")).as_py()
    if not len(table) or depths["min"] != depths["max"] or not depths["min"]:
        return table
    parts = [_folder_names(part) for part in _slices(whole(table.column("key")))]
    names = pa.chunked_array(parts, TEXTS).unify_dictionaries().combine_chunks()
    if len(names.dictionary) < 2:
        return table
    note = f"labels: {len(names.dictionary)} folder names; a {LABELS_FILE} with only the line path,label gives none"
    finding.notes.append(note)
    return table.append_column("label", names)


def _folder_names(keys: pa.Array) -> pa.Array:
    names = pc.replace_substring_regex(keys, r"(?s)^(?:.*/)?([^/]*)/[^/]*$", r"\1")
    return names.cast(pa.string()).dictionary_encode().cast(TEXTS)
