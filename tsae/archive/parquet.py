"""Parquet files as archives hold them: fixed encodings, and read only after their claims are checked. Owns no schema.

The same table gives the same bytes (with the same pyarrow). Reading takes the footer and the pages of one row group as
bytes, so it holds no open file, and any number of threads may read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tsae.archive.files import MAX_FILE_BYTES
from tsae.archive.layout import Column, RowGroup, read_layout
from tsae.archive.pages import check_pages
from tsae.errors import CorruptDataError

TAIL_BYTES = 8
"""At the end of a Parquet file: length of the footer, u32 little-endian, and `PAR1`."""

MAGIC = b"PAR1"

ZSTD_LEVEL = 9
"""Keys of 450 records took 4 % less than at pyarrow's level 1; above 9 nothing changed."""

PHYSICAL_TYPES = {
    pa.uint8(): 1,
    pa.uint32(): 1,
    pa.int64(): 2,
    pa.uint64(): 2,
    pa.float32(): 4,
    pa.float64(): 5,
    pa.string(): 6,
    pa.binary(): 6,
    pa.binary(16): 7,
    pa.binary(32): 7,
}
"""How Parquet stores each type that archives use: numbers of its enumeration `Type`."""


@dataclasses.dataclass(frozen=True)
class TableFile:
    """A kind of Parquet file.

    Attributes:
        name: For messages, such as "a shard".
        schema: Its columns; files of later versions may have more, nullable ones, after them.
        dictionaries: Columns of few different values.
        encodings: Of other columns, by name; PLAIN where there is none.
        incompressible: Columns that are stored as they are; all others are compressed with zstd.
        statistics: Columns whose least and greatest value each row group tells.
        self_checked: Columns whose values a checksum of each row covers, so that one damaged value is no damaged page.
    """

    name: str
    schema: pa.Schema
    dictionaries: tuple[str, ...] = ()
    encodings: tuple[tuple[str, str], ...] = ()
    incompressible: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    self_checked: tuple[str, ...] = ()

    def to_bytes(self, table: pa.Table, group_rows: Iterable[int], metadata: dict[str, Any] | None = None) -> bytes:
        """Writes a file.

        Args:
            table: Of this kind's schema, with at least one row.
            group_rows: Numbers of rows of the row groups.
            metadata: JSON values to keep under `tsae` in the file's key-value metadata.
        """
        sink, start = pa.BufferOutputStream(), 0
        with self._writer(sink) as writer:
            if metadata is not None:
                writer.add_key_value_metadata({"tsae": json.dumps(metadata, sort_keys=True)})
            for rows in group_rows:
                writer.write_table(table.slice(start, rows), row_group_size=rows)
                start += rows
        return bytes(sink.getvalue())

    def _writer(self, sink: pa.BufferOutputStream) -> pq.ParquetWriter:
        names = self.schema.names
        compression = {name: "none" if name in self.incompressible else "zstd" for name in names}
        encodings = {name: "PLAIN" for name in names if name not in self.dictionaries} | dict(self.encodings)
        return pq.ParquetWriter(
            sink,
            self.schema,
            use_dictionary=list(self.dictionaries),
            column_encoding=encodings,
            compression=compression,
            compression_level={name: ZSTD_LEVEL for name in names if name not in self.incompressible},
            write_statistics=list(self.statistics),
            write_page_checksum=True,
            store_schema=False,
        )

    def columns(self) -> tuple[Column, ...]:
        """What a footer must say of the columns."""
        return tuple(
            Column(
                field.name,
                PHYSICAL_TYPES[field.type],
                field.nullable,
                may_use_dictionary=field.name in self.dictionaries,
                is_self_checked=field.name in self.self_checked,
            )
            for field in self.schema
        )


def split_file(file: bytes) -> tuple[int, bytes]:
    """Where the footer of a Parquet file starts, and the footer.

    Raises:
        ValueError: if it does not end as a Parquet file does.
    """
    length = int.from_bytes(file[-TAIL_BYTES:-4], "little")
    start = len(file) - TAIL_BYTES - length
    if file[:4] != MAGIC or file[-4:] != MAGIC or start < len(MAGIC):
        raise ValueError("it does not begin and end as a Parquet file does")
    return start, file[start:-TAIL_BYTES]


