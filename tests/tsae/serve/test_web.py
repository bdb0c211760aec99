"""The page of a server, and the files that it reads."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

import tsae

TOKEN = "0123456789abcdef"  # noqa: S105


def test_the_page_and_its_files(server: Any, archive_dir: Path) -> None:
    page = server.ask("/")
    assert (page.status, page.headers["content-type"], page.headers["cache-control"]) == (
        200,
        "text/html; charset=utf-8",
        "no-cache",
    )
    description = json.loads(server.ask("/archive.json").body)
    place = description["blocks"]["keys"][0]["file"]
    answer = server.ask(f"/{place}")
    assert "immutable" in answer.headers["cache-control"]
    with tsae.open_archive(str(archive_dir)) as archive:
        assert zlib.decompress(answer.body).decode().split("\0") == list(archive.keys())
    assert server.ask(f"/{place}", if_none_match=answer.headers["etag"]).status == 304


def test_other_routes_are_as_they_were(server: Any) -> None:
    assert server.ask("/docs").status == 200
    assert server.ask("/images?limit=1").headers["content-type"] == "application/json"
    assert server.ask("/images", "POST").status == 405


def test_parts(server: Any) -> None:
    place = "/" + json.loads(server.ask("/archive.json").body)["blocks"]["streams"][0]["file"]
    whole = server.ask(place).body
    for wanted, start, end in (("bytes=3-9", 3, 10), ("bytes=5-", 5, len(whole)), ("bytes=0-999999999", 0, len(whole))):
        part = server.ask(place, range=wanted)
        assert (part.status, part.body) == (206, whole[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole)}"
    assert server.ask(place, range=f"bytes={len(whole)}-").status == 416
    assert server.ask(place, range="bytes=1-2,4-5").body == whole


@pytest.mark.parametrize("path", ["/nothing", "/page/../archive.json", "/facts/000099-0123456789abcdef.bin", "/page/x/main.js"])
def test_other_paths(path: str, server: Any) -> None:
    assert server.ask(path).status == 404


def test_the_page_needs_no_token_but_what_it_reads_does(start: Any, archive_dir: Path) -> None:
    server = start(archive_dir, TSAE_TOKEN=TOKEN)
    assert server.ask("/").status == 200
    assert server.ask("/archive.json").status == 401
    assert server.ask("/archive.json", authorization=f"Bearer {TOKEN}").status == 200


def test_a_damaged_record_does_not_match_its_checksum(start: Any, archive_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(archive_dir, tmp_path / "archive")
    with tsae.open_archive(str(archive_dir)) as archive:
        stream = archive.files.shard_records(0).streams[5]
    shard = next((tmp_path / "archive" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[data.index(stream)] ^= 1
    shard.write_bytes(data)
    server = start(tmp_path / "archive")
    blocks = json.loads(server.ask("/archive.json").body)["blocks"]
    rows = blocks["rows"][0]
    facts = zlib.decompress(server.ask(f"/{blocks['facts'][0]['file']}").body)
    sizes = [int.from_bytes(facts[4 * i : 4 * i + 4], "little") for i in range(rows)]
    streams, place, are_intact = server.ask(f"/{blocks['streams'][0]['file']}").body, 0, []
    for size in sizes:
        are_intact.append(
            int.from_bytes(streams[place : place + 4], "little") == zlib.crc32(streams[place + 4 : place + 4 + size])
        )
        place += 4 + size
    assert are_intact == [row != 5 for row in range(rows)]
