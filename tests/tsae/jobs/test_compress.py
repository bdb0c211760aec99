"""The steps of compressing without Beam: a commit that retries cannot spoil."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tsae
from tsae.archive import ArchiveFiles, Folder, Records, concatenate
from tsae.errors import InputError
from tsae.inputs import list_inputs
from tsae.jobs import compress, job_folder, task_results
from tsae.jobs import plan as planning
from tsae.jobs.job_folder import CompressJob
from tsae.jobs.task_results import TaskResult

Plan = Callable[..., CompressJob]


def run(task: int, job: CompressJob) -> TaskResult:
    return compress.write_shard(compress.encode_images(compress.read_images(task, job), job), job)


def test_the_shards_of_a_plan_hold_each_image_once(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 9)
    job = plan_job(signs_dir, tmp_path / "archive")
    parts = [compress.read_images(shard, job).keys for shard in range(8)]
    assert [len(part) for part in parts] == [5] * 8
    assert [key for part in parts for key in part] == list_inputs(str(signs_dir)).keys


def test_a_shard_that_ran_twice_counts_once(
    plan_job: Plan, signs_dir: Path, archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan_job(signs_dir, tmp_path / "archive")
    results = [run(shard, job) for shard in (2, 0, 1, 0, 2)]
    assert results[0] == results[4]
    manifest = compress.commit_archive(results, job)
    assert manifest.images == 40
    assert len(list((tmp_path / "archive" / "shards").iterdir())) == 3
    assert len(list((tmp_path / "archive" / "provenance").iterdir())) == 3
    assert not (tmp_path / "archive" / "job").exists()
    with tsae.open_archive(str(tmp_path / "archive")) as mine, tsae.open_archive(str(archive_dir)) as whole:
        assert list(mine.keys()) == list(whole.keys())
        assert mine.to_table().equals(whole.to_table())


def test_a_commit_that_ran_twice_changes_nothing(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner may run the last step again whose first run was killed before it could clean up."""
    job = plan_job(signs_dir, tmp_path / "archive")
    results = [run(0, job)]
    with monkeypatch.context() as patch:
        patch.setattr("tsae.archive.clean_up", lambda *_: None)
        first = compress.commit_archive(results, job)
    assert compress.commit_archive(results, job) == first
    assert not (tmp_path / "archive" / "job").exists()
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        assert len(archive) == len(archive.to_table()) == 40


