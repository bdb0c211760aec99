"""Lists of images: `.txt` with a path a line, or `.parquet` with a column `path`. Read block by block."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from tsae import paths
from tsae.errors import InputError
from tsae.inputs.containers import is_container
from tsae.inputs.listing import BATCH, CAREFUL, COLUMNS, Finding, printable
from tsae.inputs.tables import one_line, open_table

BLOCK_BYTES = 2**20

SPECIAL = CAREFUL + r"|://|(?i:\.parquet$|\.tar(?:\.|$)|\.t(?:gz|bz2?|xz|zst)$)"
"""What paths match that are no keys as they are, or that name containers; some others match too."""


def find_in_list(source: str, root: str | None) -> tuple[Finding, list[str]]:
    """The images and containers that a list names.

    Args:
        source: Of the list, absolute path or URL.
        root: The folder that its keys are relative to; None is the list's own folder.

    Returns:
        The root with the images, and the names of containers below it.

    Raises:
        InputError: if it cannot be read, or names a path outside the root.
    """
    finding = Finding(paths.absolute(root) if root is not None else paths.parent(source))
    containers: list[str] = []
    for names in _read_list(source):
        if isinstance(names, list):
            special: Iterable[str] = names
        else:
            is_special = pc.match_substring_regex(names, SPECIAL)
            finding.add_table(pa.table({"key": names.filter(pc.invert(is_special))}))
            special = names.filter(is_special).to_pylist()
        _add_special(finding, containers, special, source)
    return finding, containers


def _add_special(finding: Finding, containers: list[str], names: Iterable[str], source: str) -> None:
    for name in names:
        key = paths.below(name, finding.root)
        if key is None:
            outside = f"{source}: names {printable(name)!r}, which is not below {finding.root}"
            raise InputError(f"{outside}; give the common folder with --root")
        if is_container(key):
            containers.append(key)
        else:
            finding.add(key)


def _read_list(source: str) -> Iterator[pa.Array | list[str]]:
    """The paths that a list file names, by blocks: as a column, or as strings where some are not UTF-8."""
    if not source.endswith((".txt", ".parquet")):
        raise InputError(f"{source}: a list must end in .txt or .parquet; for a single image name its folder or a glob")
    try:
        with paths.open_file(source) as file:
            yield from _parquet_paths(file) if source.endswith(".parquet") else _text_paths(file)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error}); name a folder, a glob or a list of images") from error


def _text_paths(file: paths.OpenFile) -> Iterator[pa.Array | list[str]]:
    stream, rest = file.as_stream(BLOCK_BYTES), b""
    if stream.peek(3)[:3] == codecs.BOM_UTF8:
        stream.read(3)
    while block := stream.read(BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield _decode([line.removesuffix(b"\r") for line in lines])
    yield _decode([rest.removesuffix(b"\r")])


def _decode(lines: list[bytes]) -> pa.Array | list[str]:
    lines = [line for line in lines if line.strip()]
    try:
        return pa.array(lines, pa.large_binary()).cast(COLUMNS["key"])
    except pa.ArrowInvalid:
        return [line.decode("utf-8", "surrogateescape") for line in lines]


def _parquet_paths(file: paths.OpenFile) -> Iterator[pa.Array]:
    try:
        table = open_table(file)
        if "path" not in table.schema_arrow.names:
            raise LookupError(f"columns {', '.join(table.schema_arrow.names)}")
        for batch in table.iter_batches(BATCH, columns=["path"], use_threads=False):
            names = batch.column("path").cast(COLUMNS["key"])
            yield names.filter(pc.fill_null(pc.not_equal(names, ""), False))
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        needed = "no Parquet file with a text column `path`, or with a column `image` of bytes"
        raise InputError(f"{file.path}: {needed} ({one_line(error)}); write one") from error
