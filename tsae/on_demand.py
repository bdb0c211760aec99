"""Single images out of an archive, into files or standard output: what `tsae get` does."""

from __future__ import annotations

import io
import os
import posixpath
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import paths
from tsae.errors import CorruptDataError, InputError
from tsae.images import PIL_FORMATS, encode_image
from tsae.reader import open_archive

FORMATS = (*PIL_FORMATS, "npy")
ENDINGS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".npy": "npy"}
STANDARD_OUTPUT = "-"


def get_images(archive_path: str, keys: Sequence[str], output: str | None, file_format: str | None) -> list[str]:
    """Decodes the images of some keys, and nothing else, and writes them.

    Args:
        archive_path: Path or URL of the archive.
        keys: What to decode.
        output: A file, a folder (`/` at the end, or there already, or for several keys), "-", or None for the current
            folder.
        file_format: One of `FORMATS`, or None to follow the ending of the file, else PNG.

    Returns:
        A line for each key that could not be had; the others are written.

    Raises:
        InputError: if the output cannot be used.
        FormatError: if the archive or its model cannot be used.
    """
    is_file = _is_file(output, len(keys))
    if output is not None and is_file and file_format is None:
        file_format = ENDINGS.get(os.path.splitext(output)[1].lower(), "png")
    lines = []
    with open_archive(archive_path) as archive:
        for key in keys:
            try:
                data = _encode(archive[key], file_format or "png")
                _write(data, _place(key, output, is_file, file_format or "png"))
            except KeyError:
                lines.append(f"{key}: not in {archive_path}; see its keys with tsae ls")
            except CorruptDataError as error:
                lines.append(str(error))
    return lines


def _is_file(output: str | None, keys: int) -> bool:
    """Whether the output is a single file (or standard output)."""
    if output is None:
        return False
    if output == STANDARD_OUTPUT:
        if keys > 1:
            raise InputError(f"-o -: {keys} images cannot share standard output; name a folder, or one key")
        return True
    return keys == 1 and not output.endswith("/") and not os.path.isdir(output)


def _place(key: str, output: str | None, is_file: bool, file_format: str) -> str:
    if is_file and output is not None:
        return output
    ar.check_key(key)
    name = f"{posixpath.splitext(key)[0]}.{file_format}"
    return paths.join(output, name) if output is not None else posixpath.basename(name)


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
    print(place, file=sys.stderr)
