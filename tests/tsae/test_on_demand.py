"""Single images on demand: every image has a place of its own, and no file is lost that the user did not name."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import tsae
from tsae.cli import main
from tsae.errors import InputError
from tsae.on_demand import get_images
from tsae.signs import draw_signs

KEYS = ["a/x.png", "b/x.png", "folder.webp/z.png", "folder.jpg", "x.jpg", "x.png"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six different signs under keys whose outputs could meet."""
    base = tmp_path_factory.mktemp("on-demand")
    for key, sign in zip(KEYS, draw_signs(len(KEYS), seed=3), strict=True):
        file = base / "images" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sign.image).save(file)
    assert main(["compress", str(base / "images"), str(base / "archive")]) == 0
    return str(base / "archive")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def refusal(archive: str, *keys: str, output: str | None = None, file_format: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        get_images(archive, keys, output, file_format)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_is(file: Path, archive: str, key: str) -> None:
    with tsae.open_archive(archive) as opened:
        np.testing.assert_array_equal(np.asarray(Image.open(file)), opened[key])


# Files that are there already


@pytest.mark.parametrize(("output", "place"), [(None, "x.png"), ("d/", "d/a/x.png"), ("d", "d/a/x.png")])
def test_an_original_is_not_overwritten(archive: str, here: Path, output: str | None, place: str) -> None:
    (here / place).parent.mkdir(parents=True, exist_ok=True)
    (here / place).write_bytes(b"original")
    message = refusal(archive, "a/x.png", output=output)
    assert message.startswith(f"{place}: is there already")
    assert f"-o {place}" in message
    assert (here / place).read_bytes() == b"original"


def test_nothing_is_written_when_one_file_is_there(archive: str, here: Path) -> None:
    (here / "d").mkdir()
    (here / "d" / "x.png").write_bytes(b"original")
    refusal(archive, "folder.jpg", "x.png", output="d")
    assert files(here) == ["d/x.png"]


def test_a_file_that_was_named_is_replaced(archive: str, here: Path) -> None:
    (here / "mine.png").write_bytes(b"old")
    assert get_images(archive, ["x.png"], "mine.png", None) == []
    assert_is(here / "mine.png", archive, "x.png")


def test_what_is_no_regular_file_is_not_replaced(archive: str, here: Path) -> None:
    os.mkfifo(here / "pipe.png")
    assert "no regular file" in refusal(archive, "x.png", output="pipe.png")
    assert (here / "pipe.png").is_fifo()


@pytest.mark.parametrize(
    ("keys", "output"), [(["x.png"], "f.png"), (["x.png"], "d/"), (["x.png", "a/x.png"], "d"), (["x.png"], None)]
)
def test_a_place_that_does_not_answer_is_told_in_one_line(
    archive: str, here: Path, keys: list[str], output: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("could not connect\nto the endpoint")

    if output is None:  # no folder can be asked that is not there: a link to itself instead
        (here / "x.png").symlink_to("x.png")
        assert "cannot be reached" in refusal(archive, *keys)
        return
    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    message = refusal(archive, *keys, output=f"memory://silent/{output}")
    assert message.startswith(f"memory://silent/{output}: cannot be reached (")
    assert "could not connect to the endpoint" in message


# Names that would meet


@pytest.mark.parametrize("keys", [("a/x.png", "b/x.png"), ("x.jpg", "x.png")])
def test_names_that_meet_here_are_refused(archive: str, here: Path, keys: tuple[str, str]) -> None:
    message = refusal(archive, *keys)
    assert message.startswith("x.png: ")
    assert all(key in message for key in (*keys, "-o DIR/"))
    assert files(here) == []


def test_in_a_folder_every_image_has_its_own_name(archive: str, here: Path) -> None:
    assert get_images(archive, KEYS, "d", None) == []
    names = ["a/x.png", "b/x.png", "folder.webp/z.png", "folder.png", "x.jpg.png", "x.png.png"]
    assert files(here / "d") == sorted(names)
    for key, name in zip(KEYS, names, strict=True):
        assert_is(here / "d" / name, archive, key)


def test_a_file_where_another_needs_a_folder_is_refused(archive: str, here: Path) -> None:
    message = refusal(archive, "folder.webp/z.png", "folder.jpg", output="d", file_format="webp")
    assert message.startswith("folder.webp: ")
    assert files(here) == []


def test_a_key_given_twice_is_fetched_once(archive: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert get_images(archive, ["x.png", "x.png"], "one.png", None) == []
    assert get_images(archive, ["x.png", "x.png"], None, None) == []
    assert capfd.readouterr().err.splitlines() == ["one.png", "x.png"]
    assert files(here) == ["one.png", "x.png"]


def test_a_missing_key_neither_stops_nor_renames_the_others(archive: str, here: Path) -> None:
    lines = get_images(archive, ["folder.jpg", "folder.png", "x.png"], "d", None)
    assert [line.split(":")[0] for line in lines] == ["folder.png"]
    assert files(here / "d") == ["folder.png", "x.png"]


# Globs and zips


def test_a_glob_is_named_as_decompressing_names(archive: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert get_images(archive, ["x.*", "[ab]/*"], "d", None) == []
    names = ["a/x.png", "b/x.png", "x.jpg.png", "x.png.png"]
    assert files(here / "d") == names
    assert capfd.readouterr().err == "d: 4 images\n"
    assert main(["decompress", archive, "all"]) == 0
    for name in names:
        assert np.array_equal(np.asarray(Image.open(here / "d" / name)), np.asarray(Image.open(here / "all" / name)))
    assert get_images(archive, ["x.jpg", "x.p*"], "e", "npy") == []
    assert files(here / "e") == ["x.jpg.npy", "x.png.npy"]


def test_a_glob_of_one_image_is_still_a_folder(archive: str, here: Path) -> None:
    assert get_images(archive, ["a/*"], "d.png", None) == []
    assert files(here) == ["d.png/a/x.png"]
    assert get_images(archive, ["[b]/*"], None, "webp") == []
    assert files(here) == ["d.png/a/x.png", "x.webp"]


def test_a_glob_without_a_match_is_told_and_the_others_come(archive: str, here: Path) -> None:
    lines = get_images(archive, ["none*", "no key", "a/*"], "d", None)
    assert [line.split(":")[0] for line in lines] == ["none*", "no key"]
    assert "matches nothing" in lines[0]
    assert files(here) == ["d/a/x.png"]
    assert get_images(archive, ["none*"], "none.zip", None)
    assert files(here) == ["d/a/x.png"]


def test_a_key_that_looks_like_a_glob_is_a_key(tmp_path: Path, here: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("[ab].png", "a.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / "in" / name)
    assert main(["compress", str(tmp_path / "in"), str(tmp_path / "archive")]) == 0
    assert get_images(str(tmp_path / "archive"), ["[ab].png"], "d/", None) == []
    assert files(here / "d") == ["[ab].png"]


def test_a_zip_is_the_same_every_time(archive: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("one.zip", "two.ZIP", "one.zip"):  # the last replaces
        assert get_images(archive, ["*"], name, None) == []
    assert capfd.readouterr().err.splitlines()[0] == "one.zip: 6 images"
    assert (here / "one.zip").read_bytes() == (here / "two.ZIP").read_bytes()
    assert files(here) == ["one.zip", "two.ZIP"]
    with zipfile.ZipFile(here / "one.zip") as opened:
        assert opened.testzip() is None
        assert opened.namelist() == ["a/x.png", "b/x.png", "folder.png", "folder.webp/z.png", "x.jpg.png", "x.png.png"]
        assert {(member.date_time, member.external_attr >> 16) for member in opened.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644)
        }
        opened.extractall(here / "out")
    assert_is(here / "out" / "x.jpg.png", archive, "x.jpg")
    assert main(["decompress", archive, "all"]) == 0
    assert files(here / "out") == files(here / "all")


def test_a_zip_of_keys_and_in_a_store(archive: str, here: Path) -> None:
    assert get_images(archive, ["x.png", "nothing.png", "a/x.png"], "memory://zips/some.zip", "webp")[0].startswith(
        "nothing.png"
    )
    assert get_images(archive, ["x.png"], "one.zip", None) == []
    with zipfile.ZipFile(io.BytesIO(MemoryFileSystem().cat_file("/zips/some.zip"))) as opened:
        assert opened.namelist() == ["x.webp", "a/x.webp"]
        np.testing.assert_array_equal(np.asarray(Image.open(opened.open("a/x.webp"))), tsae.open_archive(archive)["a/x.png"])
    assert zipfile.ZipFile(here / "one.zip").namelist() == ["x.png"]


def test_a_zip_that_fails_leaves_what_was_there(archive: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.zip").write_bytes(b"old")
    monkeypatch.setattr("tsae.on_demand.encode_image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        get_images(archive, ["*"], "mine.zip", None)
    assert (here / "mine.zip").read_bytes() == b"old"
    assert files(here) == ["mine.zip"]


@pytest.mark.parametrize("name", ["pipe.zip", "file/x.zip"])
def test_a_zip_that_cannot_be_is_refused(archive: str, here: Path, name: str) -> None:
    os.mkfifo(here / "pipe.zip")
    (here / "file").write_bytes(b"")
    assert refusal(archive, "*", output=name).startswith(name)
    assert (here / "pipe.zip").is_fifo()
    assert files(here) == ["file"]


def test_a_folder_named_like_a_zip_is_a_folder(archive: str, here: Path) -> None:
    (here / "d.zip").mkdir()
    assert get_images(archive, ["a/*"], "d.zip", None) == []
    assert files(here) == ["d.zip/a/x.png"]


def test_many_images_to_standard_output_are_refused(archive: str, here: Path) -> None:
    assert "cannot share" in refusal(archive, "*", output="-")


def test_what_a_glob_finds_can_be_filtered(archive: str, here: Path) -> None:
    assert main(["get", archive, "x.jpg", "*", "--prefix", "folder", "-o", "d"]) == 0
    assert files(here / "d") == ["folder.png", "folder.webp/z.png", "x.jpg.png"]


def test_of_a_damaged_archive_the_others_come(archive: str, here: Path) -> None:
    copy = Path(shutil.copytree(archive, here / "copy"))
    with tsae.open_archive(archive) as opened:
        stream = opened.record("folder.jpg").streams[0]
    (shard,) = (copy / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[data.find(stream) + 3] ^= 1
    shard.write_bytes(data)
    for output in ("d", "d.zip"):
        (line,) = get_images(str(copy), ["*"], output, None)
        assert "folder.jpg" in line
    with zipfile.ZipFile(here / "d.zip") as zipped:
        assert sorted(zipped.namelist()) == files(here / "d")
    assert len(files(here / "d")) == 5


# Files, folders and formats


@pytest.mark.parametrize("name", ["x.gif", "x.PNG2", "x."])
def test_an_unknown_ending_is_refused(archive: str, here: Path, name: str) -> None:
    message = refusal(archive, "x.png", output=name)
    assert message.startswith(f"{name}: ")
    assert "--format" in message
    assert files(here) == []


@pytest.mark.parametrize(
    ("name", "file_format", "written"),
    [
        ("x", None, "PNG"),
        ("x.gif", "webp", "WEBP"),
        ("x.png", "jpeg", "JPEG"),
        ("x.JPG", None, "JPEG"),
        ("v1.0/x", None, "PNG"),
    ],
)
def test_the_format_follows_the_option_then_the_ending(
    archive: str, here: Path, name: str, file_format: str | None, written: str
) -> None:
    assert get_images(archive, ["x.png"], name, file_format) == []
    assert Image.open(here / name).format == written


@pytest.mark.parametrize("output", ["new.gif/", "there.gif"])
def test_a_slash_or_a_folder_means_folder(archive: str, here: Path, output: str) -> None:
    (here / "there.gif").mkdir()
    assert get_images(archive, ["x.png"], output, None) == []
    assert_is(here / output / "x.png", archive, "x.png")


@pytest.mark.parametrize(("keys", "output"), [(["x.png"], "file.png/"), (["x.png", "a/x.png"], "file.png")])
def test_a_file_where_a_folder_is_needed_is_refused(archive: str, here: Path, keys: list[str], output: str) -> None:
    (here / "file.png").write_bytes(b"original")
    assert "where a folder is needed" in refusal(archive, *keys, output=output)
    assert (here / "file.png").read_bytes() == b"original"


@pytest.mark.parametrize("keys", [["x.png"], ["x.png", "a/x.png"]])
def test_an_empty_output_is_refused(archive: str, here: Path, keys: list[str]) -> None:
    assert "empty" in refusal(archive, *keys, output="")
    assert files(here) == []
