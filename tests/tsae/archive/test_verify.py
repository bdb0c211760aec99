"""Verification: each kind of damage, what is said of it, and which records are lost by it."""

from __future__ import annotations

import dataclasses
import importlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tsae.archive import (
    MANIFEST_FILE,
    PLAN_FILE,
    ArchiveFiles,
    Failure,
    FileReport,
    Manifest,
    Records,
    has_lost_manifest,
    map_in_threads,
    verify,
    verify_without_manifest,
)
from tsae.archive.parquet import split_file
from tsae.errors import CorruptDataError
from tsae.paths import Folder

BIG, SMALL = 300, 20
"""Records of the two shards; those of the first are in three row groups."""


@pytest.fixture
def folder(tmp_path: Path, make_records: Callable[..., Records], write_state: Callable[..., Manifest]) -> Folder:
    """An archive of two shards and a failure."""
    folder = Folder(str(tmp_path / "archive"))
    shards = [make_records(BIG, "a/", stream_bytes=2000), make_records(SMALL, "b/")]
    write_state(folder, shards, failures=[Failure("c.png", "read", "ImageError", "broken")])
    return folder


def named(folder: Folder, kind: str) -> list[str]:
    return sorted(name for name in folder.sizes_bytes() if name.startswith(kind))


def flip(folder: Folder, name: str, at: int, bit: int = 0) -> None:
    data = bytearray(folder.read(name))
    data[at] ^= 1 << bit
    folder.write(name, bytes(data))


def check(folder: Folder, decode: Callable[[Records], object] | None = None, workers: int = 2) -> FileReport:
    """The reports as one; of damages and notes nothing is left out."""
    reports = list(verify(ArchiveFiles(folder.path), workers, decode))
    return FileReport(
        "",
        sum(report.bytes for report in reports),
        sum(report.records for report in reports),
        tuple(damage for report in reports for damage in report.damages),
        tuple(note for report in reports for note in report.notes),
    )


def place_of(folder: Folder, shard: str, row_group: int, column: str) -> tuple[int, int]:
    """Where in a shard the pages of a column of a row group are."""
    files = ArchiveFiles(folder.path)
    number = next(i for i, entry in enumerate(files.entries()) if entry.file == shard)
    group = files.shard(number)._table.row_groups[row_group]
    return next((chunk.start, chunk.end) for chunk in group.chunks if chunk.column.name == column)


def test_an_intact_archive_has_no_damage_and_each_file_is_read(folder: Folder) -> None:
    reports = list(verify(ArchiveFiles(folder.path), 2))
    assert not [report for report in reports if report.damages or report.notes]
    assert {report.file: report.bytes for report in reports if report.file} == folder.sizes_bytes()
    assert sum(report.records for report in reports) == BIG + SMALL


@pytest.mark.parametrize("kind", ["manifest", "model", "lists", "shards", "failures", "provenance"])
def test_any_flipped_byte_is_reported_with_its_file(folder: Folder, kind: str) -> None:
    rng = np.random.default_rng(7)
    for name in named(folder, kind):
        data = folder.read(name)
        ends = [0, 1, 2, 3, len(data) - 1, len(data) - 4, len(data) - 5, len(data) - 8]
        for at in [*ends, *rng.integers(len(data), size=40)]:
            flip(folder, name, int(at), int(rng.integers(8)))
            if kind == "manifest":
                with pytest.raises(Exception, match=r"manifest\.json: ") as error:
                    ArchiveFiles(folder.path)
                assert type(error.value).__name__ in ("CorruptDataError", "FormatError")
            else:
                assert {damage.file for damage in check(folder).damages} == {name}, at
            folder.write(name, data)


