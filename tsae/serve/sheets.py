"""`/sheet`: a contact sheet of what a selection finds, and above it the originals."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np

from tsae.errors import ImageError, TsaeError
from tsae.originals import Originals
from tsae.overview import Shown, draw_sheet
from tsae.reader import Archive
from tsae.selection import Selection
from tsae.serve import http
from tsae.serve.http import Answer, Asked
from tsae.serve.pictures import PIXELS, Form
from tsae.serve.problems import Problem
from tsae.serve.service import BATCH_IMAGES, Service, short_digest, wanted_of
from tsae.serve.states import State


async def sheet(service: Service, selection: Selection, has_originals: bool, columns: int, scale: int, asked: Asked) -> Answer:
    """A contact sheet of what a selection finds, above it the originals if they are wanted.

    Raises:
        Problem: if it finds nothing, or an image or original cannot be had.
    """
    originals = service.known_originals() if has_originals else None
    with service.state().used() as state:
        page = await asyncio.to_thread(state.pages.page, selection)
        if not page.rows:
            raise Problem("no-such-key", "no image is like that")
        etag = f'"{short_digest(repr([state.digest, selection, columns, scale]))}-sheet"'
        headers = {"content-type": "image/png", "cache-control": http.REVALIDATED, "etag": etag}
        if originals is not None:  # they may change at any time
            headers = {"content-type": "image/png", "cache-control": "no-store"}
        elif http.is_known(asked.if_none_match, etag):
            return Answer(304, headers)
        body = service.cache.get(("", etag)) if originals is None else None
        if body is None:
            body = await _draw(service, state, page.rows, originals, columns, scale)
            if originals is None:
                service.cache.put(("", etag), body, len(body))
    return Answer(200, headers, body)


async def _draw(
    service: Service, state: State, rows: list[int], originals: Originals | None, columns: int, scale: int
) -> bytes:
    images = await _shown(service, state, rows)
    try:
        return await asyncio.to_thread(_to_png, state.archive, images, originals, columns, scale)
    except ImageError as error:
        raise Problem("no-original", " ".join(str(error).split())) from error


async def _shown(service: Service, state: State, rows: list[int]) -> Shown:
    """The images of some rows, decoded."""
    images: list[Any] = []
    for start in range(0, len(rows), BATCH_IMAGES):
        wanted = [wanted_of(state, row, Form(PIXELS)) for row in rows[start : start + BATCH_IMAGES]]
        images += await service.batcher.many(wanted)
    for image in images:
        if isinstance(image, Exception):
            raise service.problem(image) if isinstance(image, TsaeError) else image
    columns = state.index.columns
    return Shown(
        [state.index.key(row) for row in rows],
        np.stack(images),
        columns.psnrs_db[rows].astype(np.float64),
        columns.sizes_bytes[rows].tolist(),
        columns.lossless[rows].tolist(),
    )


def _to_png(archive: Archive, images: Shown, originals: Originals | None, columns: int, scale: int) -> bytes:
    file = io.BytesIO()
    draw_sheet(archive, images, originals, columns=columns, scale=scale).save(file, "PNG", compress_level=1)
    return file.getvalue()
