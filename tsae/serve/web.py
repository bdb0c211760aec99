"""The page at `/`, and what it reads: the files of `tsae.web.ServedArchive`, in parts where asked. Knows no framework."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from tsae.archive import digest
from tsae.serve import http
from tsae.serve.http import Answer, Asked
from tsae.web.page_files import ENDINGS, INDEX_FILE

REVALIDATED_FILES = (INDEX_FILE, "archive.json")
"""The names that stay while what they name changes; all others are named by their content."""

RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")
OTHER_TYPES = {".json": "application/json", ".bin": "application/octet-stream"}


def is_of_page(path: str) -> bool:
    """Whether a path is that of the page itself, which tells nothing of the archive."""
    return path == "/" or path.startswith("/page/")


def answer(read: Callable[[str], bytes], name: str, wanted: str | None, asked: Asked, keeping: str) -> Answer:
    """A file, or a part of it. Reads the archive, so not in the event loop.

    Args:
        read: Gives a file of the page or of a state.
        name: Of the file; nothing for `index.html`.
        wanted: The header `Range`.
        asked: Of the request.
        keeping: `Cache-Control` of what never changes.

    Raises:
        KeyError: if there is no such file.
        TsaeError: if what is needed is damaged.
    """
    name = name or INDEX_FILE
    data, is_fixed = read(name), name not in REVALIDATED_FILES
    etag = f'"{posixpath.basename(name)}"' if is_fixed else f'"{digest(data)[:16]}"'
    headers = {"etag": etag, "cache-control": keeping if is_fixed else http.REVALIDATED, "accept-ranges": "bytes"}
    if http.is_known(asked.if_none_match, etag):
        return Answer(304, headers)
    media_type = {**OTHER_TYPES, **ENDINGS}[posixpath.splitext(name)[1]]
    headers |= {"content-type": media_type, "x-content-type-options": "nosniff"}
    part = RANGE.fullmatch(wanted or "")
    if part is None:
        return Answer(200, headers, data)
    start, end = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
    if start > end:
        return Answer(416, {"content-range": f"bytes */{len(data)}"})
    return Answer(206, {**headers, "content-range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1])
