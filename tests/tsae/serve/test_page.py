"""The place for a page at `/`: static files that leave the routes alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tsae.serve import app as app_module
from tsae.serve.options import ServeOptions
from tsae.serve.service import Service


def get(app: Any, path: str) -> tuple[int, bytes, bytes]:
    """Status, type and body of an answer of an application."""
    sent: list[dict[str, Any]] = []

    asked: list[None] = []

    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.Event().wait()  # the client stays
        asked.append(None)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    head = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    asyncio.run(
        app({**head, "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("localhost", 80)}, receive, send)
    )
    headers = dict(sent[0]["headers"])
    return sent[0]["status"], headers.get(b"content-type", b""), b"".join(message.get("body", b"") for message in sent[1:])


def test_without_a_page_the_start_leads_to_the_description(archive_dir: Path) -> None:
    app = app_module.make_app(Service(ServeOptions(str(archive_dir))))
    assert get(app, "/")[0] == 307


def test_a_page_is_served_beside_the_routes(archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><p>signs")
    (tmp_path / "app.js").write_text("'use strict'")
    monkeypatch.setattr(app_module, "PAGE", tmp_path)
    app = app_module.make_app(Service(ServeOptions(str(archive_dir))))
    assert get(app, "/")[::2] == (200, b"<!doctype html><p>signs")
    assert get(app, "/app.js")[0] == 200
    assert get(app, "/images")[:2] == (503, b"application/problem+json")  # not open yet, but a route
    assert get(app, "/docs")[0] == 200
    for path in ("/nothing", "/../app.py", "/%2e%2e/app.py"):
        assert get(app, path)[:2] == (404, b"application/problem+json")
