"""Single images out of an archive, into files or standard output: what `tsae get` does."""

from __future__ import annotations

import io
import os
import posixpath
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import paths
from tsae.errors import CorruptDataError, InputError
from tsae.images import encode_image
from tsae.reader import Archive, open_archive

ENDINGS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".npy": "npy"}
STANDARD_OUTPUT = "-"


def get_images(archive_path: str, keys: Sequence[str], output: str | None, file_format: str | None) -> list[str]:
    """Decodes the images of some keys, and nothing else, and writes them.

    A file that the user named is replaced; a file whose name was made from a key is not.

    Args:
        archive_path: Path or URL of the archive.
        keys: What to decode; a key given twice counts once.
        output: A file, a folder (`/` at the end, or there already, or for several keys), "-", or None for the current
            folder.
        file_format: "png", "webp", "jpeg" or "npy", or None to follow the ending of the file, else PNG.

    Returns:
        A line for each key that could not be had; the others are written.

    Raises:
        InputError: if the output cannot be used; nothing is written if that can be known before.
        FormatError: if the archive or its model cannot be used.
    """
    keys = list(dict.fromkeys(keys))
    is_file = _is_file(output, len(keys))
    file_format = file_format or _format_of(output if is_file else None)
    with open_archive(archive_path) as archive:
        records, lines = _read_records(archive, keys)
        for key, place in _find_places(list(records), output, is_file, file_format).items():
            try:
                _write(_encode(archive.decode_records(records[key])[0], file_format), place)
            except CorruptDataError as error:
                lines.append(str(error))
    return lines


def _is_file(output: str | None, keys: int) -> bool:
    """Whether the output is a single file (or standard output) rather than a folder."""
    if output is None:
        return False
    if not output:
        raise InputError("-o '': an empty name is no place; name a file, a folder, or - for standard output")
    if output == STANDARD_OUTPUT:
        if keys > 1:
            raise InputError(f"-o -: {keys} images cannot share standard output; name a folder, or one key")
        return True
    kind = _kind(output)
    if keys == 1 and not output.endswith("/") and kind != "folder":
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


def _read_records(archive: Archive, keys: Sequence[str]) -> tuple[dict[str, ar.Records], list[str]]:
    """The record of each key that has an intact one, and a line for each other key."""
    records, lines = {}, []
    for key in keys:
        try:
            records[key] = archive.record(key)
            ar.check_key(key)
        except KeyError:
            lines.append(f"{ar.shown(key)}: not in {archive.path}; see its keys with tsae ls")
        except CorruptDataError as error:
            records.pop(key, None)
            lines.append(str(error))
    return records, lines


def _find_places(keys: list[str], output: str | None, is_file: bool, file_format: str) -> dict[str, str]:
    """Where the image of each key goes.

    Raises:
        InputError: if two would meet, or something is there that must not be replaced.
    """
    if is_file and output is not None:
        _check_replaceable(output)
        return dict.fromkeys(keys, output)
    if output is None:
        places = {key: posixpath.basename(_short_name(key, file_format)) for key in keys}
        _check_apart(places, "with -o DIR/")
    else:
        names = _names_in_folder(keys, file_format)
        _check_apart(names, "by giving each its own -o FILE")
        places = {key: paths.join(output, name) for key, name in names.items()}
        _check_inside(output, names)
    for place in places.values():
        _check_free(place)
    return places


def _short_name(key: str, file_format: str) -> str:
    return f"{posixpath.splitext(key)[0]}.{file_format}"


def _names_in_folder(keys: list[str], file_format: str) -> dict[str, str]:
    """The key with its ending replaced, or kept as well where outputs would meet else; as decompressing names them."""
    from tsae.jobs.output_names import find_whole_names

    whole = find_whole_names(keys)
    return {key: f"{key}.{file_format}" if key in whole else _short_name(key, file_format) for key in keys}


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
    print(place if place.isprintable() else repr(place), file=sys.stderr)
