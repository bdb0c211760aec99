"""Writes an archive as static files for browsers: what `tsae export-web` does. Flat in memory, safe to kill."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterator

from tsae import archive as ar
from tsae import paths
from tsae.archive.records import concatenate
from tsae.checkpoint import model_from_bytes
from tsae.errors import InputError
from tsae.images import encode_image, resize
from tsae.originals import Originals, open_originals
from tsae.progress import Progress
from tsae.reader import Archive, open_archive
from tsae.web.layout import BLOCK_RECORDS, Block, describe, to_block, to_model_segment
from tsae.web.page_files import INDEX_FILE, read_page

DESCRIPTION_FILE = "archive.json"

FILE_BYTES = 16 * 2**20
"""Most bytes of a file, unless one segment has more: hosts of static files take 25 MB and more."""

SEGMENTS = ("facts", "keys", "streams", "originals")

OUR_NAME = re.compile(
    rf"{DESCRIPTION_FILE}|{re.escape(INDEX_FILE)}|(model|{'|'.join(SEGMENTS)})/[0-9]{{6,}}-[0-9a-f]{{16}}\.bin"
    r"|page/[0-9a-f]{16}/[a-z0-9_/]+\.(css|js|svg)"
)
"""Names of the files of an export."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        images: Number of records.
        originals: For how many of them the original lies beside.
        files: Number of files.
        bytes: Their sizes' sum.
    """

    images: int
    originals: int
    files: int
    bytes: int


class _Packer:
    """Segments of one kind, one after the other in files of bounded size, which are named by their digests."""

    def __init__(self, folder: ar.Folder, kind: str, written: dict[str, int]) -> None:
        """Starts without a file.

        Args:
            folder: Where to.
            kind: Name of the subfolder.
            written: Takes name and size of each file.
        """
        self._folder, self._kind, self._written = folder, kind, written
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._open: list[dict[str, object]] = []
        self._files = 0

    def add(self, segment: bytes) -> dict[str, object]:
        """The place of a segment, whose file's name is filled in later."""
        if self._parts and self._size_bytes + len(segment) > FILE_BYTES:
            self.flush()
        place: dict[str, object] = {"start": self._size_bytes, "bytes": len(segment)}
        self._open.append(place)
        self._parts.append(segment)
        self._size_bytes += len(segment)
        return place

    def flush(self) -> None:
        """Writes what there is."""
        if not self._parts:
            return
        data = b"".join(self._parts)
        name = f"{self._kind}/{self._files:06d}-{ar.digest(data)[:16]}.bin"
        _write(self._folder, name, data)
        self._written[name] = len(data)
        for place in self._open:
            place["file"] = name
        self._parts, self._open, self._size_bytes, self._files = [], [], 0, self._files + 1


def export_web(
    archive_path: str, output: str, overwrite: bool = False, originals: str | None = None, root: str | None = None
) -> Exported:
    """Writes the page, and the records of an archive as it reads them.

    All files but two are named by their content. What is new is written first, then the description that names it, and
    then what nothing names any more is removed: who opens the page meanwhile sees the old state or the new one.

    Args:
        archive_path: Path or URL of the archive.
        output: Folder to write to.
        overwrite: Whether an export that is there may be replaced.
        originals: What was compressed, as INPUT: the images that are there are laid beside, scaled as the archive's are.
        root: For a list of originals, the folder that its keys are relative to.

    Raises:
        InputError: if the output holds anything else, or cannot be written.
        TsaeError: if the archive cannot be read; the output is as it was then.
    """
    folder, before = _check_output(archive_path, output, overwrite)
    beside = open_originals(originals, root)
    with open_archive(archive_path) as archive:
        model_file = archive.files.model_file()
        model_from_bytes(model_file, archive_path)  # pages trust its tables
        written: dict[str, int] = {}
        packers = {kind: _Packer(folder, kind, written) for kind in ("model", *SEGMENTS)}
        model = packers["model"].add(to_model_segment(model_file, archive_path))
        blocks, count = _write_blocks(archive, packers, beside)
        for packer in packers.values():
            packer.flush()
        title = posixpath.basename(archive.path.rstrip("/")) or "archive"
        description = describe(archive.manifest, title, model, blocks)
        images = len(archive)
    for name, data in {**read_page(), DESCRIPTION_FILE: description}.items():
        _write(folder, name, data)
        written[name] = len(data)
    folder.remove(before - written.keys())
    return Exported(images, count, len(written), sum(written.values()))


def _check_output(archive_path: str, output: str, overwrite: bool) -> tuple[ar.Folder, set[str]]:
    """The folder, and the names of an earlier export's files in it."""
    place, source = paths.absolute(output) if output else "", paths.absolute(archive_path)
    if not output or paths.is_within(place, source) or paths.is_within(source, place):
        raise InputError(f"{output!r}: must be a folder apart from {archive_path}; name another one")
    try:
        found = set(ar.Folder(place).sizes_bytes())
    except NotADirectoryError as error:
        raise InputError(f"{output}: is a file; name a new or empty folder") from error
    except OSError as error:
        raise InputError(f"{output}: cannot be read ({error.strerror or error}); name another folder") from error
    if other := sorted(name for name in found if not OUR_NAME.fullmatch(name) and not paths.TEMPORARY.search(name)):
        raise InputError(f"{output}: holds {ar.shown(other[0])}, which is no export's; name a new or empty folder")
    if DESCRIPTION_FILE in found and not overwrite:
        raise InputError(f"{output}: is there already; replace it with --overwrite, or name another folder")
    return ar.Folder(place), found


def _write(folder: ar.Folder, name: str, data: bytes) -> None:
    try:
        folder.write(name, data, durable=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{folder.path}/{name}: cannot be written ({reason}); make room or choose another place") from error


def _write_blocks(
    archive: Archive, packers: dict[str, _Packer], originals: Originals | None
) -> tuple[dict[str, list[object]], int]:
    """The blocks' columns of the description, and the number of originals."""
    columns: dict[str, list[object]] = {name: [] for name in ("rows", "first", "last", *SEGMENTS)}
    count = 0
    with Progress(len(archive), "exporting") as progress:
        for records in _in_blocks(archive):
            files = _read_originals(records.keys, originals)
            count += sum(map(bool, files))
            _add_block(to_block(records, files), columns, packers)
            progress.update(len(records))
    return columns, count


def _in_blocks(archive: Archive) -> Iterator[ar.Records]:
    """All records in the order of positions, in blocks of one size."""
    rest: ar.Records | None = None
    for number in range(archive.files.shards):
        shard = archive.files.shard_records(number)
        rest = shard if rest is None else concatenate([rest, shard])
        while len(rest) >= BLOCK_RECORDS:
            yield rest.take(range(BLOCK_RECORDS))
            rest = rest.take(range(BLOCK_RECORDS, len(rest)))
    if rest is not None and len(rest):
        yield rest


def _add_block(block: Block, columns: dict[str, list[object]], packers: dict[str, _Packer]) -> None:
    for name in ("rows", "first", "last"):
        columns[name].append(getattr(block, name))
    for kind in SEGMENTS:
        segment = getattr(block, kind)
        columns[kind].append(packers[kind].add(segment) if segment else None)


def _read_originals(keys: list[str], originals: Originals | None) -> list[bytes]:
    """What was encoded, as PNG files; nothing where it cannot be had any more."""
    if originals is None:
        return [b""] * len(keys)
    files = originals.map(lambda image: encode_image(resize(image)), keys)
    return [file if isinstance(file, bytes) else b"" for file in files]
