"""Parquet files of images, as Hugging Face lays them out: a struct `image` of `bytes` and `path`, and a column `label`."""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tsae import paths
from tsae.archive.records import MAX_LABEL_BYTES
from tsae.errors import InputError
from tsae.inputs.containers import check_unchanged, version_of
from tsae.inputs.listing import BATCH, COLUMNS, TEXTS, Finding, may_have_fault

LOCAL_BLOCK_BYTES, REMOTE_BLOCK_BYTES = 2**16, 2**22
"""Read at once."""

READ_ROWS, READ_BYTES = 64, 2**29
"""Most images, and bytes, that are in memory at once while they are read."""

READ_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError)
"""What reading a damaged Parquet file raises."""


def one_line(error: BaseException) -> str:
    """The start of what an error says."""
    return " ".join(str(error).split())[:200]


def open_table(file: paths.OpenFile, block_bytes: int | None = None) -> pq.ParquetFile:
    """Opens a Parquet file, of which no more is read than is asked for.

    Args:
        file: The file.
        block_bytes: What is read at once; None is by where it is.

    Raises:
        ArrowException, OSError: if it is none.
    """
    if block_bytes is None:
        block_bytes = REMOTE_BLOCK_BYTES if paths.is_url(file.path) else LOCAL_BLOCK_BYTES
    return pq.ParquetFile(pa.PythonFile(file.as_stream(block_bytes), mode="r"), buffer_size=block_bytes)


def has_images(schema: pa.Schema) -> bool:
    """Whether a table has a column of images."""
    if "image" not in schema.names:
        return False
    kind = schema.field("image").type
    return _is_binary(kind) or (pa.types.is_struct(kind) and "bytes" in kind.names and _is_binary(kind.field("bytes").type))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def find_in_table(finding: Finding, path: str, container: str) -> None:
    """Adds the images of a Parquet file, with their labels.

    Args:
        finding: To add to.
        path: Of the file, local or URL.
        container: Its name below the root, "" if it is the root.

    Raises:
        InputError: if it is damaged or has no column of images.
        OSError: if it cannot be read.
    """
    with paths.open_file(path) as file:
        version = version_of(file.facts())
        try:
            table = open_table(file)
            if not has_images(table.schema_arrow):
                has = ", ".join(table.schema_arrow.names)[:200]
                raise InputError(f"{path}: no column image with bytes, but {has}; name a Parquet file of images")
            names, labels = _names(finding, table, path), _labels(finding, table, path)
        except READ_ERRORS as error:  # pyarrow's own are OSErrors too
            raise InputError(f"{path}: no intact Parquet file ({one_line(error)}); fetch it again") from error
    columns = {"key": names, "label": labels, "position": pa.array(range(len(names)), COLUMNS["position"])}
    finding.add_table(pa.table(columns), container, version)


def _column(table: pq.ParquetFile, leaf: str) -> Iterator[pa.Array]:
    """The parts of a column, or of a field of the struct `image`."""
    column, _, field = leaf.partition(".")
    for batch in table.iter_batches(BATCH, columns=[leaf], use_threads=False):
        values = batch.column(column)
        yield pc.struct_field(values, field) if field else values


def _names(finding: Finding, table: pq.ParquetFile, path: str) -> pa.Array:
    """The fields `path`, if there is one for each row and they can be keys; else the numbers of the rows."""
    rows, kind = table.metadata.num_rows, table.schema_arrow.field("image").type
    if pa.types.is_struct(kind) and "path" in kind.names:
        names = pa.chunked_array([part.cast(COLUMNS["key"]) for part in _column(table, "image.path")], COLUMNS["key"])
        if not names.null_count and pc.count_distinct(names).as_py() == rows and not pc.any(may_have_fault(names)).as_py():
            if rows > BATCH and not _ascend(names.combine_chunks()):
                finding.notes.append(f"{path}: its rows are not in the order of image.path, so it is read many times; sort it")
            return names.combine_chunks()
        if names.null_count < rows:
            finding.notes.append(f"{path}: not each image.path is there, a key, and the only one; keys are row numbers")
    numbers = pa.array(range(rows)).cast(COLUMNS["key"])
    return pc.utf8_lpad(numbers, 9, "0")


def _ascend(names: pa.Array) -> bool:
    """Whether keys in their order find the rows in theirs; else each task reads the whole file."""
    return bool(pc.all(pc.less(names[:-1], names[1:])).as_py())


