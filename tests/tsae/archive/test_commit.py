"""The commit: lists of a new state, one step that makes it the archive's, and nothing removed that is not ours."""

import dataclasses
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsae.archive import (
    ArchiveFiles,
    Counts,
    Failure,
    Manifest,
    Origin,
    Records,
    Settings,
    ShardEntry,
    clean_up,
    commit,
    count,
    digest,
    failures_to_bytes,
    model_place,
    named_files,
    provenance_from_bytes,
    read_manifest,
    write_digested,
    write_failures,
    write_lists,
    write_shard,
)
from tsae.archive.lists import read_list
from tsae.errors import InputError, TsaeError
from tsae.paths import Folder

Make = Callable[..., Records]
Write = Callable[..., Manifest]

COMMIT = importlib.import_module("tsae.archive.commit")  # in the package, the name is the function's
MODEL_SHA256 = digest(b"model")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "archive"))


def build(**fields: Any) -> Manifest:
    usual: dict[str, Any] = {
        "requires": (),
        "model": "test",
        "model_file": "model.safetensors",
        "model_bytes": 5,
        "model_sha256": MODEL_SHA256,
        "latent_shape": (8, 8, 8),
        "preprocessing": {},
        "settings": Settings("/in", "/in", True, None),
        "created_by": "tsae test",
        "counts": Counts(0, 0, 0, 0, 0, 0, 0, 0, None, None),
        "lists": (),
        "failures": (),
    }
    return Manifest(**usual | fields)


# Shards


def test_a_shard_is_described_by_its_entry(folder: Folder, make_records: Make) -> None:
    records = make_records(10)
    origins = {key: Origin.of(key.encode(), "1") for key in records.keys[:7]}
    entry = write_shard(folder, 3, records, {**origins, "somebody else's": Origin(1, "", bytes(16))}, MODEL_SHA256)
    data = folder.read(entry.file)
    assert (entry.bytes, entry.sha256, entry.rows) == (len(data), digest(data), 10)
    assert (entry.first_key, entry.last_key) == (records.keys[0], records.keys[-1])
    assert (entry.stream_bytes, entry.lossless, entry.lossless_bytes) == (400, 2, 60)
    assert entry.psnr_min_db == records.psnrs_db.min()
    assert entry.psnr_sum_db == pytest.approx(records.psnrs_db.sum(dtype=float))
    assert data[entry.data_bytes :].startswith(entry.footer)
    assert entry.source_bytes == sum(origin.size_bytes for origin in origins.values())
    assert provenance_from_bytes(folder.read(str(entry.provenance)), "test") == origins
    before = folder.sizes_bytes()
    assert write_shard(folder, 3, records, origins, MODEL_SHA256) == entry
    assert folder.sizes_bytes() == before


def test_a_shard_without_origins_or_psnr(folder: Folder, make_records: Make) -> None:
    records = make_records(4)
    records.psnrs_db[2] = np.nan
    entry = write_shard(folder, 0, records, {}, MODEL_SHA256)
    assert (entry.provenance, entry.source_bytes, entry.psnr_min_db, entry.psnr_sum_db) == (None, 0, None, None)
    assert list(folder.sizes_bytes()) == [entry.file]


# Lists


@pytest.fixture
def small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(COMMIT, "LIST_SHARDS", 4)


@pytest.fixture
def entries(folder: Folder, make_records: Make) -> list[ShardEntry]:
    """Of 14 shards of three records each."""
    return [write_shard(folder, number, make_records(3, f"{number:02d}/"), {}, MODEL_SHA256) for number in range(14)]


def state(folder: Folder, lists: tuple[Any, ...]) -> ArchiveFiles:
    """A state that is opened without being committed."""
    return ArchiveFiles(folder.path, build(lists=lists, counts=count(folder, lists, 0, 0)).to_json())


