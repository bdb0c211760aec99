"""Images out of an archive, into files, a zip or standard output: what `tsae get` does."""

from __future__ import annotations

import io
import os
import posixpath
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import log, paths
from tsae.errors import CorruptDataError, InputError
from tsae.images import encode_image
from tsae.jobs.output_names import find_whole_names
from tsae.reader import Archive, open_archive
from tsae.selection import WILDCARD, Selection

ENDINGS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".npy": "npy"}
STANDARD_OUTPUT = "-"
ZIP_ENDING = ".zip"

CHUNK_IMAGES = 256
"""Images that are read and decoded at once: what is held does not grow with what is asked for, but for the keys."""

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of all members, so that the same images give the same bytes; the earliest that a zip can tell."""

ZIP_MODE = 0o100644 << 16
"""A file that its owner may write and all may read, where a zip keeps Unix's modes."""

Put = Callable[[str, bytes], None]
"""Takes the file of a key."""


@dataclass(frozen=True)
class _Wanted:
    """What was asked for.

    Attributes:
        keys: That there are, each once.
        lines: One for each that there is not, or cannot be had.
        by_glob: Whether a pattern found some of them.
    """

    keys: list[str]
    lines: list[str]
    by_glob: bool

    @property
    def is_many(self) -> bool:
        return self.by_glob or len(self.keys) + len(self.lines) > 1


def get_images(
    archive_path: str, keys: Sequence[str], output: str | None, file_format: str | None, selection: Selection | None = None
) -> list[str]:
    """Decodes the images of some keys, and nothing else, and writes them.

    A file that the user named is replaced; a file whose name was made from a key is not. A zip is written as images are
    decoded, and is there when all are; the same images give the same bytes.

    Args:
        archive_path: Path or URL of the archive.
        keys: What to decode: keys, and globs; a key given twice counts once. What is a key is not taken for a glob.
        output: A file, a zip (by its ending), a folder (`/` at the end, or there already, or for several keys), "-", or
            None for the current folder.
        file_format: "png", "webp", "jpeg" or "npy", or None to follow the ending of the file, else PNG.
        selection: What holds for images that a glob finds.

    Returns:
        A line for each key that could not be had; the others are written.

    Raises:
        InputError: if the output cannot be used; nothing is written if that can be known before.
        FormatError: if the archive or its model cannot be used.
    """
    with open_archive(archive_path) as archive:
        wanted = _find(archive, list(dict.fromkeys(keys)), selection or Selection())
        if output and _is_zip(output):
            _check_replaceable(output)
            return wanted.lines + _write_zip(archive, wanted, output, file_format or "png")
        is_file = _is_file(output, wanted)
        file_format = file_format or _format_of(output if is_file else None)
        places = _find_places(archive, wanted, output, is_file, file_format)
        put = _printed(places) if not wanted.by_glob else lambda key, data: _write(data, places[key])
        lines = _decode(archive, wanted.keys, file_format, put)
        if wanted.by_glob and output != STANDARD_OUTPUT:
            _report(output or "here", len(wanted.keys) - len(lines))
        return wanted.lines + lines


def _find(archive: Archive, names: Sequence[str], selection: Selection) -> _Wanted:
    keys: dict[str, None] = {}
    lines, by_glob = [], False
    for name in names:
        try:
            if name in archive:
                keys[name] = None
            elif not WILDCARD.search(name):
                lines.append(f"{ar.shown(name)}: not in {archive.path}; see its keys with tsae ls")
            else:
                by_glob, found = True, dict.fromkeys(archive.keys(replace(selection, glob=name)))
                keys |= found
                if not found:
                    lines.append(f"{ar.shown(name)}: matches nothing in {archive.path}; see its keys with tsae ls")
        except CorruptDataError as error:
            lines.append(str(error))
    for key in keys:
        if fault := ar.key_fault(key):
            lines.append(f"{ar.shown(key)}: {fault}")
    return _Wanted([key for key in keys if not ar.key_fault(key)], lines, by_glob)


def _decode(archive: Archive, keys: Sequence[str], file_format: str, put: Put) -> list[str]:
    """Hands out the file of each key; a line for each that is damaged."""
    lines: list[str] = []
    for start in range(0, len(keys), CHUNK_IMAGES):
        for key, image in _images(archive, keys[start : start + CHUNK_IMAGES], lines):
            put(key, _encode(image, file_format))
    return lines