@pytest.mark.parametrize("column", ["stream", "crc32"])
def test_a_flip_in_a_record_loses_that_record(folder: Folder, column: str) -> None:
    shard = named(folder, "shards")[0]
    start, end = place_of(folder, shard, 1, column)
    flip(folder, shard, (start + end) // 2)
    report = check(folder)
    whole, record = report.damages
    assert (whole.file, whole.key, whole.message) == (
        shard,
        None,
        "does not match its SHA-256: 299 of 300 records are intact",
    )
    assert record.file == shard
    assert record.key.startswith("a/")
    assert record.message == "the record is lost: its checksum does not match"
    assert report.records == BIG + SMALL - 1


def test_a_flip_in_a_lossless_image_loses_that_record(folder: Folder) -> None:
    shard = named(folder, "shards")[0]
    flip(folder, shard, place_of(folder, shard, 0, "lossless")[1] - 1)
    last = max(int(key[2:7]) for key in ArchiveFiles(folder.path).shard(0).keys(0) if int(key[2:7]) % 5 == 3)
    assert [damage.key for damage in check(folder).damages] == [None, f"a/{last:05d}.png"]


def test_a_flip_in_another_page_loses_the_row_group_by_its_keys(folder: Folder) -> None:
    shard = named(folder, "shards")[0]
    keys = ArchiveFiles(folder.path).shard(0).keys(1)
    flip(folder, shard, place_of(folder, shard, 1, "psnr_db")[1] - 1)
    report = check(folder)
    assert [damage.key for damage in report.damages] == [None, *keys]
    assert "psnr_db damaged" in report.damages[1].message
    assert report.records == BIG + SMALL - len(keys)


def test_a_flip_in_the_keys_loses_the_row_group_and_tells_its_range(folder: Folder) -> None:
    shard = named(folder, "shards")[0]
    keys = ArchiveFiles(folder.path).shard(0).keys(1)
    flip(folder, shard, place_of(folder, shard, 1, "key")[1] - 1)
    _, lost = check(folder).damages
    assert lost.key is None
    assert lost.message.startswith(f"{len(keys)} records, {keys[0]!r} to {keys[-1]!r}, are lost: ")


def test_a_damaged_footer_loses_nothing(folder: Folder) -> None:
    shard = named(folder, "shards")[0]
    start, footer = split_file(folder.read(shard))
    flip(folder, shard, start + len(footer) // 2)
    (damage,) = check(folder).damages
    assert damage.message == "does not match its SHA-256: 300 of 300 records are intact"


def test_a_shard_that_is_cut_short_keeps_the_records_before_the_cut(folder: Folder) -> None:
    shard = named(folder, "shards")[0]
    data, keys = folder.read(shard), ArchiveFiles(folder.path).shard(0).keys(0)
    end = place_of(folder, shard, 0, "crc32")[1]
    folder.write(shard, data[:end])
    report = check(folder)
    size = f"has {end:,} bytes instead of {len(data):,}"
    assert report.damages[0].message == f"{size}: {len(keys)} of 300 records are intact"
    assert report.records == len(keys) + SMALL


def test_a_shard_with_more_bytes_is_reported_and_loses_nothing(folder: Folder) -> None:
    shard = named(folder, "shards")[0]
    folder.write(shard, folder.read(shard) + b"\0")
    (damage,) = check(folder).damages
    assert "300 of 300 records are intact" in damage.message


@pytest.mark.parametrize("content", [None, b"", bytes(5000)])
def test_a_shard_without_anything_of_it_is_one_damage(folder: Folder, content: bytes | None) -> None:
    shard = named(folder, "shards")[0]
    folder.remove([shard])
    if content is not None:
        folder.write(shard, content)
    (damage,) = check(folder).damages
    assert damage.message.endswith(": all 300 records, 'a/00000.png' to 'a/00299.png', are lost")
    assert damage.message.startswith("is missing" if content is None else "has ")


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("model", "is missing; nothing can be decoded without it"),
        ("failures", "is missing; it tells what failed; no image is lost"),
        ("lists", "cannot be read (No such file or directory): its 320 records in 2 shards are not found without it"),
    ],
)
def test_a_missing_file_is_reported_with_what_it_means(folder: Folder, kind: str, meaning: str) -> None:
    (name,) = named(folder, kind)
    folder.remove([name])
    (damage,) = check(folder).damages
    assert (damage.file, damage.message) == (name, meaning)


def test_provenance_may_be_left_out_but_not_be_wrong(folder: Folder) -> None:
    first, second = named(folder, "provenance")
    folder.remove([first])
    report = check(folder)
    assert not report.damages
    assert report.notes == (
        "provenance is left out, all or in part: only a rerun needs it, and would compress its images again",
    )
    flip(folder, second, 30)
    (damage,) = check(folder).damages
    assert damage.file == second


def test_files_that_are_not_part_of_it_are_told(folder: Folder) -> None:
    folder.write("shards/000009-0123456789abcdef.parquet", b"left over")
    folder.write("notes.txt", b"mine")
    report = check(folder)
    assert not report.damages
    assert report.notes == ("2 files are not part of the archive, such as 'notes.txt'",)
    folder.write(PLAN_FILE, b"{}")
    assert check(folder).notes == ("an unfinished job is there; its command finishes it with --resume",)


