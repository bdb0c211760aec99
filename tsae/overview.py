"""A contact sheet of some images of an archive: what `tsae sheet` does, and `/sheet` of a server."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsae import archive as ar
from tsae import log, paths
from tsae.config import RAW_BYTES
from tsae.errors import ImageError, InputError
from tsae.images import resize
from tsae.metrics import psnr_db
from tsae.originals import Originals, open_originals
from tsae.reader import Archive, open_archive
from tsae.selection import Selection
from tsae.sheet import contact_sheet

MAX_IMAGES = 4096
"""Of a sheet: at 12 a row it is 45,000 pixels high then, which some viewers still open."""

FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Pillow's names, by the ending of the sheet."""

MAX_SIDE_PX = {"PNG": 2**31 - 1, "WEBP": 16383, "JPEG": 65535}
"""What the formats hold."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """N images of a sheet.

    Attributes:
        keys: Of the images.
        decoded: As they come back, uint8 `[N, 32, 32, 3]`.
        psnrs_db: As the archive tells them, in dB: of the images from their latents; NaN where not measured.
        sizes_bytes: What each takes in the archive.
        are_exact: Whether they come back exactly, as those do that are stored losslessly as well.
    """

    keys: Sequence[str]
    decoded: NDArray[np.uint8]
    psnrs_db: NDArray[np.floating[Any]]
    sizes_bytes: Sequence[int]
    are_exact: Sequence[bool]


def write_sheet(
    archive_path: str, selection: Selection, output: str, originals: str | None = None, root: str | None = None
) -> int:
    """Draws the images of a selection, in its order, and writes the picture over what is there.

    Args:
        archive_path: Path or URL of the archive.
        selection: Which images; at most `MAX_IMAGES`.
        output: File to write, of an ending in `FORMATS`.
        originals: What was compressed, as INPUT; None shows what came back alone.
        root: For a list of originals, the folder that its keys are relative to.

    Returns:
        Number of images.

    Raises:
        InputError: if nothing is selected, or too much, an original is not there, or the output cannot be written.
        ImageError: if an original cannot be read; the message names it.
        TsaeError: if what is needed of the archive is damaged.
    """
    form = _form(output)
    with open_archive(archive_path) as archive:
        beside = open_originals(originals, root)
        places = archive.positions(selection)
        if not 0 < len(places) <= MAX_IMAGES:
            found = f"{len(places):,} images are selected" if len(places) else "no image is selected"
            raise InputError(f"{archive_path}: {found}; a sheet shows 1 to {MAX_IMAGES:,}, see them with tsae ls")
        records = archive.records(places.tolist())
        try:
            sheet = draw_sheet(archive, _shown(records, archive.decode_records(records)), beside)
        except ImageError as error:
            raise ImageError(f"{originals}: {error}") from error
    if max(sheet.size) > MAX_SIDE_PX[form]:
        raise InputError(
            f"{output}: {sheet.height:,} pixels high, a {form} is at most {MAX_SIDE_PX[form]:,}; use .png or --limit"
        )
    file = io.BytesIO()
    sheet.save(file, form)
    _write(output, file.getvalue())
    return len(places)


def draw_sheet(archive: Archive, shown: Shown, originals: Originals | None = None, **layout: int) -> Image.Image:
    """The sheet of some images of an archive.

    Captions are PSNR and the bytes that an image takes. With originals, PSNR is measured against them, which the one that the
    archive tells was as well.

    Args:
        archive: That they are of.
        shown: The images.
        originals: Where their originals are; None shows what came back alone.
        layout: `columns` and `scale` of `tsae.sheet.contact_sheet`.

    Raises:
        ImageError: if an original cannot be had; the message names it.
    """
    before = None if originals is None else _load(originals, shown.keys)
    psnrs = np.where(shown.are_exact, ar.EXACT_PSNR_DB, shown.psnrs_db) if before is None else psnr_db(before, shown.decoded)
    captions = [[_decibels(value), f"{size} B"] for value, size in zip(psnrs.tolist(), shown.sizes_bytes, strict=True)]
    title, subtitle = _title(archive), _subtitle(archive, psnrs)
    return contact_sheet(before, shown.decoded, captions, title=title, subtitle=subtitle, **layout)


def _form(output: str) -> str:
    form = FORMATS.get(os.path.splitext(output)[1].lower())
    if form is None:
        raise InputError(f"{output}: the ending is none of {', '.join(FORMATS)}; use one of them")
    return form


def _shown(records: ar.Records, decoded: NDArray[np.uint8]) -> Shown:
    psnrs_db = records.psnrs_db.astype(np.float64)
    return Shown(records.keys, decoded, psnrs_db, records.sizes_bytes(), [exact is not None for exact in records.lossless])


def _load(originals: Originals, keys: Sequence[str]) -> NDArray[np.uint8]:
    """Images uint8 `[N, 32, 32, 3]`, read and resized as compressing does."""
    images = []
    for key, found in zip(keys, originals.map(resize, keys), strict=True):
        if isinstance(found, ImageError):
            raise ImageError(f"{ar.shown(key)}: the original {found}") from found
        images.append(found)
    return np.stack(images)


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
