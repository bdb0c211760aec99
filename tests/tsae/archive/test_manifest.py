"""The manifest: its text comes back, nothing damaged gets through, and writing it is the commit."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import FORMAT_VERSION, FileEntry, Manifest, ShardEntry, commit, read_manifest, write, write_digested
from tsae.errors import FormatError, InputError
from tsae.paths import Folder

DIGEST = hashlib.sha256(b"").hexdigest()


def shard(number: int, first_key: str = "a", last_key: str = "b") -> ShardEntry:
    return ShardEntry(f"shards/{number:06d}-{DIGEST[:16]}.parquet", 3, 900, DIGEST, first_key, last_key, 120)


def build(*shards: ShardEntry, failures: tuple[FileEntry, ...] = (), **fields: Any) -> Manifest:
    settings: dict[str, Any] = {
        "model": "test-model",
        "model_sha256": DIGEST,
        "preprocessing": {"size_px": 32, "resample": "bilinear"},
        "created_by": "tsae test",
        "skipped": 2,
        "source_bytes": 12_345,
    }
    return Manifest(**settings | fields, shards=shards, failures=failures)


FAILURES = FileEntry(f"failures/000000-{DIGEST[:16]}.parquet", 1, 500, DIGEST)
MANIFEST = build(shard(0), shard(1, "c", "é日\n\U0001f6d1"), failures=(FAILURES,))


def reason_of(text: str | bytes) -> str:
    with pytest.raises(FormatError) as caught:
        Manifest.from_json(text, "some/manifest.json")
    message = str(caught.value)
    assert message.startswith("some/manifest.json: ")
    assert "\n" not in message
    return message


def edited(**fields: Any) -> str:
    return json.dumps(json.loads(MANIFEST.to_json()) | fields)


# The text


def test_round_trip() -> None:
    for manifest in (MANIFEST, build(), build(model="Größe", preprocessing={})):
        assert Manifest.from_json(manifest.to_json(), "test") == manifest
        assert Manifest.from_json(manifest.to_json().encode(), "test") == manifest


@given(st.lists(st.text(), min_size=2, max_size=8, unique=True), st.text(), st.integers(0, 2**60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_keys_and_names_come_back(keys: list[str], name: str, number: int) -> None:
    keys = sorted(keys)
    shards = [shard(index, *pair) for index, pair in enumerate(zip(keys[::2], keys[1::2], strict=False))]
    manifest = build(*shards, created_by=name, source_bytes=number)
    assert Manifest.from_json(manifest.to_json().encode(), "test") == manifest


def test_the_text_names_format_and_version() -> None:
    fields = json.loads(MANIFEST.to_json())
    assert (fields["format"], fields["format_version"]) == ("tsae", FORMAT_VERSION)
    assert MANIFEST.images == 6
    assert MANIFEST.format_version == FORMAT_VERSION


def test_a_manifest_from_the_future_is_refused() -> None:
    message = reason_of(edited(format_version=FORMAT_VERSION + 1, something="new"))
    assert f"archive format {FORMAT_VERSION + 1}" in message
    assert "update tsae" in message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"tsae"', "{}", '{"format": "other", "format_version": 1}', b"\xff\xfe", "[" * 100_000]
)
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    reason_of(text)


def test_a_manifest_cut_short_anywhere_is_refused() -> None:
    text = MANIFEST.to_json()
    for length in range(len(text) - 1):
        reason_of(text[:length])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Manifest)])
def test_a_manifest_without_a_field_or_with_nonsense_in_it_is_refused(field: str) -> None:
    fields = json.loads(MANIFEST.to_json())
    for nonsense in (None, 1.5, [1], {"x": 1} if field != "preprocessing" else "x"):
        reason_of(json.dumps(fields | {field: nonsense}))
    del fields[field]
    reason_of(json.dumps(fields))


def test_an_unknown_field_is_refused() -> None:
    reason_of(edited(surprise=1))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ShardEntry)])
def test_an_entry_without_a_field_or_with_nonsense_in_it_is_refused(field: str) -> None:
    entry = dataclasses.asdict(MANIFEST.shards[0])
    for nonsense in (None, 1.5, [1], True):
        reason_of(edited(shards=[entry | {field: nonsense}]))
    del entry[field]
    reason_of(edited(shards=[entry]))


@pytest.mark.parametrize(
    "name",
    [
        "../outside.parquet",
        "/etc/passwd",
        "shards/../../x.parquet",
        "manifest.json",
        "shards/x.parquet",
        "s3://bucket/x",
        f"shards/000000-{DIGEST[:16]}.parquet\n",
    ],
)
def test_files_outside_of_the_archive_cannot_be_named(name: str) -> None:
    assert "file" in reason_of(edited(shards=[dataclasses.asdict(shard(0)) | {"file": name}]))


@pytest.mark.parametrize(
    "shards", [[shard(0, "b", "a")], [shard(0, "a", "c"), shard(1, "b", "d")], [shard(0, "c", "d"), shard(1)]]
)
def test_keys_that_do_not_ascend_are_refused(shards: list[ShardEntry]) -> None:
    assert "ascend" in reason_of(edited(shards=[dataclasses.asdict(entry) for entry in shards]))


@pytest.mark.parametrize("field", ["rows", "bytes"])
def test_negative_numbers_are_refused(field: str) -> None:
    reason_of(edited(shards=[dataclasses.asdict(shard(0)) | {field: -1}]))


# Files


def test_a_digested_name_follows_from_the_content(tmp_path: Path) -> None:
    archive = Folder(str(tmp_path))
    name, sha256 = write_digested(archive, "shards", 7, b"content")
    assert sha256 == hashlib.sha256(b"content").hexdigest()
    assert name == f"shards/000007-{sha256[:16]}.parquet"
    assert archive.read(name) == b"content"
    assert write_digested(archive, "shards", 7, b"content") == (name, sha256)
    assert write_digested(archive, "shards", 7, b"other")[0] != name


def test_what_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_digested(Folder(str(tmp_path)), "shards", 0, b"x")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tsae.paths.replace_file", full)
    with pytest.raises(InputError, match=r"No space left on device.*make room"):
        write(Folder(str(tmp_path)), "x", b"x")


def test_reading_what_is_no_archive(tmp_path: Path) -> None:
    archive = Folder(str(tmp_path))
    with pytest.raises(FormatError, match="not an archive"):
        read_manifest(Folder(str(tmp_path / "missing")))
    with pytest.raises(FormatError, match="name another folder"):
        read_manifest(archive)
    (tmp_path / "job").mkdir()
    with pytest.raises(FormatError, match="--resume"):
        read_manifest(archive)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="not an archive"):
        read_manifest(Folder(str(tmp_path / "file")))
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(FormatError, match="cannot be read"):
        read_manifest(archive)


# The commit


def written(archive: Folder, *contents: bytes) -> tuple[ShardEntry, ...]:
    names = [write_digested(archive, "shards", number, content) for number, content in enumerate(contents)]
    return tuple(ShardEntry(name, 1, 1, sha256, f"{number}a", f"{number}b", 1) for number, (name, sha256) in enumerate(names))


@pytest.mark.parametrize("remote", [False, True])
def test_commit_leaves_what_it_names_and_what_is_not_its_own(tmp_path: Path, remote: bool) -> None:
    archive = Folder(f"memory://{tmp_path.name}" if remote else str(tmp_path / "archive"))
    shards = written(archive, b"one", b"two")
    name, sha256 = write_digested(archive, "failures", 0, b"failed")
    failures = (FileEntry(name, 1, 6, sha256),)
    write_digested(archive, "shards", 0, b"of an older job")
    write_digested(archive, "failures", 3, b"of an older job")
    for own in (
        "job/model.safetensors",
        "job/listing.parquet",
        "job/done/000000.json",
        "shards/.tsae-1-2.tmp",
        ".tsae-3-4.tmp",
    ):
        archive.write(own, b"left over")
    foreign = {"README.txt", "notes/shards/x.parquet", "my.tmp", "shards/x.parquet"}
    for name_of_another in foreign:
        archive.write(name_of_another, b"a person's")
    manifest = build(*shards, failures=failures)
    commit(archive, manifest, b"model")
    named = {"manifest.json", "model.safetensors", name, *(entry.file for entry in shards)}
    assert set(archive.sizes_bytes()) == named | foreign
    assert not archive.exists("job")
    assert archive.read("model.safetensors") == b"model"
    assert read_manifest(archive) == manifest


def test_a_second_commit_replaces_the_first(tmp_path: Path) -> None:
    archive = Folder(str(tmp_path))
    commit(archive, build(*written(archive, b"one", b"two")), b"model")
    shards = written(archive, b"one", b"three")
    commit(archive, build(*shards), b"other model")
    assert archive.read("model.safetensors") == b"other model"
    assert sorted(os.listdir(tmp_path / "shards")) == sorted(entry.file.removeprefix("shards/") for entry in shards)


def test_nothing_is_removed_before_the_manifest_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Folder(str(tmp_path))
    first = build(*written(archive, b"one"))
    commit(archive, first, b"model")
    shards = written(archive, b"two")
    replace = os.replace

    def refuse_manifest(source: str, target: str) -> None:
        if str(target).endswith("manifest.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_manifest)
    with pytest.raises(InputError, match="No space left"):
        commit(archive, build(*shards), b"model")
    assert read_manifest(archive) == first
    assert archive.read(first.shards[0].file) == b"one"


def test_leftovers_that_cannot_be_removed_are_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Folder(str(tmp_path))
    manifest = build(*written(archive, b"one"))
    write_digested(archive, "shards", 0, b"of an older job")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Folder, "remove", refuse)
    with pytest.raises(InputError, match="complete, but"):
        commit(archive, manifest, b"model")
    assert read_manifest(archive) == manifest