def _labels(finding: Finding, table: pq.ParquetFile, path: str) -> pa.Array:
    """The column `label` as text: as it is stored, or the names of classes that the metadata give."""
    schema = table.schema_arrow
    if "label" not in schema.names:
        return pa.nulls(table.metadata.num_rows, TEXTS)
    kind = schema.field("label").type
    if pa.types.is_nested(kind) or _is_binary(kind):
        finding.notes.append(f"{path}: its column label is of type {kind}, not number or text; images get no labels")
        return pa.nulls(table.metadata.num_rows, TEXTS)
    names = _class_names(schema) if pa.types.is_integer(kind) else []
    parts = [_as_text(part, names) for part in _column(table, "label")]
    labels = pa.chunked_array(parts, TEXTS).unify_dictionaries().combine_chunks()
    return _short(finding, labels, path)


def _class_names(schema: pa.Schema) -> list[str]:
    """The names of a `ClassLabel` in the metadata that the library `datasets` writes; none if they are not understood."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]
        names = feature["names"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _as_text(part: pa.Array, names: Sequence[str]) -> pa.Array:
    if names:  # -1 stands for no label there
        named = [_class_name(number, names) for number in part.to_pylist()]
        return pa.array(named, pa.string()).dictionary_encode().cast(TEXTS)
    text = part.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), None, text).dictionary_encode().cast(TEXTS)


def _class_name(number: int | None, names: Sequence[str]) -> str | None:
    if number is None or number == -1:
        return None
    return names[number] if 0 <= number < len(names) else str(number)


def _short(finding: Finding, labels: pa.DictionaryArray, path: str) -> pa.DictionaryArray:
    """The labels without those that are too long."""
    is_long = pc.greater(pc.binary_length(labels.dictionary), MAX_LABEL_BYTES)
    if not pc.any(is_long).as_py():
        return labels
    texts = pc.if_else(is_long, None, labels.dictionary).take(labels.indices)
    dropped = texts.null_count - labels.null_count
    finding.notes.append(f"{path}: {dropped} labels of more than {MAX_LABEL_BYTES} bytes are left out")
    return texts.dictionary_encode().cast(TEXTS)


def read_rows(file: paths.OpenFile, rows: Sequence[int], version: str | None) -> Iterator[tuple[int, Any]]:
    """Reads images of a Parquet file, each row group once, a few rows of it in memory at a time.

    Args:
        file: The file.
        rows: Their numbers, ascending.
        version: Its state when it was listed.

    Yields:
        For each row its number and bytes, or the path of a file beside the Parquet file, or the error that it met.
    """
    try:
        table = open_table(file)
        groups = list(_by_group(table.metadata, rows))
    except READ_ERRORS as error:
        yield from ((row, error) for row in rows)
        return
    check = functools.partial(check_unchanged, file, version)
    for group, start, wanted in groups:
        left = list(wanted)
        try:
            for row, value in _group_values(table, group, start, wanted, check):
                yield row, value
                left.remove(row)
        except READ_ERRORS as error:
            yield from ((row, error) for row in left)


def _by_group(metadata: pq.FileMetaData, rows: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Row groups, their first rows, and which rows of them are wanted."""
    start = first = 0
    for group in range(metadata.num_row_groups):
        end = start + metadata.row_group(group).num_rows
        last = bisect.bisect_left(rows, end, first)
        if last > first:
            yield group, start, list(rows[first:last])
        start, first = end, last
    if first < len(rows):
        raise ValueError(f"it has {start} rows, not row {rows[first]}")


def _group_values(
    table: pq.ParquetFile, group: int, start: int, wanted: Iterable[int], check: Callable[[], None]
) -> Iterator[tuple[int, Any]]:
    """The wanted rows of a row group, which starts at row `start`; `check` is asked whether what was read still counts."""
    remaining = iter(wanted)
    row = next(remaining, None)
    rows = _rows_at_once(table.metadata, group)
    for batch in table.iter_batches(rows, row_groups=[group], columns=["image"], use_threads=False):
        if row is not None and row < start + len(batch):
            check()
        while row is not None and row < start + len(batch):
            yield row, _value(batch.column(0)[row - start].as_py())
            row = next(remaining, None)
        if row is None:
            return
        start += len(batch)
    raise ValueError(f"row group {group} ends before row {row}")


def _rows_at_once(metadata: pq.FileMetaData, group: int) -> int:
    """No image takes more than its row group does uncompressed; but by a dictionary, each may take that."""
    group_bytes = metadata.row_group(group).total_byte_size
    return int(max(1, min(READ_ROWS, READ_BYTES // max(1, group_bytes))))


def _value(cell: Any) -> bytes | str | ValueError:
    fields = cell if isinstance(cell, dict) else {"bytes": cell}
    value = fields.get("bytes")
    if value is None:
        value = fields.get("path")
    return ValueError("its row has neither bytes nor a path") if value is None else value
