"""Images, latents, pages, batches and sheets over HTTP: what comes is what the archive holds."""

from __future__ import annotations

import email.parser
import email.policy
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tsae
from tests.tsae.serve.conftest import Server
from tsae.serve.http import path_of


@pytest.fixture(scope="module")
def archive(archive_dir: Path) -> Any:
    with tsae.open_archive(str(archive_dir)) as opened:
        yield opened


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_every_image_comes_as_the_archive_decodes_it(server: Server, archive: Any) -> None:
    connection = server.connect()
    for key in archive:
        connection.request("GET", path_of("/images/", key))
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["content-type"] == "image/png"
        assert np.array_equal(pixels(response.read()), archive[key])
    connection.close()


def test_formats_by_accept_and_by_name(server: Server, archive: Any) -> None:
    key = next(iter(archive))
    path = path_of("/images/", key)
    webp = server.ask(path, accept="image/webp,*/*;q=0.5")
    assert webp.headers["content-type"] == "image/webp"
    assert webp.headers["vary"].startswith("Accept")
    assert np.array_equal(pixels(webp.body), archive[key])
    named = server.ask(f"{path}?format=webp")
    assert named.body == webp.body
    assert "Accept" not in named.headers.get("vary", "")
    assert server.ask(path, accept="image/avif,image/webp,image/*,*/*;q=0.8").headers["content-type"] == "image/png"
    npy = server.ask(f"{path}?format=npy")
    assert np.array_equal(np.load(io.BytesIO(npy.body)), archive[key])
    refused = server.ask(path, accept="text/html")
    assert (refused.status, refused.json()["type"]) == (406, "urn:tsae:not-acceptable")


def test_an_image_can_be_scaled(server: Server, archive: Any) -> None:
    key = next(iter(archive))
    answer = server.ask(f"{path_of('/images/', key)}?size=96")
    assert pixels(answer.body).shape == (96, 96, 3)
    assert answer.headers["etag"] != server.ask(path_of("/images/", key)).headers["etag"]
    for size in ("0", "1025", "x", "1e3", "-1"):
        assert server.ask(f"{path_of('/images/', key)}?size={size}").status == 422


def test_latents_are_those_of_the_archive(server: Server, archive: Any) -> None:
    for key in list(archive)[:5]:
        answer = server.ask(path_of("/latents/", key))
        assert np.array_equal(np.load(io.BytesIO(answer.body)), archive.latents([key])[0])


def test_a_client_that_has_it_is_told_so(server: Server, archive: Any) -> None:
    path = path_of("/images/", next(iter(archive)))
    first = server.ask(path)
    etag = first.headers["etag"]
    assert not etag.startswith("W/")
    assert first.headers["cache-control"] == "no-cache"
    again = server.ask(path, if_none_match=etag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert "content-type" not in again.headers
    assert server.ask(path, if_none_match=f'"other", W/{etag}').status == 304
    assert server.ask(path, if_none_match='"other"').status == 200
    assert server.ask(path, if_none_match=etag, accept="image/webp").status == 200


def test_a_url_with_a_version_never_changes(server: Server) -> None:
    image = server.ask("/images?limit=1").json()["images"][0]
    answer = server.ask(image["url"])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert image["version"] in answer.headers["etag"]
    other = server.ask(image["url"][:-1] + "x")
    assert other.status == 404
    assert other.json()["version"] == image["version"]
    assert other.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/images?limit=3", "/stats", "/sheet?limit=3", "/healthz", "/metrics", "/nothing"])
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    head, get = server.ask(path, "HEAD"), server.ask(path)
    assert head.body == b""
    assert head.status == get.status
    if path != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.body))
    assert head.headers["content-type"] == get.headers["content-type"]


def test_pages_tell_of_every_record(server: Server, archive: Any) -> None:
    found: list[dict[str, Any]] = []
    path = "/images?limit=7"
    while True:
        page = server.ask(path).json()
        assert page["total"] == 40
        found += page["images"]
        if page["next"] is None:
            break
        path = f"/images?limit=7&after={path_of('', page['next'])}"
    names = ("key", "width", "height", "label", "psnr_db")
    assert [{name: row[name] for name in names} for row in found] == list(archive.rows())


def test_pages_are_chosen_and_sorted(server: Server, archive: Any) -> None:
    rows = list(archive.rows())
    label = rows[0]["label"]
    page = server.ask(f"/images?label={label}&sort=psnr&order=desc&limit=1000").json()
    expected = sorted((row for row in rows if row["label"] == label), key=lambda row: (-row["psnr_db"], row["key"]))
    assert [row["key"] for row in page["images"]] == [row["key"] for row in expected]
    least = sorted(row["psnr_db"] for row in rows)[20]
    assert server.ask(f"/images?min_psnr={least}").json()["total"] == sum(row["psnr_db"] >= least for row in rows)
    assert server.ask("/images?min_psnr=1e39").json()["total"] == 0
    prefix = rows[5]["key"].split("/")[0] + "/"
    assert server.ask(f"/images?prefix={prefix}").json()["total"] == sum(row["key"].startswith(prefix) for row in rows)
    assert server.ask("/images?sort=psnr&after=nothing").json()["type"] == "urn:tsae:no-such-key"
    for bad in ("limit=0", "limit=1001", "min_psnr=nan", "min_psnr=x", "sort=size", "order=up"):
        answer = server.ask(f"/images?{bad}")
        assert answer.status == 422
        assert answer.headers["content-type"] == "application/problem+json"


