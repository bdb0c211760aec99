"""Originals over HTTP: only those of keys of the archive, as images, wherever INPUT has them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tsae.serve.conftest import Server
from tsae.images import decode_image, resize

Start = Callable[..., Server]


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.fixture
def key(server: Server) -> str:
    return str(server.ask("/images?limit=1").json()["images"][0]["key"])


def test_an_original_comes_as_it_was_encoded(server: Server, signs_dir: Path, key: str) -> None:
    original = decode_image((signs_dir / key).read_bytes())
    answer = server.ask(f"/originals/{key}")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert np.array_equal(pixels(answer.body), resize(original))
    assert server.ask(f"/originals/{key}", if_none_match=answer.headers["etag"]).status == 304
    webp = server.ask(f"/originals/{key}", accept="image/webp")
    assert webp.headers["content-type"] == "image/webp"
    assert np.array_equal(pixels(webp.body), resize(original))
    assert np.array_equal(pixels(server.ask(f"/originals/{key}?size=0").body), np.asarray(original))
    assert pixels(server.ask(f"/originals/{key}?size=100").body).shape == (100, 100, 3)
    assert server.ask(f"/originals/{key}?size=1025").status == 422
    assert server.ask(f"/originals/{key}", accept="text/html").status == 406


def test_a_sheet_has_them_above(server: Server) -> None:
    plain, both = (server.ask(f"/sheet?limit=4&columns=4&scale=1{more}") for more in ("", "&originals=true"))
    assert pixels(both.body).shape[0] > pixels(plain.body).shape[0]
    assert both.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/originals/labels.csv", "/originals/nothing.png", "/originals/..%2f..%2fetc%2fpasswd"])
def test_what_is_no_key_of_the_archive_is_never_looked_for(server: Server, path: str) -> None:
    answer = server.ask(path)
    assert (answer.status, answer.json()["type"]) == (404, "urn:tsae:no-such-key")


def test_what_is_gone_or_no_image_any_more_is_said(
    start: Start, archive_dir: Path, signs_dir: Path, tmp_path: Path, key: str
) -> None:
    shutil.copytree(signs_dir, tmp_path / "signs")
    server = start(archive_dir, "--originals", str(tmp_path / "signs"))
    for damage in (lambda file: file.write_text("secret"), Path.unlink, lambda file: file.symlink_to("/etc/passwd")):
        damage(tmp_path / "signs" / key)
        answer = server.ask(f"/originals/{key}")
        assert (answer.status, answer.json()["type"]) == (404, "urn:tsae:no-original")
        assert str(tmp_path) not in answer.json()["detail"]
        assert server.ask("/sheet?originals=true").json()["type"] == "urn:tsae:no-original"


def test_a_list_of_them_may_have_a_root(start: Start, archive_dir: Path, signs_dir: Path, tmp_path: Path, key: str) -> None:
    (tmp_path / "list.txt").write_text(key)
    server = start(archive_dir, "--originals", str(tmp_path / "list.txt"), "--root", str(signs_dir))
    original = decode_image((signs_dir / key).read_bytes())
    assert np.array_equal(pixels(server.ask(f"/originals/{key}?size=0").body), np.asarray(original))


def test_without_them_there_are_none(start: Start, archive_dir: Path, key: str) -> None:
    server = start(archive_dir)
    for path in (f"/originals/{key}", "/sheet?originals=true"):
        answer = server.ask(path)
        assert (answer.status, answer.json()["type"]) == (404, "urn:tsae:no-original")
    assert "originals_route" not in server.ask("/archive.json").json()


def test_the_page_is_told_where_they_are(server: Server) -> None:
    assert server.ask("/archive.json").json()["originals_route"] == "originals/"
