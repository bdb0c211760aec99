"""The names of an archive's files, and the writing and reading of files by their digests."""

import hashlib
import os
from pathlib import Path

import pytest

from tsae.archive import FileEntry, file_number, is_leftover, read_digested, write, write_digested
from tsae.archive.files import check_name, is_named_after
from tsae.errors import InputError, TsaeError
from tsae.paths import Folder


def test_a_digested_name_follows_from_the_content(tmp_path: Path) -> None:
    archive = Folder(str(tmp_path))
    entry = write_digested(archive, "shards", 7, b"content", 3)
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert entry == FileEntry(f"shards/000007-{sha256[:16]}.parquet", 3, 7, sha256)
    assert archive.read(entry.file) == b"content"
    assert write_digested(archive, "shards", 7, b"content", 3) == entry
    assert write_digested(archive, "shards", 7, b"other", 3).file != entry.file
    assert file_number(entry.file) == 7
    assert is_named_after(entry.file, b"content")
    assert not is_named_after(entry.file, b"content!")


def test_numbers_beyond_six_digits_are_names_too(tmp_path: Path) -> None:
    entry = write_digested(Folder(str(tmp_path)), "lists", 12_345_678, b"x", 1)
    check_name(entry.file, "lists")
    assert file_number(entry.file) == 12_345_678


def test_what_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_digested(Folder(str(tmp_path)), "shards", 0, b"x", 1)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*make room"):
        write(Folder(str(tmp_path)), "x", b"x")
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_written_is_read(tmp_path: Path) -> None:
    archive = Folder(str(tmp_path))
    entry = write_digested(archive, "lists", 0, b"content", 1)
    assert read_digested(archive, entry.file, entry.sha256) == b"content"
    for content in (b"contenT", b"content\0", b"conten", b""):
        (tmp_path / entry.file).write_bytes(content)
        with pytest.raises(TsaeError, match=entry.file) as caught:
            read_digested(archive, entry.file, entry.sha256)
        assert "\n" not in str(caught.value)
    (tmp_path / entry.file).unlink()
    with pytest.raises(TsaeError, match=f"{entry.file}: cannot be read"):
        read_digested(archive, entry.file, entry.sha256)


HEX = "0123456789abcdef"


@pytest.mark.parametrize("folder", ["lists", "shards", "failures", "provenance"])
def test_names_of_our_files(folder: str) -> None:
    name = f"{folder}/000000-{HEX}.parquet"
    check_name(name, folder)
    assert is_leftover(name)
    for other in {"lists", "shards", "failures", "provenance"} - {folder}:
        with pytest.raises(ValueError, match="is named"):
            check_name(name, other)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "shards",
        "shards/",
        "shards/000000.parquet",
        f"shards/00000-{HEX}.parquet",
        f"shards/000000-{HEX}",
        f"shards/000000-{HEX.upper()}.parquet",
        f"shards/000000-{HEX}0.parquet",
        f"shards/000000-{HEX}.parquet/x",
        f"shards/../shards/000000-{HEX}.parquet",
        f"/shards/000000-{HEX}.parquet",
        f"x/shards/000000-{HEX}.parquet",
        f"shards\\000000-{HEX}.parquet",
        f"shards/000000-{HEX}.parquet\n",
        f"shards/٠٠٠٠٠٠-{HEX}.parquet",
        f"models/000000-{HEX}.parquet",
    ],
)
def test_names_of_no_file_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match="is named"):
        check_name(name, "shards")
    assert not is_leftover(name)


@pytest.mark.parametrize(
    "name",
    [
        "job/plan.json",
        f"job/{HEX}/base.json",
        f"job/{HEX}/listing.parquet",
        f"job/{HEX}/model.safetensors",
        f"job/{HEX}/done/000000.json",
        f"model-{HEX}.safetensors",
        ".tsae-1-2.tmp",
        "shards/.tsae-1-2.tmp",
    ],
)
def test_what_jobs_leave_is_known(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize(
    "name",
    [
        "README.txt",
        "manifest.json",
        "model.safetensors",
        "job/thesis.txt",
        f"job/{HEX}/thesis.txt",
        "job/x/listing.parquet",
        f"job/{HEX}/done/x.json",
        "notes/shards/x.parquet",
        "my.tmp",
        ".tsae-x.tmp",
        "model-mine.safetensors",
        "shards/x.parquet",
    ],
)
def test_what_is_somebody_elses_is_not_called_ours(name: str) -> None:
    assert not is_leftover(name)