class TableReader:
    """Reads the row groups of one file, given its footer."""

    def __init__(self, kind: TableFile, footer: bytes, data_bytes: int, source: str) -> None:
        """Checks what the footer claims.

        Args:
            kind: What the file must be.
            footer: Its footer, without length and `PAR1`.
            data_bytes: Size of the file before the footer.
            source: Its path, for messages.

        Raises:
            CorruptDataError: if it is no such file, or a damaged one.
        """
        self.kind, self.source = kind, source
        if data_bytes > MAX_FILE_BYTES:
            raise CorruptDataError(f"{source}: {data_bytes} bytes, at most {MAX_FILE_BYTES} are read; restore the file")
        self.row_groups: tuple[RowGroup, ...] = self._guard(lambda: read_layout(footer, data_bytes, kind.columns()))
        whole = MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC
        self._metadata = self._guard(lambda: pq.read_metadata(pa.BufferReader(whole)))
        self._guard(self._check_types)

    def _check_types(self) -> None:
        """The layout knows how values are stored, not what they are for."""
        schema = self._metadata.schema.to_arrow_schema()
        for field in self.kind.schema:
            if schema.field(field.name).type != field.type:
                raise ValueError(f"column {field.name} is {schema.field(field.name).type}, not {field.type}")

    @classmethod
    def of_file(cls, kind: TableFile, file: bytes, source: str) -> TableReader:
        """A reader of a whole file.

        Raises:
            CorruptDataError: if it is no such file, or a damaged one.
        """
        try:
            start, footer = split_file(file)
        except ValueError as error:
            raise CorruptDataError(f"{source}: not {kind.name} ({error}); restore the file") from error
        return cls(kind, footer, start, source)

    def added_columns(self) -> list[str]:
        """Columns that a later version has added, which this one does not read."""
        return list(self._metadata.schema.names[len(self.kind.schema) :])

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(group.rows for group in self.row_groups)

    def metadata(self) -> dict[str, Any]:
        """What `TableFile.to_bytes` was given as metadata; empty if nothing."""
        try:
            return dict(json.loads((self._metadata.metadata or {})[b"tsae"]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return {}

    def read(self, index: int, read_range: Callable[[int, int], bytes], names: Sequence[str] | None = None) -> pa.Table:
        """Reads a row group.

        Args:
            index: Its number.
            read_range: Gives so many bytes of the file from an offset.
            names: Columns to read, and no bytes beyond theirs; None is all.

        Raises:
            CorruptDataError: if it is damaged.
            OSError: if `read_range` raises it.
        """
        names = self.kind.schema.names if names is None else names
        group = self.row_groups[index].select(names)
        pages = read_range(group.start, group.end - group.start)
        return self._guard(lambda: self._parse(index, group, pages, list(names)))

    def _parse(self, index: int, group: RowGroup, pages: bytes, names: list[str]) -> pa.Table:
        check_pages(pages, group)
        file = bytearray(group.end)  # zeros before the pages, which take no memory until they are touched
        file[group.start :] = pages
        dictionaries = [name for name in self.kind.dictionaries if self.kind.schema.field(name).type == pa.string()]
        reader = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file)), metadata=self._metadata, read_dictionary=dictionaries)
        table = reader.read_row_group(index, names, use_threads=False)
        table.validate(full=True)  # text that is not UTF-8 would raise anywhere later
        return table

    def _guard(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptDataError(f"{self.source}: damaged, or not {self.kind.name} ({reason}); restore the file") from error


def read_table(kind: TableFile, file: bytes, source: str) -> pa.Table:
    """Reads a whole file into one table.

    Raises:
        CorruptDataError: if it is no such file, or a damaged one.
    """
    reader = TableReader.of_file(kind, file, source)
    tables = [reader.read(i, lambda start, length: file[start : start + length]) for i in range(len(reader.row_groups))]
    return pa.concat_tables(tables) if tables else kind.schema.empty_table()
