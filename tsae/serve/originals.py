"""`/originals`: what was compressed, as it was encoded or as it was before."""

from __future__ import annotations

import asyncio

import numpy as np
from PIL import Image

from tsae.archive import digest, shown
from tsae.config import IMAGE_SIZE_PX
from tsae.errors import ImageError
from tsae.images import encode_image, resize
from tsae.serve import http
from tsae.serve.http import Answer, Asked
from tsae.serve.pictures import MEDIA_TYPES
from tsae.serve.problems import Problem
from tsae.serve.service import Service, find

MAX_ORIGINAL_PX = 1024
"""Longest side of an original that is asked for as it was."""


async def original(service: Service, key: str | None, file_format: str, size: int | None, asked: Asked) -> Answer:
    """What was compressed.

    Args:
        service: That knows where originals are.
        key: None if what was asked for cannot be one.
        file_format: `png` or `webp`.
        size: Side to scale what was encoded to, in px; 0 is the image as it was before, at most `MAX_ORIGINAL_PX` a side.
        asked: Of the request.

    Raises:
        Problem: if there is no image of that key in the archive, or its original cannot be had.
    """
    originals = service.known_originals()
    with service.state().used() as state:
        find(state, key)  # nothing else is ever looked for on the disk
    name, scaled = str(key), IMAGE_SIZE_PX if size is None else size
    [body] = await asyncio.to_thread(originals.map, lambda image: _original_file(image, file_format, scaled), [name])
    if isinstance(body, ImageError):
        raise Problem("no-original", f"{shown(name)}: {' '.join(str(body).split())}")
    etag = f'"{digest(body)[:16]}"'
    headers = {"etag": etag, "cache-control": http.REVALIDATED} | ({"vary": "Accept"} if asked.is_negotiated else {})
    if http.is_known(asked.if_none_match, etag):
        return Answer(304, headers)
    return Answer(200, {**headers, "content-type": MEDIA_TYPES[file_format], "x-content-type-options": "nosniff"}, body)


def _original_file(image: Image.Image, file_format: str, size_px: int) -> bytes:
    """An original as it was encoded, scaled from that as decoded images are, or for 0 as it was before."""
    if size_px:
        return encode_image(resize(image), file_format, None if size_px == IMAGE_SIZE_PX else (size_px, size_px))
    image.thumbnail((MAX_ORIGINAL_PX, MAX_ORIGINAL_PX))
    return encode_image(np.asarray(image), file_format)
