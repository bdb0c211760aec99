"""What the INPUT of `compress` names: a folder, a glob or a list becomes a sorted list of keys. Owns keys and labels.

A key is an image's path below the root, with `/`, its ending included, so `root + "/" + key` is the image's path.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import quote_from_bytes

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from tsae import paths
from tsae.archive.failures import Failure
from tsae.archive.records import MAX_LABEL_BYTES, key_fault
from tsae.errors import ImageError, InputError
from tsae.images import ENDINGS, MAX_FILE_BYTES

WILDCARDS = frozenset("*?[")
LABELS_FILE = "labels.csv"

REMOTE_READERS = 16
"""Files of a remote store that are asked for at once: waiting dominates there."""

T = TypeVar("T")


@dataclasses.dataclass(eq=False)
class Listing:
    """The images that an INPUT names.

    Attributes:
        root: Folder, local or URL, that keys are relative to.
        keys: Sorted by code point, which is also the order of their UTF-8 bytes; no key twice.
        failures: What was found but cannot be an input.
        skipped: Number of files passed over because of their endings.
        labels: Key to label, where the input has labels.
        facts: What the listing of a remote store told of each file, by key; asking for each would cost a request.
        notes: Lines that the user should see.
    """

    root: str
    keys: list[str] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    skipped: int = 0
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: dict[str, paths.FileFacts] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def _add(self, key: str) -> None:
        if fault := key_fault(key):
            self.failures.append(Failure(_printable(key), "list", "InputError", fault))
        else:
            self.keys.append(key)

    def _finish(self, source: str) -> Listing:
        """Sorts, drops repetitions, reads labels; a listing without any image is refused."""
        unique = sorted(set(self.keys))
        if repeated := len(self.keys) - len(unique):
            self.notes.append(f"{source}: names {repeated} images more than once; each is compressed once")
        self.keys = unique
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


def _printable(name: str) -> str:
    """A name that is not UTF-8 with its bytes percent-escaped; any other as it is."""
    return name if _is_utf8(name) else quote_from_bytes(os.fsencode(name), safe="/ ")


def list_inputs(source: str, root: str | None = None) -> Listing:
    """Finds the images that `source` names.

    Args:
        source: A folder, a glob, or a list: `.txt` with a path a line, or `.parquet` with a column `path`.
        root: For a list, the folder that its keys are relative to; None is the list's own folder.

    Returns:
        The listing, with at least one key or failure.

    Raises:
        InputError: if the source is not there, cannot be read, names no image, or paths of a list lie outside the root;
            or if there are labels that cannot be read.
    """
    try:
        with paths.as_os_error(source):
            return _list(source, root)._finish(source)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{source}: cannot be read ({reason}); check the path, the network and its credentials") from error


def _list(source: str, root: str | None) -> Listing:
    files, path = paths.filesystem(source)
    is_list = files.isfile(path)
    if root is not None and not is_list and (files.isdir(path) or WILDCARDS & set(source)):
        raise InputError(f"--root {root}: is for lists; {source} is none, its keys follow from it")
    if files.isdir(path):
        listing = _list_folder(paths.absolute(source))
    elif is_list:
        listing = _list_file(paths.absolute(source), root)
    elif WILDCARDS & set(source):
        listing = _list_glob(source)
    else:
        raise InputError(f"{source}: not there; name a folder, a glob or a list of images")
    return listing


def _list_folder(folder: str) -> Listing:
    listing = Listing(folder)
    for name in _remote_names(listing, "find") if paths.is_url(folder) else _walk(listing, None):
        if not name.endswith("/"):
            _add_if_image(listing, name)
    return listing


def _add_if_image(listing: Listing, name: str) -> None:
    if _has_image_ending(name):
        listing._add(name)
    else:
        listing.skipped += 1


def _has_image_ending(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS


def _remote_names(listing: Listing, how: str, below: str = "") -> Iterator[str]:
    """Names below a remote root that the filesystem's `find` or `glob` gives, those of folders with a `/` at the end."""
    files, base = paths.filesystem(listing.root)
    start = base.rstrip("/") + "/"
    for path, info in getattr(files, how)(start + below, detail=True).items():
        if path.startswith(start):
            name = path[len(start) :].rstrip("/")
            if info["type"] == "directory":
                yield name + "/"
                continue
            listing.facts[name] = paths.remote_facts(info)
            yield name


def _walk(listing: Listing, depth: int | None) -> Iterator[str]:
    """Names below a local root, those of folders with a `/` at the end, of `depth` parts at most.

    Links are followed, but never into a folder that they lie in.
    """
    todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while todo:
        prefix, above = todo.pop()
        try:
            identity, entries = _scan(paths.join(listing.root, prefix))
        except OSError as error:
            _add_unreadable(listing, prefix, error)
            continue
        if identity in above:
            continue
        for entry in entries:
            name, is_folder = prefix + entry.name, _is_folder(entry)
            yield name + "/" if is_folder else name
            if is_folder and (depth is None or name.count("/") + 1 < depth):
                todo.append((name + "/", (*above, identity)))


