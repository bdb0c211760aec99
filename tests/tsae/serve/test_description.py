"""The server against its own OpenAPI description: what schemathesis thinks of, within it and beyond."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tsae.serve.conftest import Server

pytest.importorskip("schemathesis")

EXAMPLES = 25

RUN = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


def test_every_answer_is_as_described(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.port}/openapi.json"
    flags = ["--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color"]
    command = [sys.executable, "-c", RUN, "run", url, *flags]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Tested: 10" in run.stdout


def test_the_description_names_every_route(server: Server) -> None:
    description = server.ask("/openapi.json").json()
    keys = {f"/{kind}/{{key}}" for kind in ("images", "latents", "originals")}
    others = {"/images", "/stats", "/sheet", "/batch", "/healthz", "/readyz", "/metrics"}
    assert set(description["paths"]) == keys | others
    for operations in description["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]


def test_the_page_for_people_asks_nothing_of_others(server: Server) -> None:
    page = server.ask("/docs").body.decode()
    assert "/images/{key}" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_with_a_token_the_description_says_so(start: Callable[..., Server], archive_dir: Path) -> None:
    token = "0123456789abcdef0123"  # noqa: S105
    running = start(archive_dir, TSAE_TOKEN=token)
    description = running.ask("/openapi.json", authorization=f"Bearer {token}").json()
    assert description["security"] == [{"token": []}]
    assert description["paths"]["/healthz"]["get"]["security"] == []
