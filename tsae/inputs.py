"""What the INPUT of `compress` names: a folder, a glob or a list becomes a sorted list of keys. Owns keys and labels.

A key is an image's path below the root, with `/`, its ending included, so `root + "/" + key` is the image's path.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import posixpath
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import pyarrow as pa
import pyarrow.parquet as pq

from tsae import paths
from tsae.archive.failures import Failure
from tsae.errors import ImageError, InputError
from tsae.images import ENDINGS, MAX_FILE_BYTES

WILDCARDS = frozenset("*?[")
LABELS_FILE = "labels.csv"


@dataclasses.dataclass(eq=False)
class Listing:
    """The images that an INPUT names.

    Attributes:
        root: Folder, local or URL, that keys are relative to.
        keys: Sorted by code point, which is also the order of their UTF-8 bytes; no key twice.
        failures: What was found but cannot be an input.
        skipped: Number of files passed over because of their endings.
        repeated: Number of times that a list named an image again.
        labels: Key to label, where the input has labels.
        notes: Lines that the user should see.
    """

    root: str
    keys: list[str] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    skipped: int = 0
    repeated: int = 0
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def _add(self, key: str) -> None:
        if _is_utf8(key):
            self.keys.append(key)
        else:
            message = "the name is not UTF-8, which a key must be; rename the file"
            self.failures.append(Failure(_escape(key), "list", "InputError", message))

    def _finish(self, source: str) -> Listing:
        """Sorts, drops repetitions, reads labels; a listing without any image is refused."""
        unique = sorted(set(self.keys))
        self.repeated, self.keys = len(self.keys) - len(unique), unique
        if not self.keys and not self.failures:
            skipped = f" ({self.skipped} files with other endings)" if self.skipped else ""
            raise InputError(f"{source}: no image found{skipped}; images end in {' '.join(sorted(ENDINGS))}")
        _read_labels(self)
        return self


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _escape(name: str) -> str:
    """Percent-escapes the bytes of a name that is not UTF-8."""
    return quote_from_bytes(os.fsencode(name), safe="/ ")


def list_inputs(source: str, root: str | None = None) -> Listing:
    """Finds the images that `source` names.

    Args:
        source: A folder, a glob, or a list: `.txt` with a path a line, or `.parquet` with a column `path`.
        root: For a list, the folder that its keys are relative to; None is the list's own folder.

    Returns:
        The listing, with at least one key or failure.

    Raises:
        InputError: if the source is not there, cannot be read, names no image, or paths of a list lie outside the root.
    """
    files, path = paths.filesystem(source)
    if files.isdir(path):
        listing = _list_folder(paths.absolute(source))
    elif files.isfile(path):
        listing = _list_file(paths.absolute(source), root)
    elif WILDCARDS & set(source):
        listing = _list_glob(source)
    else:
        raise InputError(f"{source}: not there; name a folder, a glob or a list of images")
    return listing._finish(source)


def _list_folder(folder: str) -> Listing:
    listing = Listing(folder)
    if paths.is_url(folder):
        files, base = paths.filesystem(folder)
        names: Iterator[str] = (name[len(base.rstrip("/")) + 1 :] for name in files.find(base))
    else:
        names = _walk(folder, "", (), listing)
    for name in names:
        _add_if_image(listing, name)
    return listing


def _add_if_image(listing: Listing, name: str) -> None:
    if os.path.splitext(name)[1].lower() in ENDINGS:
        listing._add(name)
    else:
        listing.skipped += 1


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...], listing: Listing) -> Iterator[str]:
    """Names of all that is no folder below `folder`; links are followed, but never into a folder they came from."""
    try:
        status = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        name = prefix if _is_utf8(prefix) else _escape(prefix)
        listing.failures.append(Failure(name or ".", "list", type(error).__name__, error.strerror or str(error)))
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity), listing)
        else:
            yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: reading it will say so
        return False


def _list_glob(pattern: str) -> Listing:
    parts = paths.absolute(pattern).split("/")
    first = next(index for index, part in enumerate(parts) if WILDCARDS & set(part))
    listing = Listing("/".join(parts[:first]) or "/")
    files, path = paths.filesystem(pattern)
    _, base = paths.filesystem(listing.root)
    for found, facts in files.glob(path, detail=True).items():
        name = found[len(base.rstrip("/")) + 1 :]
        if facts["type"] != "directory":
            _add_if_image(listing, name)
        elif os.path.splitext(name)[1].lower() in ENDINGS:
            listing.failures.append(Failure(name, "list", "IsADirectoryError", "it is a folder, not an image file"))
    return listing


def _list_file(source: str, root: str | None) -> Listing:
    folder = source.rpartition("/")[0] or "/"
    listing = Listing(paths.absolute(root) if root is not None else folder)
    for line in _read_list(source):
        path = line if paths.is_url(line) or line.startswith("/") else paths.join(listing.root, line)
        listing._add(_key_below(listing.root, path, source))
    return listing


def _key_below(root: str, path: str, source: str) -> str:
    scheme, separator, rest = path.rpartition("://")
    path = scheme + separator + posixpath.normpath(rest)
    if not path.startswith(root.rstrip("/") + "/"):
        raise InputError(f"{source}: names {path}, which is not below {root}; give the common folder with --root")
    return path[len(root.rstrip("/")) + 1 :]


def _read_list(source: str) -> list[str]:
    """The paths that a list file names, in its order."""
    try:
        data = paths.read_file(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error}); name a folder, a glob or a list of images") from error
    if source.endswith(".parquet"):
        return _parquet_paths(source, data)
    if source.endswith(".txt"):
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        return [line for line in (line.removesuffix("\r") for line in lines) if line.strip()]
    raise InputError(f"{source}: a list must end in .txt or .parquet; for a single image name its folder or a glob")


def _parquet_paths(source: str, data: bytes) -> list[str]:
    try:
        column = pq.read_table(pa.BufferReader(data), columns=["path"]).column("path").cast(pa.string())
    except (pa.ArrowException, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{source}: no Parquet file with a text column `path` ({reason}); write one") from error
    return [path for path in column.to_pylist() if path]


def _read_labels(listing: Listing) -> None:
    """Fills in labels from `labels.csv` at the root (header with `path` and `label`), where there is one."""
    source = paths.join(listing.root, LABELS_FILE)
    files, path = paths.filesystem(source)
    if not files.isfile(path):
        return
    try:
        text = paths.read_file(source).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise ValueError("its first line does not name the columns path and label")
        listing.labels = {row["path"]: row["label"] for row in rows if row["label"]}
    except (OSError, ValueError, csv.Error) as error:
        listing.notes.append(f"{source}: labels not read ({error})")


def read_input(root: str, key: str) -> bytes:
    """Reads one listed file.

    Args:
        root: Of the listing.
        key: Of the image.

    Returns:
        Its bytes.

    Raises:
        ImageError: if it cannot be read; the message says why.
    """
    try:
        return paths.read_file(paths.join(root, key), MAX_FILE_BYTES)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ImageError(f"cannot be read: {reason}; check the file and its permissions") from error