def _scan(folder: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """What identifies a folder, and what is in it."""
    status = os.stat(folder)
    with os.scandir(folder) as entries:
        return (status.st_dev, status.st_ino), list(entries)


def _add_unreadable(listing: Listing, prefix: str, error: OSError) -> None:
    reason = error.strerror or str(error)
    if not prefix:
        raise InputError(f"{listing.root}: cannot be read ({reason}); check the folder and its permissions") from error
    message = f"the folder cannot be read: {reason}; check its permissions"
    listing.failures.append(Failure(_printable(prefix), "list", type(error).__name__, message))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: reading it will say so
        return False


def _list_glob(pattern: str) -> Listing:
    root, below = _split_glob(pattern)
    listing = Listing(root)
    for name in _remote_names(listing, "glob", below) if paths.is_url(root) else _glob(listing, below):
        if not name.endswith("/"):
            _add_if_image(listing, name)
        elif _has_image_ending(name[:-1]):
            message = "it is a folder, not an image file; name it as the input"
            listing.failures.append(Failure(_printable(name[:-1]), "list", "IsADirectoryError", message))
    return listing


def _split_glob(pattern: str) -> tuple[str, str]:
    """The folder before the first part with a wildcard, and the pattern from there on."""
    parts = paths.absolute(pattern).split("/")
    first = next(index for index, part in enumerate(parts) if WILDCARDS & set(part))
    root, below = "/".join(parts[:first]) or "/", "/".join(parts[first:])
    try:
        re.compile(glob_translate(below))
    except (ValueError, re.error) as error:
        raise InputError(f"{pattern}: not a glob ({error}); put `**` between slashes, close brackets") from error
    return root + "/" if root.endswith(":/") else root, below  # `memory:/`, where the wildcard follows the scheme


def _glob(listing: Listing, below: str) -> Iterator[str]:
    """What a pattern matches below a local root, by fsspec's rules, but through links as well."""
    matches = re.compile(glob_translate(below)).match
    names = _walk(listing, None if "**" in below else below.count("/") + 1)
    return (name for name in names if matches(name.rstrip("/")))


def _list_file(source: str, root: str | None) -> Listing:
    listing = Listing(paths.absolute(root) if root is not None else paths.parent(source))
    for line in _read_list(source):
        listing._add(_key_below(listing.root, line, source))
    return listing


def _key_below(root: str, line: str, source: str) -> str:
    path = line if paths.is_url(line) or line.startswith("/") else paths.join(root, line)
    scheme, separator, rest = path.partition("://") if paths.is_url(path) else ("", "", path)
    key = paths.relative(scheme + separator + posixpath.normpath(rest), root)
    if key is None:
        raise InputError(f"{source}: names {_printable(line)!r}, which is not below {root}; give the common folder with --root")
    return key


def _read_list(source: str) -> list[str]:
    """The paths that a list file names, in its order."""
    try:
        data = paths.read_file(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error}); name a folder, a glob or a list of images") from error
    if source.endswith(".parquet"):
        return _parquet_paths(source, data)
    if source.endswith(".txt"):
        lines = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").split("\n")
        return [line for line in (line.removesuffix("\r") for line in lines) if line.strip()]
    raise InputError(f"{source}: a list must end in .txt or .parquet; for a single image name its folder or a glob")


def _parquet_paths(source: str, data: bytes) -> list[str]:
    try:
        column = pq.read_table(pa.BufferReader(data), columns=["path"]).column("path").cast(pa.string())
        return [path for path in column.to_pylist() if path]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: no Parquet file with a text column `path` ({reason}); write one") from error


def _read_labels(listing: Listing) -> None:
    """Fills in labels from `labels.csv` at the root (header with `path` and `label`), where there is one.

    One that cannot be read is not passed over: on an update, all images would lose their labels.
    """
    source = paths.join(listing.root, LABELS_FILE)
    try:
        if paths.kind(source) != "file":
            return
        text = paths.read_file(source).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise ValueError("its first line does not name the columns path and label")
        listing.labels = {row["path"]: row["label"] for row in rows if row["path"] and row["label"]}
        if too_long := {path for path, label in listing.labels.items() if len(label.encode()) > MAX_LABEL_BYTES}:
            listing.labels = {path: label for path, label in listing.labels.items() if path not in too_long}
            listing.notes.append(f"{source}: {len(too_long)} labels of more than {MAX_LABEL_BYTES} bytes are left out")
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source}: labels cannot be read ({reason}); fix or remove the file") from error


def stat_input(root: str, key: str, known: paths.FileFacts | None = None) -> tuple[int | None, str | None]:
    """Size in bytes and version of one listed file without reading it; None where that cannot be told.

    Args:
        root: Of the listing.
        key: Of the image.
        known: What the listing told of it, if it did.
    """
    try:
        facts = known or paths.stat_file(paths.join(root, key))
        return facts.size_bytes, facts.version
    except (OSError, ValueError):
        return None, None


def read_input(root: str, key: str) -> tuple[bytes, paths.FileFacts]:
    """Reads one listed file.

    Args:
        root: Of the listing.
        key: Of the image.

    Returns:
        Its bytes, and the state that they are of.

    Raises:
        ImageError: if it cannot be read; the message says why.
    """
    try:
        return paths.read_file_with_facts(paths.join(root, key), MAX_FILE_BYTES)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ImageError(f"cannot be read: {reason}; check the file and its permissions") from error


def map_inputs(function: Callable[[str], T], keys: Sequence[str], root: str) -> list[T]:
    """Maps over listed files, in their order, several at once where they are remote.

    Args:
        function: From a key to anything.
        keys: Of the files.
        root: Of the listing.
    """
    if not paths.is_url(root):
        return [function(key) for key in keys]
    with ThreadPoolExecutor(REMOTE_READERS) as pool:
        return list(pool.map(function, keys))
