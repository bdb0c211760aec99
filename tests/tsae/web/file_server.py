"""A plain file server for the page's tests: static files, with range requests or without, on a port of its own."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, ranges: bool, asked: list[str], **options: Any) -> None:
        self.ranges, self.asked = ranges, asked
        super().__init__(*args, **options)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        file, wanted = Path(self.translate_path(self.path)), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not self.ranges or wanted is None or not file.is_file():
            super().do_GET()
            return
        start, end = int(wanted[1]), int(wanted[2])
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(end - start + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{file.stat().st_size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def served(folder: Path, ranges: bool = True) -> Iterator[tuple[str, list[str]]]:
    """The URL of a folder, and the paths that were asked for."""
    asked: list[str] = []
    handler = functools.partial(_Files, directory=str(folder), ranges=ranges, asked=asked)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()
