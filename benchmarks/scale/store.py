"""A made-up S3 that only lists: any number of keys, each page as late as a real one's. It runs in a process of its own."""

from __future__ import annotations

import bisect
import functools
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import urlopen

from scale.synthetic import key

PREFIX = "images/"
ENTRY = (
    "<Contents><Key>{}</Key><LastModified>2026-11-28T12:00:00.000Z</LastModified><ETag>&quot;{:032x}&quot;</ETag>"
    "<Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class _Handler(BaseHTTPRequestHandler):
    """Answers what s3fs asks to list."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def __init__(self, count: int, latency_s: float, *args: Any) -> None:
        self._count, self._latency_s = count, latency_s
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """No single file is there."""
        self._send(404, b"")

    def do_GET(self) -> None:
        """A page, or how many were sent."""
        parts = urlsplit(self.path)
        if parts.path == "/requests":
            self._send(200, str(_Handler.requests).encode())
            return
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" not in query:
            self._send(404, b"<Error><Code>NoSuchKey</Code><Message>not there</Message></Error>")
            return
        _Handler.requests += 1
        time.sleep(self._latency_s)
        self._send(200, self._page(query))

    def _page(self, query: dict[str, str]) -> bytes:
        after = query.get("continuation-token") or query.get("start-after", "")
        if "delimiter" in query:  # whether it is a folder
            query["max-keys"] = "1"
        numbers = range(self._count)
        start = bisect.bisect_right(numbers, after.removeprefix(PREFIX), key=key) if after > PREFIX else 0
        end = min(start + int(query.get("max-keys", 1000)), self._count)
        found = [(quote(PREFIX + key(number)), number, 2000 + number % 5000) for number in range(start, end)]
        entries = "".join(ENTRY.format(*entry) for entry in found)
        is_cut = end < self._count and "delimiter" not in query
        more = f"<NextContinuationToken>{PREFIX}{key(end - 1)}</NextContinuationToken>" if is_cut else ""
        head = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated><KeyCount>{end - start}</KeyCount>"
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<ListBucketResult xmlns="{space}">{head}{more}{entries}</ListBucketResult>'.encode()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _serve(count: int, latency_s: float, port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, count, latency_s))
    server.daemon_threads = True
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def listing_store(count: int, latency_s: float) -> Iterator[str]:
    """A folder of so many files; the environment leads s3fs to it. Gives the store's address."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=_serve, args=(count, latency_s, ports), daemon=True)
    process.start()
    endpoint = f"http://127.0.0.1:{ports.get(timeout=60)}"
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    try:
        yield endpoint
    finally:
        process.kill()
        process.join()


def pages_sent(endpoint: str) -> int:
    """How many pages a store has been asked for."""
    with urlopen(f"{endpoint}/requests") as answer:  # noqa: S310 - our own
        return int(answer.read())