def _images(archive: Archive, keys: Sequence[str], lines: list[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The images of some keys; where one is damaged, each by itself, and a line for it."""
    try:
        yield from zip(keys, archive.decode(keys), strict=True)
    except CorruptDataError as error:
        if len(keys) == 1:
            lines.append(str(error))
            return
        for key in keys:
            yield from _images(archive, [key], lines)


def _is_zip(output: str) -> bool:
    return output.lower().endswith(ZIP_ENDING) and _kind(output) != "folder"


def _write_zip(archive: Archive, wanted: _Wanted, output: str, file_format: str) -> list[str]:
    if not wanted.keys:
        return []
    names = _names_in_folder(archive, wanted, file_format)
    _check_apart(names, "by leaving one out")

    def put(key: str, data: bytes) -> None:
        member = zipfile.ZipInfo(names[key], ZIP_TIME)
        member.create_system, member.external_attr = 3, ZIP_MODE  # Unix, on whatever system this runs
        target.writestr(member, data)

    try:
        with paths.written_file(paths.absolute(output)) as file, zipfile.ZipFile(file, "w") as target:
            lines = _decode(archive, wanted.keys, file_format, put)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error}); name another place with -o") from error
    _report(output, len(wanted.keys) - len(lines))
    return lines


def _is_file(output: str | None, wanted: _Wanted) -> bool:
    """Whether the output is a single file (or standard output) rather than a folder."""
    if output is None:
        return False
    if not output:
        raise InputError("-o '': an empty name is no place; name a file, a folder, or - for standard output")
    if output == STANDARD_OUTPUT:
        if (count := len(wanted.keys) + len(wanted.lines)) > 1:
            raise InputError(f"-o -: {count} images cannot share standard output; name a folder, a zip, or one key")
        return True
    kind = _kind(output)
    if not wanted.is_many and not output.endswith("/") and kind != "folder":
        return True
    if kind == "file":
        raise InputError(f"{output}: is a file, where a folder is needed; name another place with -o")
    return False


def _kind(place: str) -> Literal["file", "folder"] | None:
    try:
        return paths.kind(place)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{place}: cannot be reached ({reason}); check it, or name another place with -o") from error


def _format_of(file: str | None) -> str:
    """The format that a file's ending asks for; PNG where there is no file or no ending."""
    ending = os.path.splitext(file or "")[1]
    if ending and ending.lower() not in ENDINGS:
        raise InputError(f"{file}: the ending is none of {', '.join(ENDINGS)}; use one of them, or give --format")
    return ENDINGS.get(ending.lower(), "png")


def _find_places(archive: Archive, wanted: _Wanted, output: str | None, is_file: bool, file_format: str) -> dict[str, str]:
    """Where the image of each key goes.

    Raises:
        InputError: if two would meet, or something is there that must not be replaced.
    """
    if is_file and output is not None:
        _check_replaceable(output)
        return dict.fromkeys(wanted.keys, output)
    if output is None:
        places = {key: posixpath.basename(_short_name(key, file_format)) for key in wanted.keys}
        _check_apart(places, "with -o DIR/")
    else:
        names = _names_in_folder(archive, wanted, file_format)
        _check_apart(names, "by giving each its own -o FILE")
        places = {key: paths.join(output, name) for key, name in names.items()}
        _check_inside(output, names)
    for place in places.values():
        _check_free(place)
    return places


def _short_name(key: str, file_format: str) -> str:
    return f"{posixpath.splitext(key)[0]}.{file_format}"


def _names_in_folder(archive: Archive, wanted: _Wanted, file_format: str) -> dict[str, str]:
    """The key with its ending replaced, or kept as well where outputs would meet else; as decompressing names them.

    What a glob finds gets the names that it has among all images of the archive, whatever else was found.
    """
    whole = find_whole_names(archive.keys() if wanted.by_glob else wanted.keys)
    return {key: f"{key}.{file_format}" if key in whole else _short_name(key, file_format) for key in wanted.keys}


def _check_apart(names: dict[str, str], remedy: str) -> None:
    """Refuses names of which one is another, or a folder that another lies in."""
    owners = {name: key for key, name in names.items()}
    for key, name in names.items():
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            place = "/".join(parts[:end])
            if (other := owners.get(place, key)) != key:
                raise InputError(f"{place}: the outputs of {key} and {other} would meet there; keep them apart {remedy}")


def _check_inside(folder: str, names: dict[str, str]) -> None:
    """Refuses names that links in a folder would take out of it."""
    from tsae.jobs.decompress import leads_out

    for key, name in names.items():
        if leads_out(paths.absolute(folder), posixpath.dirname(name)):
            raise InputError(f"{ar.shown(key)}: a link in {folder} leads out of it; remove the link, or choose another folder")


def _check_free(place: str) -> None:
    if _kind(place) is not None:
        raise InputError(f"{place}: is there already; replace it with -o {place}, or name another folder with -o DIR/")


def _check_replaceable(output: str) -> None:
    """Refuses devices and pipes: writing in one step would put a file in their place."""
    if output == STANDARD_OUTPUT or _kind(output) is None:
        return
    try:
        paths.stat_file(output)
    except OSError as error:
        raise InputError(f"{output}: is no regular file; name another, or - for standard output") from error


def _encode(image: NDArray[np.uint8], file_format: str) -> bytes:
    if file_format != "npy":
        return encode_image(image, file_format)
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def _write(data: bytes, place: str) -> None:
    if place == STANDARD_OUTPUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    folder, _, name = paths.absolute(place).rpartition("/")
    try:
        paths.Folder(folder or "/").write(name, data)
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror or error}); name another place with -o") from error


def _printed(places: dict[str, str]) -> Put:
    """Writes each file to its place and says so."""

    def put(key: str, data: bytes) -> None:
        place = places[key]
        _write(data, place)
        if place != STANDARD_OUTPUT:
            print(_printable(place), file=sys.stderr)

    return put


def _report(output: str, images: int) -> None:
    print(f"{_printable(output)}: {log.counted(images, 'image')}", file=sys.stderr)


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)