def test_lists_are_filled_in_order(folder: Folder, entries: list[ShardEntry], small_lists: None) -> None:
    assert write_lists(folder, None, {}, []) == ()
    for shards in (1, 4, 5, 9):
        lists = write_lists(folder, None, {}, entries[:shards])
        assert [entry.rows for entry in lists] == [4] * (shards // 4) + [shards % 4] * bool(shards % 4)
        assert [entry for one in lists for entry in read_list(folder.read(one.file), "test")] == entries[:shards]
        assert [entry.images for entry in lists] == [3 * entry.rows for entry in lists]
        assert next((entry.first_key, entry.last_key) for entry in lists) == (
            "00/00000.png",
            f"{min(shards, 4) - 1:02d}/00002.png",
        )
        assert lists == write_lists(folder, None, {}, entries[:shards])


def test_more_shards_than_a_list_takes_make_another(folder: Folder, entries: list[ShardEntry]) -> None:
    many = [dataclasses.replace(entries[0], first_key=f"{i:05d}", last_key=f"{i:05d}z") for i in range(1_025)]
    lists = write_lists(folder, None, {}, many)
    assert [entry.rows for entry in lists] == [1_024, 1]
    assert count(folder, lists, 0, 0).shards == 1_025


def test_added_shards_extend_the_last_list(folder: Folder, entries: list[ShardEntry], small_lists: None) -> None:
    before = write_lists(folder, None, {}, entries[:6])
    after = write_lists(folder, state(folder, before), {}, entries[6:13])
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert [entry.rows for entry in after] == [4, 4, 4, 1]
    assert list(state(folder, after).entries()) == entries[:13]
    assert list(state(folder, before).entries()) == entries[:6]


def test_full_lists_are_kept_when_shards_are_added(folder: Folder, entries: list[ShardEntry], small_lists: None) -> None:
    before = write_lists(folder, None, {}, entries[:8])
    after = write_lists(folder, state(folder, before), {}, entries[8:9])
    assert after[:2] == before
    assert [entry.rows for entry in after] == [4, 4, 1]


def test_replaced_shards_keep_their_places(
    folder: Folder, entries: list[ShardEntry], make_records: Make, small_lists: None
) -> None:
    before = write_lists(folder, None, {}, entries[:10])
    other = {
        number: write_shard(folder, number, make_records(3, f"{number:02d}/", seed=1), {}, MODEL_SHA256) for number in (5, 7)
    }
    after = write_lists(folder, state(folder, before), other, [])
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1].rows == 4
    assert list(state(folder, after).entries()) == [other.get(number, entry) for number, entry in enumerate(entries[:10])]
    both = write_lists(folder, state(folder, before), {0: entries[0], 9: entries[13]}, entries[10:12])
    assert list(state(folder, both).entries()) == [*entries[:9], entries[13], *entries[10:12]]


def test_nothing_new_writes_nothing(folder: Folder, entries: list[ShardEntry], small_lists: None) -> None:
    before = write_lists(folder, None, {}, entries[:6])
    files = folder.sizes_bytes()
    assert write_lists(folder, state(folder, before), {}, []) == before
    assert folder.sizes_bytes() == files


def test_a_damaged_list_is_not_built_upon(folder: Folder, entries: list[ShardEntry], small_lists: None) -> None:
    before = write_lists(folder, None, {}, entries[:6])
    base = state(folder, before)
    folder.write(before[1].file, b"damaged")
    with pytest.raises(TsaeError, match=before[1].file):
        write_lists(folder, base, {}, entries[6:7])


# Counts and failures


def test_counts_are_sums_over_the_shards(folder: Folder, make_records: Make) -> None:
    one, two = make_records(5, "a/"), make_records(9, "b/", seed=1)
    origins = {"a/00000.png": Origin(1_000, "", bytes(16)), "b/00001.png": Origin(50, "", bytes(16))}
    lists = write_lists(folder, None, {}, [write_shard(folder, n, r, origins, MODEL_SHA256) for n, r in enumerate((one, two))])
    found = count(folder, lists, 7, 8)
    psnrs_db = np.concatenate([one.psnrs_db, two.psnrs_db]).astype(float)
    assert found == Counts(14, 2, 7, 8, 1_050, 14 * 40, 3, 90, pytest.approx(psnrs_db.mean()), psnrs_db.min())
    two.psnrs_db[4] = np.nan
    lists = write_lists(folder, None, {}, [write_shard(folder, n, r, {}, MODEL_SHA256) for n, r in enumerate((one, two))])
    assert (count(folder, lists, 0, 0).psnr_mean_db, count(folder, lists, 0, 0).psnr_min_db) == (None, None)
    assert count(folder, (), 0, 0) == Counts(0, 0, 0, 0, 0, 0, 0, 0, None, None)


def test_parts_of_a_failures_table_are_joined(folder: Folder) -> None:
    failures = [Failure(name, "read", "ImageError", "x") for name in ("b", "a", "c")]
    parts = [write_digested(folder, "failures", n, failures_to_bytes([f]), 1) for n, f in enumerate(failures)]
    assert write_failures(folder, []) == ()
    assert write_failures(folder, parts[:1]) == (parts[0],)
    (joined,) = write_failures(folder, parts)
    assert joined.rows == 3
    assert folder.read(joined.file) == failures_to_bytes(failures)
    folder.write(parts[1].file, b"damaged")
    with pytest.raises(TsaeError, match=parts[1].file):
        write_failures(folder, parts)


# The model's place


def test_a_model_disturbs_no_other() -> None:
    other = digest(b"other")
    assert model_place(MODEL_SHA256, None) == "model.safetensors"
    assert model_place(MODEL_SHA256, build()) == "model.safetensors"
    assert model_place(other, build()) == f"model-{other[:16]}.safetensors"
    moved = build(model_file=f"model-{MODEL_SHA256[:16]}.safetensors")
    assert model_place(other, moved) == "model.safetensors"
    assert model_place(MODEL_SHA256, moved) == moved.model_file


# The commit


