"""A contact sheet of some images of an archive: what `tsae sheet` does."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import log, paths
from tsae.config import RAW_BYTES
from tsae.errors import ImageError, InputError
from tsae.images import MAX_FILE_BYTES, decode_image, resize
from tsae.metrics import psnr_db
from tsae.reader import Archive, open_archive
from tsae.selection import Selection
from tsae.sheet import contact_sheet

MAX_IMAGES = 4096
"""Of a sheet: at 12 a row it is 45,000 pixels high then, which some viewers still open."""

FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Pillow's names, by the ending of the sheet."""

MAX_SIDE_PX = {"PNG": 2**31 - 1, "WEBP": 16383, "JPEG": 65535}
"""What the formats hold."""


def write_sheet(archive_path: str, selection: Selection, output: str, originals: str | None = None) -> int:
    """Draws the images of a selection, in its order, and writes the picture over what is there.

    Captions are PSNR and the bytes that an image takes. With originals, PSNR is measured against them, which the one that the
    archive tells was as well.

    Args:
        archive_path: Path or URL of the archive.
        selection: Which images; at most `MAX_IMAGES`.
        output: File to write, of an ending in `FORMATS`.
        originals: Folder or URL with a file for each key, as it was compressed; None shows what came back alone.

    Returns:
        Number of images.

    Raises:
        InputError: if nothing is selected, or too much, an original is not there, or the output cannot be written.
        ImageError: if an original cannot be read; the message names it.
        TsaeError: if what is needed of the archive is damaged.
    """
    form = _form(output)
    with open_archive(archive_path) as archive:
        places = archive.positions(selection)
        if not 0 < len(places) <= MAX_IMAGES:
            found = f"{len(places):,} images are selected" if len(places) else "no image is selected"
            raise InputError(f"{archive_path}: {found}; a sheet shows 1 to {MAX_IMAGES:,}, see them with tsae ls")
        records = archive.records(places.tolist())
        decoded = archive.decode_records(records)
        before = None if originals is None else _load_originals(originals, records.keys)
        psnrs = _told_psnrs(records) if before is None else psnr_db(before, decoded)
        sheet = contact_sheet(
            before, decoded, _captions(records, psnrs), title=_title(archive), subtitle=_subtitle(archive, psnrs)
        )
    if max(sheet.size) > MAX_SIDE_PX[form]:
        raise InputError(
            f"{output}: {sheet.height:,} pixels high, a {form} is at most {MAX_SIDE_PX[form]:,}; use .png or --limit"
        )
    file = io.BytesIO()
    sheet.save(file, form)
    _write(output, file.getvalue())
    return len(places)


def _form(output: str) -> str:
    form = FORMATS.get(os.path.splitext(output)[1].lower())
    if form is None:
        raise InputError(f"{output}: the ending is none of {', '.join(FORMATS)}; use one of them")
    return form


def _load_originals(folder: str, keys: Sequence[str]) -> NDArray[np.uint8]:
    """Images uint8 `[N, 32, 32, 3]`, read and resized as compressing does."""
    return np.stack([_load(folder, key) for key in keys])


def _load(folder: str, key: str) -> NDArray[np.uint8]:
    ar.check_key(key)
    path = paths.join(paths.absolute(folder), key)
    try:
        return resize(decode_image(paths.read_file(path, MAX_FILE_BYTES)))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: the original cannot be read ({reason}); name the folder that was compressed") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _told_psnrs(records: ar.Records) -> NDArray[np.float64]:
    """PSNR as the archive tells it, in dB, of the images that come back: some of them exactly."""
    is_exact = [exact is not None for exact in records.lossless]
    return np.where(is_exact, ar.EXACT_PSNR_DB, records.psnrs_db.astype(np.float64))


def _captions(records: ar.Records, psnrs: NDArray[np.float64]) -> list[list[str]]:
    sizes = [len(stream) + len(exact or b"") for stream, exact in zip(records.streams, records.lossless, strict=True)]
    return [[_decibels(value), f"{size} B"] for value, size in zip(psnrs.tolist(), sizes, strict=True)]


def _decibels(value: float) -> str:
    if np.isnan(value):
        return "not measured"
    return "exact" if value >= ar.EXACT_PSNR_DB else f"{value:.1f} dB"


def _title(archive: Archive) -> str:
    return log.printable(os.path.basename(paths.absolute(archive.path)) or archive.path)


def _subtitle(archive: Archive, psnrs: NDArray[np.float64]) -> str:
    """What is shown, in one line."""
    known = np.minimum(psnrs[~np.isnan(psnrs)], ar.EXACT_PSNR_DB)
    quality = f" · mean {known.mean():.1f} dB, worst {known.min():.1f} dB" if len(known) else ""
    per_image = archive.info()["bytes_per_image"]
    size = f"{per_image:.0f} bytes an image instead of {RAW_BYTES:,}"
    return f"{len(psnrs):,} of {len(archive):,} images · model {archive.manifest.model} · {size}{quality}"


def _write(output: str, data: bytes) -> None:
    folder, _, name = paths.absolute(output).rpartition("/")
    try:
        if paths.kind(output) is not None:
            paths.stat_file(output)  # which refuses folders, devices and pipes
        paths.Folder(folder or "/").write(name, data)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error}); name another file with -o") from error
