"""An S3 server in memory: `python -m tests.cluster.store ADDRESS PORT`; its files are gone when it ends."""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

CONTROL = "/-/faults"
"""A request for this path, with a query such as `error=0.02&hang=0.01&seed=1`, sets the shares of requests that are harmed."""

HANG_S = 40.0
"""How long a request hangs that does: longer than a client waits."""


class Store:
    """A WSGI application."""

    def __init__(self) -> None:
        self._application, self._lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self._random, self._error, self._hang = random.Random(0), 0.0, 0.0
        self._harmed = {"requests": 0, "errors": 0, "hangs": 0}

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == CONTROL:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [self._set(dict(pair.split("=") for pair in environ["QUERY_STRING"].split("&") if pair)).encode()]
        with self._lock:  # as in S3, nothing comes between the check of a condition and the write
            lot = self._random.random()
            self._harmed["requests"] += 1
            if lot >= self._error + self._hang:
                return self._application(environ, start_response)
            self._harmed["errors" if lot < self._error else "hangs"] += 1
        if lot >= self._error:
            time.sleep(HANG_S)
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b""]

    def _set(self, shares: dict[str, str]) -> str:
        with self._lock:
            told = str(self._harmed)
            self._error, self._hang = float(shares.get("error", 0)), float(shares.get("hang", 0))
            self._random = random.Random(int(shares.get("seed", 0)))
            self._harmed = dict.fromkeys(self._harmed, 0)
        return told


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    make_server(sys.argv[1], int(sys.argv[2]), Store(), threaded=True).serve_forever()