def test_shards_that_are_swapped_are_both_damaged(folder: Folder) -> None:
    one, other = named(folder, "shards")
    data = folder.read(one)
    folder.write(one, folder.read(other))
    folder.write(other, data)
    report = check(folder)
    assert {damage.file for damage in report.damages} == {one, other}
    assert report.records == 0


def rewrite(folder: Folder, **changes: object) -> None:
    """A manifest with a right digest that says something else."""
    manifest = ArchiveFiles(folder.path).manifest
    folder.write(MANIFEST_FILE, dataclasses.replace(manifest, **changes).to_json())


def test_a_manifest_whose_counts_are_wrong_is_reported(folder: Folder) -> None:
    counts = ArchiveFiles(folder.path).manifest.counts
    rewrite(folder, counts=dataclasses.replace(counts, lossless=1, stream_bytes=2))
    (damage,) = check(folder).damages
    assert damage.file == MANIFEST_FILE
    assert damage.message == "its counts (stream_bytes 2, lossless 1) contradict its lists; no image is lost"


def test_a_manifest_that_hides_keys_is_reported(folder: Folder) -> None:
    (entry,) = ArchiveFiles(folder.path).manifest.lists
    rewrite(folder, lists=(dataclasses.replace(entry, last_key="b"),))
    (damage,) = check(folder).damages
    assert (damage.file, damage.message.partition(" its ")[0]) == (entry.file, "not what the manifest says of it:")


def test_records_that_cannot_be_decoded_are_named(folder: Folder) -> None:
    seen: list[str] = []

    def decode(records: Records) -> None:
        if "a/00123.png" in records.keys:
            raise CorruptDataError("a/00123.png: coding 9")
        seen.extend(records.keys)

    report = check(folder, decode)
    (damage,) = report.damages
    assert (damage.key, damage.message) == ("a/00123.png", "the record cannot be decoded: a/00123.png: coding 9")
    assert report.records == BIG + SMALL - 1
    assert len(set(seen)) == BIG + SMALL - 1


@pytest.mark.parametrize("workers", [1, 3])
def test_reports_do_not_depend_on_the_number_of_workers(folder: Folder, workers: int) -> None:
    flip(folder, named(folder, "shards")[0], 1000)
    assert check(folder, workers=workers) == check(folder, workers=2)


def test_no_more_than_a_chunk_of_a_file_is_read_at_a_time(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, read_range = [], Folder.read_range
    monkeypatch.setattr(
        Folder, "read_range", lambda self, name, start, length: lengths.append(length) or read_range(self, name, start, length)
    )
    monkeypatch.setattr(importlib.import_module("tsae.archive.verify"), "CHUNK_BYTES", 1000)
    assert not check(folder).damages
    assert max(lengths) == 1000
    hashed = [size for name, size in folder.sizes_bytes().items() if name != MANIFEST_FILE and not name.startswith("lists/")]
    assert sum(lengths) == sum(hashed)


def test_without_its_manifest_files_are_checked_by_their_names(folder: Folder) -> None:
    assert not has_lost_manifest(folder)
    folder.remove([MANIFEST_FILE])
    assert has_lost_manifest(folder)
    assert not [report for report in verify_without_manifest(folder, 2) if report.damages]
    shard = named(folder, "shards")[1]
    flip(folder, shard, 100)
    (damage,) = [damage for report in verify_without_manifest(folder, 2) for damage in report.damages]
    assert (damage.file, damage.message) == (shard, "does not match the digest in its name")


def test_a_job_that_did_not_end_and_any_other_folder_have_lost_no_manifest(tmp_path: Path, folder: Folder) -> None:
    folder.remove([MANIFEST_FILE])
    folder.write(PLAN_FILE, b"{}")
    assert not has_lost_manifest(folder)
    other = Folder(str(tmp_path / "other"))
    other.write("lists/shopping.txt", b"milk")
    assert not has_lost_manifest(other)
    assert not has_lost_manifest(Folder(str(tmp_path / "nothing")))


def test_threads_keep_order_and_take_no_more_than_they_need() -> None:
    taken, running, lock = [], [0, 0], threading.Lock()

    def items() -> object:
        for item in range(50):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        with lock:
            running[0] += 1
            running[1] = max(running)
        with lock:
            running[0] -= 1
        return item * item

    results = map_in_threads(work, items(), 3)
    assert next(results) == 0
    assert len(taken) <= 7
    assert list(results) == [item * item for item in range(1, 50)]
    assert running[1] <= 3