def test_a_commit_may_be_repeated_until_the_job_is_finished(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    """An engine may run the last step again whose worker was lost right after it."""
    job = plan_job(signs_dir, tmp_path / "archive")
    results = [run(0, job)]
    first = compress.commit_state(results, job)
    files = {path: path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file()}
    assert compress.commit_state(results, job) == first
    assert {path: path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file()} == files
    assert compress.finish(job) == first
    assert not (tmp_path / "archive" / "job").exists()
    with pytest.raises(InputError, match="another command"):
        compress.commit_state(results, job)


@pytest.mark.parametrize("encoded_images", [7, 4096])
def test_a_device_gets_as_many_images_at_once_as_it_wants_and_the_records_are_the_same(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded_images: int
) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    images, codec, sizes = compress.read_images(0, job), compress.load_codec(job), []
    expected = compress.encode_images(images, job).records
    encode = codec.encode
    monkeypatch.setattr(codec, "encoded_images", encoded_images)
    monkeypatch.setattr(codec, "encode", lambda x, quality: sizes.append(len(x)) or encode(x, quality))
    records = compress.encode_images(images, job).records
    assert sizes == [7, 7, 7, 7, 7, 5] if encoded_images == 7 else sizes == [40]
    assert records.streams == expected.streams
    np.testing.assert_array_equal(records.psnrs_db, expected.psnrs_db)


def test_nothing_is_visible_before_the_commit(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    run(0, job)
    with pytest.raises(tsae.TsaeError, match="its job did not end"):
        tsae.open_archive(str(tmp_path / "archive"))


def test_a_job_whose_model_was_swapped_is_refused(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    job = dataclasses.replace(plan_job(signs_dir, tmp_path / "archive"), model_sha256="0" * 64)
    with pytest.raises(InputError, match="another command"):
        run(0, job)


def test_a_job_whose_place_was_taken_goes_no_further(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    encoded = compress.encode_images(compress.read_images(0, job), job)
    result = compress.write_shard(encoded, job)
    planning.resume(str(signs_dir), job.archive)
    for step in (
        lambda: compress.read_images(0, job),
        lambda: compress.write_shard(encoded, job),
        lambda: compress.commit_archive([result], job),
    ):
        with pytest.raises(InputError, match="another command has written here"):
            step()
    assert not (tmp_path / "archive" / "manifest.json").exists()


def test_an_incomplete_job_is_never_committed(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan_job(signs_dir, tmp_path / "archive")
    with pytest.raises(InputError, match="2 of 3 tasks.*--resume"):
        compress.commit_archive([run(0, job), run(2, job)], job)
    assert not (tmp_path / "archive" / "manifest.json").exists()


def test_results_of_earlier_runs_are_counted_in(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan_job(signs_dir, tmp_path / "archive")
    for task in (0, 2):
        run(task, job)
    job = planning.resume(str(signs_dir), job.archive)
    assert compress.commit_archive([run(1, job)], job).images == 40


def test_a_task_that_is_finished_is_not_done_again(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that restarts a job starts all of its tasks; the commit finds what the first try left."""
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan_job(signs_dir, tmp_path / "archive")
    first = run(0, job)
    assert compress.read_unfinished(0, job) is None
    unfinished = compress.read_unfinished(1, job)
    assert unfinished is not None
    assert unfinished.task == 1
    assert first.shard is not None
    (tmp_path / "archive" / first.shard.file).rename(tmp_path / "away")
    assert compress.read_unfinished(0, job) is not None
    (tmp_path / "away").rename(tmp_path / "archive" / first.shard.file)
    assert compress.commit_state([run(2, job), run(1, job)], job).images == 40


def test_what_is_done_can_be_seen_in_the_job_folder(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan_job(signs_dir, tmp_path / "archive")
    images = job_folder.count_images(job, range(3))
    assert (sum(images.values()), set(images)) == (40, {0, 1, 2})
    assert task_results.count_done(job, images) == 0
    run(2, job)
    run(0, job)
    assert task_results.count_done(job, images) == images[0] + images[2]


def test_merged_records_keep_their_places() -> None:
    def records(keys: list[str], stream: bytes) -> Records:
        n, ones = len(keys), np.ones(len(keys), np.uint32)
        psnrs_db, codings = np.full(n, np.nan, np.float32), np.ones(n, np.uint8)
        return Records(keys, ones, ones, [None] * n, psnrs_db, codings, [stream] * n, [None] * n)

    old, new = records(["a", "b", "c", "d"], b"old"), records(["b", "d"], b"new")
    merged = compress.merge(old, new)
    assert merged.keys == ["a", "b", "c", "d"]
    assert merged.streams == [b"old", b"new", b"old", b"new"]
    assert compress.merge(old, concatenate([])).to_table().equals(old.to_table())


def test_psnr_is_measured_unless_it_is_switched_off(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    def stored(verify: bool) -> Records:
        archive = tmp_path / str(verify)
        job = plan_job(signs_dir, archive, verify=verify)
        compress.commit_archive([run(0, job)], job)
        return ArchiveFiles(str(archive)).shard_records(0)

    measured, blind = stored(True), stored(False)
    assert np.isnan(blind.psnrs_db).all()
    assert (measured.psnrs_db > 15).all()
    assert measured.streams == blind.streams


def test_only_what_a_key_names_is_read(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    """A file that is gone, or no longer an image, since the plan was made is a failure, not the end."""
    names = [f"{i}.png" for i in range(3)]
    (tmp_path / "in").mkdir()
    for name, image in zip(names, sorted(signs_dir.rglob("*.png")), strict=False):
        (tmp_path / "in" / name).write_bytes(image.read_bytes())
    job = plan_job(tmp_path / "in", tmp_path / "archive")
    (tmp_path / "in" / "0.png").unlink()
    (tmp_path / "in" / "2.png").write_bytes(b"no image")
    images = compress.read_images(0, job)
    assert images.keys == ["1.png"]
    assert [(f.path, f.stage, f.size_bytes) for f in images.failures] == [("0.png", "read", None), ("2.png", "decode", 8)]
    assert images.failures[1].version == str((tmp_path / "in" / "2.png").stat().st_mtime_ns)
    manifest = compress.commit_archive([run(0, job)], job)
    assert (manifest.images, manifest.counts.failures) == (1, 2)
    assert len(ArchiveFiles(job.archive.path).failures()) == 2


def test_the_archive_is_one_of_the_format(plan_job: Plan, signs_dir: Path) -> None:
    """And where it lies makes no difference."""
    job = plan_job(signs_dir, "memory://jobs-test/archive")
    manifest = compress.commit_archive([run(0, job)], job)
    assert set(Folder("memory://jobs-test/archive").sizes_bytes()) == {
        *manifest.files,
        *(name for entry in ArchiveFiles("memory://jobs-test/archive").entries() for name in (entry.file, entry.provenance)),
    }