def test_json_is_compressed_for_who_takes_it(server: Server) -> None:
    plain, packed = server.ask("/images"), server.ask("/images", accept_encoding="br, gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in plain.headers
    assert plain.headers["etag"] != packed.headers["etag"]
    assert server.ask("/images", if_none_match=packed.headers["etag"], accept_encoding="gzip").status == 304
    assert server.ask("/images", if_none_match=plain.headers["etag"]).status == 304
    assert "content-encoding" not in server.ask("/images", accept_encoding="gzip;q=0").headers


def test_figures_are_those_of_the_archive(server: Server, archive: Any, archive_dir: Path) -> None:
    stats = server.ask("/stats").json()
    rows = list(archive.rows())
    assert stats["images"] == stats["archive"]["images"] == 40
    assert stats["archive"]["name"] == archive_dir.name
    assert str(archive_dir) not in json.dumps(stats)
    assert stats["psnr_db"]["mean"] == pytest.approx(np.mean([row["psnr_db"] for row in rows]), abs=1e-3)
    assert {row["label"] for row in stats["labels"]} == {row["label"] for row in rows}
    assert stats["labels_total"] == len(stats["labels"])
    etag = server.ask("/stats").headers["etag"]
    assert server.ask("/stats", if_none_match=etag).status == 304


def test_a_batch_as_a_zip_file(server: Server, archive: Any) -> None:
    keys = list(archive)
    body = json.dumps({"keys": [*keys, keys[0], "nothing.png", "../x"]}).encode()
    answer = server.ask("/batch", "POST", body)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as file:
        assert file.testzip() is None
        *images, errors = file.namelist()
        assert images == keys  # drawn signs are PNG files already
        assert all(np.array_equal(pixels(file.read(name)), archive[name]) for name in images)
        failed = json.loads(file.read(errors))["errors"]
    assert errors == ".tsae/errors.json"
    assert [(error["key"], error["type"]) for error in failed] == [
        ("nothing.png", "urn:tsae:no-such-key"),
        ("../x", "urn:tsae:no-such-key"),
    ]


@pytest.mark.parametrize(("file_format", "size"), [("png", 32), ("png", None), ("webp", 40), ("npy", 40), ("latents", 40)])
def test_a_batch_in_parts(server: Server, archive: Any, file_format: str, size: int | None) -> None:
    keys = list(archive)[:3]
    body = json.dumps({"keys": keys, "format": file_format, "size": size}).encode()
    answer = server.ask("/batch", "POST", body, accept="multipart/mixed")
    text = b"content-type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.body
    parts = list(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(text).iter_parts())
    assert len(parts) == 3
    for key, part in zip(keys, parts, strict=True):
        ending = "npy" if file_format == "latents" else file_format
        assert part.get_filename() == f"{key.removesuffix('.png')}.{ending}"
        content = part.get_payload(decode=True)
        assert len(content) == int(part["content-length"])
        if file_format == "png":
            assert np.array_equal(pixels(content), archive[key])
        named = server.ask(part["content-location"])
        assert (named.headers["etag"], named.body) == (part["etag"], content)
        if file_format == "latents":
            assert np.array_equal(np.load(io.BytesIO(content)), archive.latents([key])[0])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"keys": []}', b'{"keys": "a"}', b'{"keys": [1]}', b'{"keys": ["a"], "format": "gif"}',
     b'{"keys": ["a"], "size": 0}', b'{"keys": ["a"], "other": 1}', b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_a_batch_that_is_none(server: Server, body: bytes) -> None:
    answer = server.ask("/batch", "POST", body)
    assert answer.status == 422
    assert answer.json()["type"] == "urn:tsae:invalid"


def test_a_sheet_shows_what_a_query_finds(server: Server) -> None:
    answer = server.ask("/sheet?limit=5&columns=5&scale=1&sort=psnr")
    assert answer.headers["content-type"] == "image/png"
    assert pixels(answer.body).shape[1] > 5 * 32
    assert server.ask("/sheet?limit=5&columns=5&scale=1&sort=psnr", if_none_match=answer.headers["etag"]).status == 304
    assert server.ask("/sheet?prefix=nothing").status == 404


def test_other_origins_may_read_only_if_that_was_said(server: Server) -> None:
    allowed = server.ask("/stats", origin="https://viewer.example")
    assert allowed.headers["access-control-allow-origin"] == "https://viewer.example"
    assert "access-control-allow-origin" not in server.ask("/stats", origin="https://other.example").headers
    asked = server.ask("/batch", "OPTIONS", origin="https://viewer.example", access_control_request_method="POST")
    assert asked.status == 200


def test_metrics_count_what_was_done(server: Server) -> None:
    before = server.ask("/metrics").body.decode()
    server.ask("/nothing-like-that")
    after = server.ask("/metrics").body.decode()

    def value(text: str, name: str) -> float:
        lines = [line for line in text.splitlines() if line.startswith(name + " ")]
        return float(lines[0].split()[-1]) if lines else 0.0

    assert value(after, 'tsae_requests_total{route="metrics",status="200"}') > value(
        before, 'tsae_requests_total{route="metrics",status="200"}'
    )
    other = 'tsae_requests_total{route="other",status="404"}'
    assert value(after, other) == value(before, other) + 1
    assert value(after, "tsae_archive_images") == 40
    assert value(after, "tsae_archive_up") == 1
    assert "nothing-like-that" not in after