@pytest.mark.parametrize("remote", [False, True])
def test_a_commit_needs_the_state_it_started_from(tmp_path: Path, remote: bool) -> None:
    archive = Folder(f"memory://commit-{tmp_path.name}" if remote else str(tmp_path / "archive"))
    first, second, third = (build(created_by=name) for name in ("one", "two", "three"))
    with pytest.raises(InputError, match="changed it meanwhile; run this one again"):
        commit(archive, first, b"something")
    assert not archive.exists("manifest.json")
    commit(archive, first, None)
    with pytest.raises(InputError, match="changed it meanwhile; run this one again"):
        commit(archive, second, None)
    commit(archive, second, first.to_json())
    with pytest.raises(InputError, match="changed it meanwhile; run this one again"):
        commit(archive, third, first.to_json())
    assert read_manifest(archive) == second


def test_a_commit_again_changes_nothing(folder: Folder) -> None:
    first, second = build(created_by="one"), build(created_by="two")
    for _ in range(2):
        commit(folder, first, None)
    for _ in range(3):
        commit(folder, second, first.to_json())
    assert read_manifest(folder) == second
    assert list(folder.sizes_bytes()) == ["manifest.json"]


def test_a_commit_that_cannot_be_written_leaves_the_old_state(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(created_by="one")
    commit(folder, first, None)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"No space left on device\); finish it with --resume"):
        commit(folder, build(created_by="two"), first.to_json())
    assert read_manifest(folder) == first
    assert list(folder.sizes_bytes()) == ["manifest.json"]


# Cleaning up

HEX = "0123456789abcdef"
OURS = {
    "job/plan.json",
    f"job/{HEX}/model.safetensors",
    f"job/{HEX}/listing.parquet",
    f"job/{HEX}/base.json",
    f"job/{HEX}/done/000000.json",
    "shards/.tsae-1-2.tmp",
    ".tsae-3-4.tmp",
    f"shards/000000-{HEX}.parquet",
    f"lists/000000-{HEX}.parquet",
    f"failures/000003-{HEX}.parquet",
    f"provenance/000003-{HEX}.parquet",
    f"model-{HEX}.safetensors",
}
OTHERS = {"README.txt", "notes/shards/x.parquet", "my.tmp", "shards/x.parquet", "job/thesis.txt", "model-mine.safetensors"}


@pytest.mark.parametrize("remote", [False, True])
def test_cleaning_up_leaves_what_is_named_and_what_is_not_ours(
    tmp_path: Path, remote: bool, make_records: Make, write_state: Write
) -> None:
    archive = Folder(f"memory://clean-{tmp_path.name}" if remote else str(tmp_path / "archive"))
    manifest = write_state(archive, [make_records(3), make_records(3, "z/")], failures=[Failure("x", "read", "E", "m")])
    named = set(archive.sizes_bytes())
    assert named_files(archive, manifest) == named
    assert len(named) == 2 + 1 + 1 + 2 + 2
    for name in OURS | OTHERS:
        archive.write(name, b"left")
    clean_up(archive, manifest, None)
    assert set(archive.sizes_bytes()) == named | OTHERS
    clean_up(archive, manifest, manifest)
    assert set(archive.sizes_bytes()) == named | OTHERS


def test_the_replaced_model_goes(folder: Folder) -> None:
    other = digest(b"other")
    before, after = build(), build(model_sha256=other, model_file=f"model-{other[:16]}.safetensors")
    for manifest in (before, after):
        folder.write(manifest.model_file, b"")
    commit(folder, after, None)
    clean_up(folder, after, None)
    assert set(folder.sizes_bytes()) == {"manifest.json", "model.safetensors", after.model_file}
    clean_up(folder, after, before)
    assert set(folder.sizes_bytes()) == {"manifest.json", after.model_file}


def test_what_replaced_shards_held_is_removed(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(3), make_records(3, "z/")])
    before = read_manifest(folder)
    old = named_files(folder, before)
    after = write_state(folder, [], {1: make_records(3, "z/", seed=1)})
    clean_up(folder, after, before)
    new = named_files(folder, after)
    assert set(folder.sizes_bytes()) == new
    assert {name.partition("-")[0] for name in old - new} == {"shards/000001", "lists/000000"}
    assert len(new) == len(old)


def test_leftovers_that_cannot_be_removed_are_an_input_error(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = build()
    commit(folder, manifest, None)
    folder.write("job/plan.json", b"")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Folder, "remove", refuse)
    with pytest.raises(InputError, match="complete, but leftovers cannot be removed"):
        clean_up(folder, manifest, None)
    assert read_manifest(folder) == manifest


def test_with_a_damaged_list_nothing_is_removed(folder: Folder, make_records: Make, write_state: Write) -> None:
    """What it names could not be told from leftovers."""
    manifest = write_state(folder, [make_records(3)])
    folder.write(manifest.lists[0].file, b"damaged")
    before = {name for name in folder.sizes_bytes() if not name.startswith("job/")}
    with pytest.raises(TsaeError, match=manifest.lists[0].file):
        clean_up(folder, manifest, None)
    assert set(folder.sizes_bytes()) == before
