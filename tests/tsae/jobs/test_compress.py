"""The steps of compressing without Beam: the plan, and a commit that retries cannot spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

import tsae
from tsae.archive import Folder
from tsae.errors import InputError
from tsae.inputs import list_inputs
from tsae.jobs import compress
from tsae.jobs import plan as planning
from tsae.zoo import read_model_file

MODEL_FILE = read_model_file("seed-8x8x8")


@pytest.mark.parametrize("images", [0, 1, 4095, 4096, 4097, 6315, 100_000])
def test_shards_are_as_few_as_can_be(images: int) -> None:
    assert (planning.count_shards(images) - 1) * planning.SHARD_IMAGES < images or images == 0
    assert images <= planning.count_shards(images) * planning.SHARD_IMAGES


def plan(signs_dir: Path, archive: Path) -> planning.CompressJob:
    return planning.plan(str(signs_dir), list_inputs(str(signs_dir)), Folder(str(archive)), MODEL_FILE, "cpu")


def run(shard: int, job: planning.CompressJob) -> planning.ShardResult:
    return compress.write_shard(compress.encode_images(compress.read_images(shard, job), job), job)


def test_the_shards_of_a_plan_hold_each_image_once(signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 9)
    job = plan(signs_dir, tmp_path / "archive")
    parts = [compress.read_images(shard, job).keys for shard in range(5)]
    assert [len(part) for part in parts] == [8] * 5
    assert [key for part in parts for key in part] == list_inputs(str(signs_dir)).keys


def test_a_shard_that_ran_twice_counts_once(
    signs_dir: Path, archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan(signs_dir, tmp_path / "archive")
    results = [run(shard, job) for shard in (2, 0, 1, 0, 2)]
    assert results[0] == results[4]
    manifest = compress.commit_archive(results, job)
    assert manifest.images == 40
    assert len(list((tmp_path / "archive" / "shards").iterdir())) == 3
    assert not (tmp_path / "archive" / "job").exists()
    with tsae.open_archive(str(tmp_path / "archive")) as mine, tsae.open_archive(str(archive_dir)) as whole:
        assert list(mine.keys()) == list(whole.keys())


def test_nothing_is_visible_before_the_commit(signs_dir: Path, tmp_path: Path) -> None:
    job = plan(signs_dir, tmp_path / "archive")
    run(0, job)
    with pytest.raises(tsae.TsaeError, match="its job did not end"):
        tsae.open_archive(str(tmp_path / "archive"))


def test_a_job_whose_model_was_swapped_is_refused(signs_dir: Path, tmp_path: Path) -> None:
    import dataclasses

    job = dataclasses.replace(plan(signs_dir, tmp_path / "archive"), model_sha256="0" * 64)
    with pytest.raises(InputError, match="another job"):
        run(0, job)


def test_an_incomplete_job_is_never_committed(signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan(signs_dir, tmp_path / "archive")
    with pytest.raises(InputError, match="2 of 3 shards.*--resume"):
        compress.commit_archive([run(0, job), run(2, job)], job)
    assert not (tmp_path / "archive" / "manifest.json").exists()


def test_a_damaged_or_missing_shard_is_not_taken_for_finished(
    signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 15)
    job = plan(signs_dir, tmp_path / "archive")
    results = [run(shard, job) for shard in range(3)]
    assert planning.finished_shards(job) == dict(enumerate(results))
    names = [tmp_path / "archive" / result.shard.file for result in results if result.shard]
    names[0].unlink()
    names[1].write_bytes(names[1].read_bytes()[:-1])
    assert planning.finished_shards(job) == {2: results[2]}


def test_a_plan_survives_its_file(signs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((next(signs_dir.rglob("*.png"))).read_bytes())
    with open(bytes(tmp_path / "in") + b"/bad\xff.png", "wb"):
        pass
    job = plan(tmp_path / "in", tmp_path / "archive")
    assert job.unlisted is not None
    assert planning.resume(str(tmp_path / "in"), job.archive) == job
