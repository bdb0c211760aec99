"""A job without end: whatever an engine repeats, loses or does twice at once, each file becomes one record."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import streaming
from pipelines.options import CompressOptions
from pipelines.request import prepare
from tsae import archive as ar
from tsae.cli import main
from tsae.errors import BusyError, InputError
from tsae.jobs import job_folder, plan, stream
from tsae.jobs.job_folder import CompressJob

REST_S = 0.2
"""Files that `put` writes are older."""


@dataclasses.dataclass
class Lab:
    """An input that grows, its archive, and images to put there."""

    source: Path
    archive: Path
    images: list[Path]

    def put(self, count: int) -> list[str]:
        """Adds images that nobody writes to any more."""
        keys = []
        for _ in range(count):
            image = self.images.pop()
            key = f"{len(self.images) % 3}/{image.name}"
            path = self.source / key
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(image, path)
            rested(path)
            keys.append(key)
        return keys

    def claim(self) -> CompressJob:
        options = CompressOptions(str(self.source), str(self.archive), watch_s=REST_S, device="cpu", workers=1)
        return streaming.claim(prepare(options))

    def keys(self) -> list[str]:
        """Of all records, in which none may be twice."""
        found = list(ar.ArchiveFiles(str(self.archive)).keys())
        assert len(found) == len(set(found))
        return sorted(found)

    def files(self) -> set[str]:
        return {path.relative_to(self.archive).as_posix() for path in self.archive.rglob("*") if path.is_file()}


def rested(path: Path) -> None:
    old_ns = time.time_ns() - 10**10
    os.utime(path, ns=(old_ns, old_ns))


@pytest.fixture
def lab(tmp_path: Path, signs_dir: Path) -> Iterator[Lab]:
    (tmp_path / "in").mkdir()
    yield Lab(tmp_path / "in", tmp_path / "archive", sorted(signs_dir.rglob("*.png")))
    forget()


def forget() -> None:
    """What a process that starts anew does not know."""
    stream._finder.cache_clear()
    stream._waste.cache_clear()


def look(job: CompressJob) -> list[int]:
    return stream.find_batches(time.time(), job)


def take_in(job: CompressJob) -> list[int]:
    """One round of a pipeline in which nothing goes wrong."""
    found = look(job)
    for number in found:
        stream.compress_batch(number, job)
    stream.commit_batches(job)
    return found


def test_what_comes_is_found_once_and_visible_after_each_round(lab: Lab) -> None:
    job, keys = lab.claim(), list[str]()
    assert lab.keys() == []
    assert take_in(job) == []
    for number in range(4):
        keys += lab.put(3)
        assert take_in(job) == [number]
        assert lab.keys() == sorted(keys)
        assert take_in(job) == []
    assert len([name for name in lab.files() if name.startswith("lists/")]) == 1
    assert stream.waiting_batches(job) == []


def test_a_file_that_is_written_to_is_left_for_later(lab: Lab) -> None:
    job = dataclasses.replace(lab.claim(), watch_s=3600.0)
    (key,) = lab.put(1)
    os.utime(lab.source / key)
    assert take_in(job) == []
    rested(lab.source / key)
    assert take_in(job) == []  # ten seconds are less than an hour
    assert take_in(dataclasses.replace(job, watch_s=5.0)) == [0]


def test_a_look_that_is_late_leaves_it_to_the_next(lab: Lab) -> None:
    job = lab.claim()
    lab.put(1)
    assert stream.find_batches(time.time() - 10 * REST_S, job) == []
    assert look(job) == [0]


def test_batches_are_committed_in_any_order_and_twice_is_once(lab: Lab) -> None:
    job, keys = lab.claim(), list[str]()
    for _ in range(3):
        keys += lab.put(2)
        look(job)
    for number in (2, 0):
        stream.compress_batch(number, job)
        stream.compress_batch(number, job)
        stream.commit_batches(job)
        before = lab.files()
        assert stream.commit_batches(job) == ar.read_manifest(job.archive)
        assert lab.files() == before
    assert len(lab.keys()) == 4
    assert stream.waiting_batches(job) == [1]
    assert stream.compress_batch(2, job) is None
    stream.compress_batch(1, job)
    stream.commit_batches(job)
    assert lab.keys() == sorted(keys)
    assert look(job) == []


def test_a_commit_that_was_cut_off_before_it_forgot_its_batches_adds_nothing_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, keys = lab.claim(), lab.put(3)
    (number,) = look(job)
    stream.compress_batch(number, job)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_forget", lambda *args: None)
        stream.commit_batches(job)
    assert stream.waiting_batches(job) == [number]
    manifest = ar.read_manifest(job.archive)
    assert stream.commit_batches(job) == manifest
    assert stream.waiting_batches(job) == []
    assert lab.keys() == sorted(keys)
    keys += lab.put(1)
    assert take_in(job) == [number + 1]
    assert lab.keys() == sorted(keys)


def test_batches_that_got_lost_are_handed_on_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job, keys = lab.claim(), lab.put(2)
    assert look(job) == [0]
    assert look(job) == []
    monkeypatch.setattr(stream, "PATIENCE_S", 0.0)
    monkeypatch.setattr(stream, "PATIENCE_LOOKS", 0)
    assert look(job) == [0]
    forget()
    assert take_in(job) == [0]
    assert lab.keys() == sorted(keys)


def test_what_is_compressed_and_not_committed_is_committed_by_a_later_look(lab: Lab) -> None:
    job, keys = lab.claim(), lab.put(2)
    stream.compress_batch(*look(job), job)
    assert look(job) == []
    assert lab.keys() == []
    assert look(job) == []
    assert lab.keys() == sorted(keys)


def test_a_look_that_fails_half_way_doubles_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job, keys = lab.claim(), lab.put(4)
    monkeypatch.setattr(plan, "SHARD_IMAGES", 1)
    put, left = stream._put, [True, True, False]

    def failing(*args: object) -> bool:
        if not left.pop(0):
            raise InputError("the disk is full")
        return put(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_put", failing)
        with pytest.raises(InputError, match="full"):
            look(job)
    assert take_in(job) == [0, 1, 2, 3]
    assert lab.keys() == sorted(keys)


def test_two_that_look_at_once_find_each_file_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job, keys = lab.claim(), lab.put(3)
    put = stream._put

    def slowly(number: int, listing: bytes, job: CompressJob) -> bool:
        monkeypatch.setattr(stream, "_put", put)
        forget()
        take_in(job)  # another one is faster, from its look to its commit
        return put(number, listing, job)

    monkeypatch.setattr(stream, "_put", slowly)
    assert look(job) == [0]  # its number is one of a committed batch, which no commit takes again
    keys += lab.put(1)
    for _ in range(4):
        take_in(job)
    assert lab.keys() == sorted(keys)
    assert stream.waiting_batches(job) == []


def test_a_late_batch_of_a_committed_number_gives_its_files_back(lab: Lab) -> None:
    job, keys = lab.claim(), lab.put(3)
    take_in(job)
    keys += (late := lab.put(2))
    looked = plan.listing_to_bytes([plan.Task(range(2))], streaming.Listing.of(str(lab.source), late))
    job.archive.write(job_folder.batch_file(0, job), looked)
    for _ in range(4):
        take_in(job)
    assert lab.keys() == sorted(keys)


def test_failures_are_told_once_and_keep_their_number(lab: Lab) -> None:
    job = lab.claim()
    broken = lab.source / "broken.png"
    broken.write_bytes(b"no image")
    rested(broken)
    assert take_in(job) == [0]
    assert [failure.path for failure in ar.ArchiveFiles(str(lab.archive)).failures()] == ["broken.png"]
    keys = lab.put(2)
    forget()
    assert take_in(job) == [1]
    assert lab.keys() == sorted(keys)
    assert ar.read_manifest(job.archive).counts.failures == 1
    other = lab.source / "other.png"
    other.write_bytes(b"no image either")
    rested(other)
    keys += lab.put(1)
    assert take_in(job) == [2]
    assert [failure.path for failure in ar.ArchiveFiles(str(lab.archive)).failures()] == ["broken.png", "other.png"]
    assert len([name for name in lab.files() if name.startswith("failures/")]) == 1


def test_a_job_of_another_run_notices_that_its_place_is_taken(lab: Lab) -> None:
    old, keys = lab.claim(), lab.put(2)
    (number,) = look(old)
    new = lab.claim()
    assert (new.name, new.token != old.token) == (old.name, True)
    for step in (lambda: look(old), lambda: stream.compress_batch(number, old), lambda: stream.commit_batches(old)):
        with pytest.raises(InputError, match="another command has written here"):
            step()
    assert take_in(new) == [number]
    assert lab.keys() == sorted(keys)


def test_commits_that_meet_are_tried_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job, keys = lab.claim(), lab.put(2)
    stream.compress_batch(*look(job), job)
    commit, times = ar.commit, iter([True, True, False])

    def meets(*args: object) -> None:
        if next(times):
            raise BusyError("another step was faster")
        commit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stream.ar, "commit", meets)
    stream.commit_batches(job)
    assert lab.keys() == sorted(keys)


@pytest.mark.parametrize("seed", range(4))
def test_accidents_at_random_lose_and_double_nothing(lab: Lab, seed: int) -> None:
    rng, keys = random.Random(seed), list[str]()
    job, queue = lab.claim(), list[int]()
    for _ in range(60):
        match rng.randrange(7):
            case 0 if lab.images:
                keys += lab.put(1)
            case 1:
                queue += look(job)
            case 2 if queue:
                stream.compress_batch(rng.choice(queue), job)
            case 3:
                stream.commit_batches(job)
            case 4:
                forget()
            case 5:
                job = lab.claim()
            case 6 if queue:
                queue.pop(rng.randrange(len(queue)))
        lab.keys()
    forget()
    take_in(job)
    assert lab.keys() == sorted(keys)


# What commands make of it


def test_resume_ends_a_watch_and_a_plain_run_finds_nothing_new(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    job, keys = lab.claim(), lab.put(5)
    take_in(job)
    keys += lab.put(2)
    look(job)
    command = ["compress", str(lab.source), str(lab.archive), "--device=cpu"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "belongs to a job that watches" in line
    assert "--resume" in line
    assert main([*command, "--resume"]) == 0
    assert lab.keys() == sorted(keys)
    assert not any(name.startswith("job/") for name in lab.files())
    assert main(command) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert main(["verify", str(lab.archive)]) == 0


def test_an_archive_that_was_made_otherwise_is_refused(lab: Lab) -> None:
    lab.put(3)
    assert main(["compress", str(lab.source), str(lab.archive), "--quality=3"]) == 0
    with pytest.raises(InputError, match="--quality"):
        lab.claim()


def test_numbers_go_on_from_those_of_the_archive(lab: Lab) -> None:
    keys = lab.put(3)
    assert main(["compress", str(lab.source), str(lab.archive), "--device=cpu"]) == 0
    job = lab.claim()
    keys += lab.put(2)
    assert take_in(job) == [1]
    assert lab.keys() == sorted(keys)


def test_all_files_of_a_job_are_known_as_such(lab: Lab) -> None:
    job = lab.claim()
    lab.put(2)
    stream.compress_batch(*look(job), job)
    found = [name for name in lab.files() if name.startswith("job/")]
    assert {name.rpartition("/")[2] for name in found} >= {"000000.parquet", "000000.json", "look.json", "plan.json"}
    assert all(ar.is_leftover(name) for name in found)
    assert json.loads(stream.last_look(job))["due_s"] > 0
