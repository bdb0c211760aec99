"""The files of the page itself, and the name under which they are served."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

PAGE = Path(__file__).parent / "page"
INDEX_FILE = "index.html"
ENDINGS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Of files that belong to the page, with what a server should call them."""

DIGEST_DIGITS = 16


@functools.cache
def read_page() -> dict[str, bytes]:
    """All files of the page by their names; but for `index.html` they lie in a folder named by their digest.

    So a browser never mixes the modules of two versions, and may keep them for ever.
    """
    files = {path.relative_to(PAGE).as_posix(): path.read_bytes() for path in sorted(PAGE.rglob("*")) if path.suffix in ENDINGS}
    sha256 = hashlib.sha256()
    for name, data in files.items():
        sha256.update(f"{name} {len(data)}\n".encode() + data)
    folder = f"page/{sha256.hexdigest()[:DIGEST_DIGITS]}"
    index = files.pop(INDEX_FILE).replace(b'"./', f'"./{folder}/'.encode())
    return {f"{folder}/{name}": data for name, data in files.items()} | {INDEX_FILE: index}
