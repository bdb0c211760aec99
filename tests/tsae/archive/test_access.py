"""Finding records in a committed archive, and noticing when its files are not those that were committed."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tsae.archive import (
    ArchiveFiles,
    Failure,
    FileEntry,
    Manifest,
    Records,
    ShardEntry,
    commit,
    failures_to_bytes,
    shard_to_bytes,
    write_digested,
)
from tsae.archive.access import matches
from tsae.errors import CorruptDataError, FormatError
from tsae.paths import Folder

Make = Callable[..., Records]

MODEL = b"not a model, but its digest is checked all the same"
FAILURES = [Failure("z.png", "read", "ImageError", "broken"), Failure("b.png", "decode", "ImageError", "cut short")]


def write_archive(folder: Folder, shards: list[Records], model_sha256: str = hashlib.sha256(MODEL).hexdigest()) -> None:
    entries = []
    for number, records in enumerate(shards):
        data = shard_to_bytes(records, {"model_sha256": model_sha256})
        name, sha256 = write_digested(folder, "shards", number, data)
        stream_bytes = sum(map(len, records.streams))
        entries.append(ShardEntry(name, len(records), len(data), sha256, records.keys[0], records.keys[-1], stream_bytes))
    failures = []
    for number, failure in enumerate(FAILURES):
        data = failures_to_bytes([failure])
        name, sha256 = write_digested(folder, "failures", number, data)
        failures.append(FileEntry(name, 1, len(data), sha256))
    manifest = Manifest("test", hashlib.sha256(MODEL).hexdigest(), {}, "tsae test", 0, 99, tuple(entries), tuple(failures))
    commit(folder, manifest, MODEL)


@pytest.fixture(scope="module")
def shards(make_records: Make) -> list[Records]:
    """Three shards, the second of several row groups; between all of them there is room for keys that are not there."""
    return [make_records(5, "b/"), make_records(1_200, "d/", stream_bytes=512), make_records(3, "f/")]


@pytest.fixture
def path(tmp_path: Path, shards: list[Records]) -> Path:
    """An archive of them, to be damaged."""
    write_archive(Folder(str(tmp_path / "archive")), shards)
    return tmp_path / "archive"


def shard_file(path: Path, number: int) -> Path:
    (file,) = (path / "shards").glob(f"{number:06d}-*")
    return file


# Finding


def test_each_key_gives_its_own_record(path: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(path))
    assert archive.shard(1).row_groups > 2
    for records in (shards[2], shards[0], shards[1]):
        for row in sorted({0, 1, len(records) // 2, len(records) - 1}):
            found = archive.get(records.keys[row])
            assert len(found) == 1
            assert found.to_table().equals(records.take([row]).to_table())


@pytest.mark.parametrize(
    "key", ["", "a", "b", "b/00004.pnh", "c/00000.png", "d/00600.pn", "d/01200.png", "f/00003.png", "zzz", "é"]
)
def test_a_key_that_is_not_there_is_a_key_error(path: Path, key: str) -> None:
    with pytest.raises(KeyError) as caught:
        ArchiveFiles(str(path)).get(key)
    assert caught.value.args == (key,)


def test_keys_and_rows_come_in_order(path: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(path))
    keys = [key for records in shards for key in records.keys]
    assert list(archive.keys()) == keys
    rows = list(archive.rows(["key", "label", "width"]))
    assert [row["key"] for row in rows] == keys
    assert [row["label"] for row in rows] == [label for records in shards for label in records.labels]
    assert set(rows[0]) == {"key", "label", "width"}


@pytest.mark.parametrize(
    ("glob", "count"),
    [
        ("*", 1_208),
        ("b/*", 5),
        ("*/00001.png", 3),
        ("[bf]/0000[01].png", 4),
        ("d/0?000.png", 2),
        ("B/*", 0),
        ("b/00001.png", 1),
    ],
)
def test_globs(path: Path, glob: str, count: int) -> None:
    archive = ArchiveFiles(str(path))
    keys = list(archive.keys(glob))
    assert len(keys) == count
    assert [row["key"] for row in archive.rows(["key"], glob)] == keys
    assert all(matches(key, glob) for key in keys)


def test_a_star_matches_slashes_and_none_matches_all() -> None:
    assert matches("a/b/c.png", "a*.png")
    assert matches("anything\nelse", None)
    assert not matches("a.png", "*.jpg")


def test_failures_are_joined_and_sorted(path: Path) -> None:
    assert ArchiveFiles(str(path)).failures() == sorted(FAILURES, key=lambda failure: failure.path)


def test_an_archive_in_memory_reads_the_same(shards: list[Records]) -> None:
    write_archive(Folder("memory://access/archive"), shards)
    archive = ArchiveFiles("memory://access/archive")
    assert archive.get("d/00700.png").streams == [shards[1].streams[700]]
    assert archive.model_file() == MODEL
    assert len(archive.failures()) == 2
    archive.close()


def test_an_archive_without_images_has_no_keys(tmp_path: Path) -> None:
    write_archive(Folder(str(tmp_path)), [])
    archive = ArchiveFiles(str(tmp_path))
    assert list(archive.keys()) == []
    assert list(archive.rows(["key"])) == []
    with pytest.raises(KeyError):
        archive.get("a")
    archive.close()


def test_the_last_shard_stays_open_until_close(path: Path) -> None:
    archive = ArchiveFiles(str(path))
    first = archive.shard(0)
    assert archive.shard(0) is first
    assert archive.shard(1) is not first
    archive.close()
    archive.close()
    assert archive.get("b/00000.png").keys == ["b/00000.png"]


# Noticing


def test_the_model_must_be_the_archives_own(path: Path) -> None:
    archive = ArchiveFiles(str(path))
    assert archive.model_file() == MODEL
    (path / "model.safetensors").write_bytes(MODEL + b"!")
    with pytest.raises(FormatError, match=r"model\.safetensors: SHA-256"):
        archive.model_file()
    (path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors: cannot be read"):
        archive.model_file()


def test_a_missing_shard_is_named_and_the_others_are_read(path: Path) -> None:
    missing = shard_file(path, 1)
    missing.unlink()
    archive = ArchiveFiles(str(path))
    assert archive.get("b/00001.png")
    with pytest.raises(CorruptDataError, match=missing.name):
        archive.get("d/00001.png")
    assert archive.get("f/00001.png")


def test_swapped_shards_are_noticed(tmp_path: Path, make_records: Make) -> None:
    """Of as many rows and of the same model: only their keys tell them apart."""
    write_archive(Folder(str(tmp_path)), [make_records(4, "a/"), make_records(4, "b/")])
    one, two = shard_file(tmp_path, 0), shard_file(tmp_path, 1)
    shutil.move(one, tmp_path / "x")
    shutil.move(two, one)
    shutil.move(tmp_path / "x", two)
    archive = ArchiveFiles(str(tmp_path))
    for key in ("a/00001.png", "b/00001.png"):
        with pytest.raises(CorruptDataError, match="not the shard that the manifest names"):
            archive.get(key)


def test_a_shard_of_another_model_is_noticed(tmp_path: Path, make_records: Make) -> None:
    write_archive(Folder(str(tmp_path)), [make_records(4)], model_sha256="0" * 64)
    with pytest.raises(CorruptDataError, match="not the shard that the manifest names"):
        ArchiveFiles(str(tmp_path)).get("sign/00001.png")


def test_a_shard_of_other_rows_is_noticed(tmp_path: Path, make_records: Make) -> None:
    write_archive(Folder(str(tmp_path)), [make_records(4)])
    records = make_records(4).take([0, 1, 3])
    metadata = {"model_sha256": hashlib.sha256(MODEL).hexdigest()}
    shard_file(tmp_path, 0).write_bytes(shard_to_bytes(records, metadata))
    with pytest.raises(CorruptDataError, match="not the shard that the manifest names"):
        ArchiveFiles(str(tmp_path)).get("sign/00001.png")


def test_a_record_that_does_not_match_its_checksum_is_refused(
    tmp_path: Path, make_records: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages have checksums too; this is damage from before the shard was written."""
    checksums = Records.checksums
    with monkeypatch.context() as patch:
        patch.setattr(Records, "checksums", lambda records: checksums(records) ^ (1 if len(records) == 4 else 0))
        write_archive(Folder(str(tmp_path)), [make_records(4)])
    with pytest.raises(CorruptDataError, match="checksum"):
        ArchiveFiles(str(tmp_path)).get("sign/00001.png")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\0" * 5_000])
def test_a_replaced_shard_is_refused(path: Path, content: bytes) -> None:
    shard_file(path, 0).write_bytes(content)
    with pytest.raises(CorruptDataError, match=shard_file(path, 0).name):
        ArchiveFiles(str(path)).get("b/00001.png")


def test_a_damaged_failures_table_is_refused(path: Path) -> None:
    file = sorted((path / "failures").iterdir())[0]
    data = file.read_bytes()
    for damaged in (data[:-1], bytes([data[0] ^ 1]) + data[1:], data[:-30] + b"\xff" * 30):
        file.write_bytes(damaged)
        with pytest.raises(FormatError, match=file.name):
            ArchiveFiles(str(path)).failures()
    file.unlink()
    with pytest.raises(FormatError, match=file.name):
        ArchiveFiles(str(path)).failures()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an archive"):
        ArchiveFiles(str(tmp_path))
