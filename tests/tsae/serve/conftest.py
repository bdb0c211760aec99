"""Servers as a person starts them: processes on loopback at a free port, ended after."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("fastapi") is None else []  # needs the extra `serve`

ROOT = Path(__file__).resolve().parents[3]


class Server:
    """A running `tsae serve`."""

    def __init__(self, archive: str | Path, *flags: str, **environment: str) -> None:
        command = [sys.executable, "-m", "tsae", "serve", str(archive), "--port", "0", "--log-json", *flags]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self.process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.event("serving")["url"].rpartition(":")[2])
        if "--not-ready" not in flags:
            self.event("state")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.events.append(json.loads(line) if line.startswith("{") else {"event": "text", "message": line})
                self._changed.notify_all()
        with self._changed:
            self.events.append({"event": "end"})
            self._changed.notify_all()

    def event(self, name: str, count: int = 1, wait_s: float = 60) -> dict[str, Any]:
        """The event of that name, when it has come so many times."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while True:
                found = [event for event in self.events if event["event"] == name]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                assert left > 0, self.events
                assert not any(event["event"] == "end" for event in self.events), self.events
                self._changed.wait(left)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; `_` in names of headers is `-`."""
        connection = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def wait_for(self, path: str, is_right: Callable[[Answer], bool], wait_s: float = 60) -> Answer:
        """The answer to a request, once it is as it should be."""
        deadline = time.monotonic() + wait_s
        while not is_right(answer := self.ask(path)):
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)
        return answer

    def stop(self) -> int:
        """Asks it to end; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join(10)
            assert self.process.stderr is not None
            self.process.stderr.close()


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"{self.status} {self.headers} {self.body[:300]!r}"


@pytest.fixture(scope="session")
def server(archive_dir: Path, signs_dir: Path) -> Iterator[Server]:
    """Serves the archive of drawn signs, and these; not to be ended by a test."""
    flags = ["--cors", "https://viewer.example", "--allow-host", "signs.example", "--originals", str(signs_dir)]
    running = Server(archive_dir, *flags)
    yield running
    assert running.stop() == 0
    assert not [event for event in running.events if event["event"] in ("bug", "text")]


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers, and ends them after the test."""
    started: list[Server] = []

    def go(archive: str | Path, *flags: str, **environment: str) -> Server:
        started.append(Server(archive, *flags, **environment))
        return started[-1]

    yield go
    for running in started:
        running.stop()
