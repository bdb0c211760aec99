"""Running compress again: an archive is brought up to date, and what did not change is not touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

import tsae
from pipelines import compress
from pipelines.options import CompressOptions
from tsae import archive as ar
from tsae.cli import main
from tsae.config import DEFAULT_MODEL
from tsae.errors import InputError, TsaeError
from tsae.images import decode_image, resize
from tsae.jobs import task_results
from tsae.zoo import read_model_file


def write_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def run(source: Path | str, archive: Path | str, **options: Any) -> compress.Outcome:
    return compress.run(CompressOptions(str(source), str(archive), **options))


def changes(outcome: compress.Outcome) -> tuple[int, int, int]:
    assert outcome.changes is not None
    return outcome.changes.new, outcome.changes.changed, outcome.changes.missing


def facts(archive: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and times of all files."""
    files = [path for path in archive.rglob("*") if path.is_file()]
    return {path.relative_to(archive).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def contents(archive: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in facts(archive).items()}


def assert_right(archive: Path | str, source: Path) -> None:
    """Every picture of the archive is that of the file in the input, and every position and key leads to it."""
    with tsae.open_archive(str(archive)) as opened:
        keys = list(opened)
        originals = np.stack([resize(decode_image((source / key).read_bytes())) for key in keys])
        expected = opened.codec.decode(opened.codec.encode(originals, opened.manifest.settings.quality))
        np.testing.assert_array_equal(opened.decode(keys), expected)
        np.testing.assert_array_equal(opened[:], expected)
        files = ar.ArchiveFiles(str(archive))
        names = {name for entry in files.entries() for name in (entry.file, entry.provenance)} | files.manifest.files
        assert set(files.folder.sizes_bytes()) == names


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsae.jobs.plan.SHARD_IMAGES", 3)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six good images, `b0` to `b5`."""
    for i in range(6):
        write_image(tmp_path / "in" / f"b{i}.png", i)
    return tmp_path / "in"


@pytest.fixture
def archive(source: Path, tmp_path: Path) -> Path:
    """Their archive, of two shards."""
    run(source, tmp_path / "archive")
    return tmp_path / "archive"


FIRST = [f"b{i}.png" for i in range(6)]


# Nothing to do


def test_with_nothing_new_no_file_changes(source: Path, archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = facts(archive)
    assert main(["compress", str(source), str(archive)]) == 0
    assert facts(archive) == before
    out = capfd.readouterr().out
    assert f"{archive}: 6 images" in out
    assert "nothing has changed" in out


def test_touched_files_are_no_other_files(source: Path, archive: Path) -> None:
    before = facts(archive)
    for path in source.iterdir():
        os.utime(path, ns=(1, 10**18))
    assert changes(run(source, archive)) == (0, 0, 0)
    assert facts(archive) == before


def test_with_nothing_new_nothing_is_read_but_facts(source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("was read")

    monkeypatch.setattr("tsae.inputs.reading.read_input", read)
    assert changes(run(source, archive)) == (0, 0, 0)


# New, changed, missing


def test_new_images_are_appended(source: Path, archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(archive)
    for name in ("a.png", "b2x.png", "z.png", "zz.png"):
        write_image(source / name, len(name))
    assert main(["compress", str(source), str(archive)]) == 0
    assert "4 new, 0 changed" in capfd.readouterr().out
    with tsae.open_archive(str(archive)) as opened:
        assert list(opened) == [*FIRST, "a.png", "b2x.png", "z.png", "zz.png"]
        assert opened.info()["shards"] == 4
        assert opened.info()["source_bytes"] == sum(path.stat().st_size for path in source.iterdir())
    assert_right(archive, source)
    assert {name for name in before if name.startswith(("shards/", "provenance/"))} <= contents(archive).keys()
    assert changes(run(source, archive)) == (0, 0, 0)


def test_a_changed_image_is_replaced_at_its_position(source: Path, archive: Path) -> None:
    before = contents(archive)
    write_image(source / "b1.png", 99)
    write_image(source / "b5.png", 98)
    assert changes(run(source, archive)) == (0, 2, 0)
    with tsae.open_archive(str(archive)) as opened:
        assert list(opened) == FIRST
    assert_right(archive, source)
    assert not {name for name in before if name.startswith("shards/")} & contents(archive).keys()
    assert changes(run(source, archive)) == (0, 0, 0)


def test_a_change_that_keeps_size_and_time_is_not_seen(source: Path, archive: Path) -> None:
    """As `make` and rsync: that is what the time of change is for."""
    path = source / "b1.png"
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changes(run(source, archive)) == (0, 0, 0)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert changes(run(source, archive)) == (0, 1, 0)


def test_only_shards_with_changes_are_written_anew(source: Path, archive: Path) -> None:
    before = contents(archive)
    write_image(source / "b5.png", 98)
    run(source, archive)
    kept = {name for name in before if name.startswith(("shards/000000", "provenance/000000"))}
    assert len(kept) == 2
    assert kept <= contents(archive).keys()


def test_a_new_label_is_a_change(source: Path, archive: Path) -> None:
    streams = ar.ArchiveFiles(str(archive)).records(FIRST).streams
    (source / "labels.csv").write_text("path,label\nb1.png,stop\nb4.png,yield\n")
    assert changes(run(source, archive)) == (0, 2, 0)
    records = ar.ArchiveFiles(str(archive)).records(FIRST)
    assert records.labels == [None, "stop", None, None, "yield", None]
    assert records.streams == streams
    (source / "labels.csv").write_text("path,label\nb1.png,stop\n")
    assert changes(run(source, archive)) == (0, 1, 0)
    assert ar.ArchiveFiles(str(archive)).records(["b4.png"]).labels == [None]


def test_missing_images_are_told_and_kept(source: Path, archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = facts(archive)
    (source / "b0.png").unlink()
    (source / "b4.png").unlink()
    assert main(["compress", str(source), str(archive)]) == 0
    assert re.search("nothing has changed; .*no longer in the input.*2", capfd.readouterr().out)
    assert facts(archive) == before
    write_image(source / "new.png", 7)
    assert changes(run(source, archive)) == (1, 0, 2)
    with tsae.open_archive(str(archive)) as opened:
        assert list(opened) == [*FIRST, "new.png"]


def test_everything_at_once(source: Path, archive: Path) -> None:
    write_image(source / "b3.png", 50)
    write_image(source / "c.png", 51)
    (source / "b0.png").unlink()
    (source / "bad.png").write_bytes(b"no image")
    (source / "labels.csv").write_text("path,label\nb2.png,two\nc.png,sea\n")
    outcome = run(source, archive)
    assert changes(outcome) == (2, 2, 1)
    assert outcome.manifest.counts.failures == 1
    with tsae.open_archive(str(archive)) as opened:
        assert list(opened) == [*FIRST, "c.png"]
        assert {row["key"]: row["label"] for row in opened.rows() if row["label"]} == {"b2.png": "two", "c.png": "sea"}
    assert changes(run(source, archive)) == (0, 0, 1)


def test_many_updates_leave_what_one_run_would_have_given(source: Path, tmp_path: Path) -> None:
    """But for the order of positions."""
    names = sorted(path.name for path in source.iterdir())
    for stop in range(1, 7):
        for name in names[:stop]:
            (tmp_path / "grown").mkdir(exist_ok=True)
            shutil.copy2(source / name, tmp_path / "grown" / name)
        run(tmp_path / "grown", tmp_path / "archive")
    run(tmp_path / "grown", tmp_path / "fresh")
    many, one = (ar.ArchiveFiles(str(tmp_path / name)) for name in ("archive", "fresh"))
    assert many.records(names).to_table().equals(one.records(names).to_table())
    assert (many.shards, one.shards) == (6, 2)
    for field in ("images", "stream_bytes", "source_bytes", "psnr_min_db"):
        assert getattr(many.manifest.counts, field) == getattr(one.manifest.counts, field)
    assert many.manifest.counts.psnr_mean_db == pytest.approx(one.manifest.counts.psnr_mean_db)
    assert_right(tmp_path / "archive", tmp_path / "grown")


# Failures


@pytest.fixture
def failed(source: Path, archive: Path) -> Path:
    """The archive after a file came that is no image."""
    (source / "bad.png").write_bytes(b"no image")
    assert run(source, archive).manifest.counts.failures == 1
    return archive


def test_what_failed_is_not_tried_again_while_it_is_the_same(source: Path, failed: Path) -> None:
    before = facts(failed)
    outcome = run(source, failed)
    assert changes(outcome) == (0, 0, 0)
    assert outcome.manifest.counts.failures == 1
    assert facts(failed) == before
    assert main(["compress", str(source), str(failed)]) == 1
    assert main(["compress", str(source), str(failed), "--allow-failures"]) == 0


def test_what_failed_is_tried_again_when_it_has_changed(source: Path, failed: Path) -> None:
    write_image(source / "bad.png", 9)
    outcome = run(source, failed)
    assert changes(outcome) == (1, 0, 0)
    assert outcome.manifest.failures == ()
    assert ar.ArchiveFiles(str(failed)).failures() == []
    assert not (failed / "failures").exists()
    assert_right(failed, source)


def test_what_failed_is_tried_again_when_asked(source: Path, failed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version may be able to read what the old one could not."""
    assert changes(run(source, failed, retry_failed=True)) == (1, 0, 0)
    assert [failure.path for failure in ar.ArchiveFiles(str(failed)).failures()] == ["bad.png"]
    good = (source / "b0.png").read_bytes()
    monkeypatch.setattr("tsae.jobs.compress.decode_image", lambda data: decode_image(good if data == b"no image" else data))
    run(source, failed)
    assert "bad.png" not in tsae.open_archive(str(failed))
    run(source, failed, retry_failed=True)
    assert ar.ArchiveFiles(str(failed)).failures() == []
    assert "bad.png" in tsae.open_archive(str(failed))


def test_what_failed_and_is_gone_is_forgotten(source: Path, failed: Path) -> None:
    (source / "bad.png").unlink()
    outcome = run(source, failed)
    assert outcome.manifest.counts.failures == 0
    assert len(outcome.manifest.failures) == 0
    assert changes(run(source, failed)) == (0, 0, 0)


def test_a_changed_file_that_fails_keeps_its_old_record(source: Path, archive: Path) -> None:
    old = ar.ArchiveFiles(str(archive)).records(["b1.png"])
    (source / "b1.png").write_bytes(b"damaged since")
    outcome = run(source, archive)
    assert (outcome.manifest.images, outcome.manifest.counts.failures) == (6, 1)
    files = ar.ArchiveFiles(str(archive))
    assert [(failure.path, failure.stage) for failure in files.failures()] == [("b1.png", "decode")]
    assert files.records(["b1.png"]).to_table().equals(old.to_table())
    assert list(files.keys()) == FIRST
    before = facts(archive)
    assert changes(run(source, archive)) == (0, 0, 0)
    assert facts(archive) == before
    write_image(source / "b1.png", 77)
    assert changes(run(source, archive)) == (0, 1, 0)
    assert ar.ArchiveFiles(str(archive)).failures() == []
    assert_right(archive, source)


def test_a_failure_stays_while_other_things_change(source: Path, failed: Path) -> None:
    write_image(source / "new.png", 5)
    (source / "worse.png").write_bytes(b"no image either")
    assert changes(run(source, failed)) == (2, 0, 0)
    assert [failure.path for failure in ar.ArchiveFiles(str(failed)).failures()] == ["bad.png", "worse.png"]
    assert len(list((failed / "failures").iterdir())) == 1
    assert changes(run(source, failed)) == (0, 0, 0)


def test_names_that_cannot_be_keys_are_listed_once(source: Path, archive: Path) -> None:
    with open(os.fsencode(source) + b"/bad\xff.png", "wb"):
        pass
    for expected in ((0, 0, 0), (0, 0, 0)):
        assert changes(run(source, archive)) == expected
        assert [failure.path for failure in ar.ArchiveFiles(str(archive)).failures()] == ["bad%FF.png"]
    os.unlink(os.fsencode(source) + b"/bad\xff.png")
    run(source, archive)
    assert ar.ArchiveFiles(str(archive)).failures() == []


# Provenance


@pytest.mark.parametrize("damage", ["gone", "short", "one"])
def test_without_provenance_all_is_compressed_again(source: Path, archive: Path, damage: str) -> None:
    intact = contents(archive)
    files = sorted((archive / "provenance").iterdir())
    if damage == "gone":
        shutil.rmtree(archive / "provenance")
    elif damage == "short":
        for path in files:
            path.write_bytes(path.read_bytes()[:-1])
    else:
        files[0].unlink()
    assert changes(run(source, archive)) == (0, 3 if damage == "one" else 6, 0)
    assert contents(archive).keys() == intact.keys()
    assert_right(archive, source)
    assert changes(run(source, archive)) == (0, 0, 0)


# Refusals


@pytest.fixture
def refused(archive: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(source: Path | str, *flags: str) -> str:
        """The one line that a refused command prints; it changes nothing."""
        before = facts(archive)
        capfd.readouterr()
        assert main(["compress", str(source), str(archive), *flags]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("tsae: error: ")
        assert err.count("\n") == 1
        assert facts(archive) == before
        return err

    return refused


def other_model(tmp_path: Path) -> str:
    """Of another name, and so another digest."""
    model = read_model_file(DEFAULT_MODEL)
    size = int.from_bytes(model[:8], "little")
    head = model[8 : 8 + size].replace(b'\\"name\\": \\"tsae', b'\\"name\\": \\"tsaf')
    assert head != model[8 : 8 + size]
    (tmp_path / "other.safetensors").write_bytes(model[:8] + head + model[8 + size :])
    return str(tmp_path / "other.safetensors")


def test_other_settings_are_refused_by_name(source: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    write_image(source / "new.png", 1)
    assert "--min-psnr: 30.0, but the archive was made with None" in refused(source, "--min-psnr=30")
    assert "--no-verify" in refused(source, "--no-verify")
    assert "--model" in refused(source, f"--model={other_model(tmp_path)}")
    assert "--quality: 6, but the archive was made with 5" in refused(source, "--quality=6")
    assert "but the archive was made with" in refused(source, "--model=seed-8x8x8")
    shutil.copytree(source, tmp_path / "in2")
    assert f"INPUT: {tmp_path / 'in2'}" in refused(tmp_path / "in2")
    assert "--overwrite" in refused(tmp_path / "in2" / "*.png")


def test_a_target_that_the_archive_was_not_made_for_is_refused_before_any_image_is_tried(
    source: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.request.choose_quality", None)
    assert "--target-bytes or --target-psnr: 8 dB, but the archive was made with None" in refused(source, "--target-psnr=8")


def test_another_root_is_refused_by_name(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listing = source / "list.txt"
    listing.write_text("b0.png\nb1.png\n")
    run(listing, tmp_path / "archive")
    assert main(["compress", str(listing), str(tmp_path / "archive"), f"--root={tmp_path}"]) == 2
    assert f"--root: {tmp_path}, but the archive was made with {source}" in capfd.readouterr().err
    assert changes(run(listing, tmp_path / "archive", root=str(source))) == (0, 0, 0)


def test_the_same_input_written_otherwise_is_the_same(source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    for name in ("in", "./in/", f"file://{source}", f"{source}/"):
        assert changes(run(name, archive)) == (0, 0, 0)


def test_a_damaged_archive_is_not_added_to(source: Path, archive: Path, refused: Callable[..., str]) -> None:
    write_image(source / "new.png", 1)
    (lists,) = (archive / "lists").iterdir()
    data = lists.read_bytes()
    lists.write_bytes(data[:-1])
    assert lists.name in refused(source)
    lists.write_bytes(data)
    (archive / "manifest.json").write_bytes(b"{")
    assert "manifest.json" in refused(source)


def test_a_damaged_shard_is_not_written_anew(source: Path, archive: Path) -> None:
    shard = min((archive / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    shard.write_bytes(data)
    for file in source.iterdir():
        write_image(file, 77)
    with pytest.raises(TsaeError, match=re.escape(f"or save what is intact with tsae verify {archive} --repair OUT")):
        run(source, archive)
    assert shard.read_bytes() == data


def test_damaged_labels_take_none_away(source: Path, archive: Path, refused: Callable[..., str]) -> None:
    (source / "labels.csv").write_text("path,label\nb1.png,stop\n")
    run(source, archive)
    (source / "labels.csv").write_bytes(b"path,label\nb1.png,\xff\n")
    assert "labels.csv: labels cannot be read" in refused(source)
    assert ar.ArchiveFiles(str(archive)).records(["b1.png"]).labels == ["stop"]


def test_a_damaged_archive_can_be_overwritten(source: Path, archive: Path) -> None:
    (archive / "manifest.json").write_bytes(b"{")
    run(source, archive, overwrite=True)
    assert_right(archive, source)


# Places


def test_an_archive_in_memory_is_brought_up_to_date(source: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(source), "/update-test/in", recursive=True)
    try:
        run("memory://update-test/in", "memory://update-test/archive")
        assert changes(run("memory://update-test/in", "memory://update-test/archive")) == (0, 0, 0)
        files.pipe_file("/update-test/in/c.png", (source / "b0.png").read_bytes())
        files.pipe_file("/update-test/in/b1.png", (source / "b2.png").read_bytes())
        files.rm_file("/update-test/in/b5.png")
        assert changes(run("memory://update-test/in", "memory://update-test/archive")) == (1, 1, 1)
        with tsae.open_archive("memory://update-test/archive") as opened:
            assert list(opened) == [*FIRST, "c.png"]
            np.testing.assert_array_equal(opened["b1.png"], opened["b2.png"])
            np.testing.assert_array_equal(opened["c.png"], opened["b0.png"])
        assert not [name for name in ar.Folder("memory://update-test/archive").sizes_bytes() if name.startswith("job/")]
    finally:
        files.rm("/update-test", recursive=True)


# Killed


@contextlib.contextmanager
def killed_after(tasks: int) -> Iterator[None]:
    """Within the block, a job ends as if killed once so many of its tasks are done, and the next shard is written."""
    keep_result, kept = task_results.keep_result, []

    def keep(result: Any, job: Any) -> None:
        if len(kept) == tasks:
            raise RuntimeError("killed")
        kept.append(result)
        keep_result(result, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_results, "keep_result", keep)
        with pytest.raises(RuntimeError, match="killed"):
            yield
    assert len(kept) == tasks


def grow(source: Path) -> None:
    """Changes that make one new shard, then one more, and replace both old ones."""
    for i in range(4):
        write_image(source / f"c{i}.png", 20 + i)
    write_image(source / "b0.png", 30)
    write_image(source / "b5.png", 31)


@pytest.mark.parametrize("tasks", [0, 1, 2, 3])
def test_a_killed_update_is_resumed_to_the_same_bytes(source: Path, archive: Path, tmp_path: Path, tasks: int) -> None:
    before = contents(archive)
    shutil.copytree(archive, tmp_path / "undisturbed")
    grow(source)
    with killed_after(tasks):
        run(source, archive)
    assert before.items() <= contents(archive).items()
    with tsae.open_archive(str(archive)) as opened:
        assert list(opened) == FIRST
        assert len(opened[:]) == 6
    with pytest.raises(InputError, match=r"unfinished job.*--resume"):
        run(source, archive)
    run(source, archive, resume=True)
    assert_right(archive, source)
    run(source, tmp_path / "undisturbed")
    assert contents(archive) == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("tasks", [0, 1])
def test_a_killed_first_job_is_resumed_to_the_same_bytes(source: Path, tmp_path: Path, tasks: int) -> None:
    with killed_after(tasks):
        run(source, tmp_path / "archive")
    with pytest.raises(TsaeError, match="did not end"):
        tsae.open_archive(str(tmp_path / "archive"))
    run(source, tmp_path / "archive", resume=True)
    run(source, tmp_path / "undisturbed")
    assert contents(tmp_path / "archive") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("step", ["write_lists", "commit", "clean_up"])
def test_a_job_killed_in_its_last_step_is_resumed(
    source: Path, archive: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(archive, tmp_path / "undisturbed")
    grow(source)

    def kill(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ar, step, kill)
        with pytest.raises(RuntimeError, match="killed"):
            run(source, archive)
    with tsae.open_archive(str(archive)) as opened:
        assert len(opened) == (10 if step == "clean_up" else 6)
        opened[:]
    run(source, archive, resume=True)
    run(source, tmp_path / "undisturbed")
    assert contents(archive) == contents(tmp_path / "undisturbed")
    assert changes(run(source, archive)) == (0, 0, 0)


def test_a_killed_update_with_other_options_is_not_resumed(source: Path, archive: Path, tmp_path: Path) -> None:
    grow(source)
    with killed_after(1):
        run(source, archive)
    for options in ({"min_psnr_db": 30.0}, {"verify": False}, {"model": other_model(tmp_path)}):
        with pytest.raises(InputError, match="another model or other settings"):
            run(source, archive, resume=True, **options)
    run(source, archive, resume=True)
    assert_right(archive, source)


def test_a_killed_update_can_be_overwritten(source: Path, archive: Path) -> None:
    grow(source)
    with killed_after(2):
        run(source, archive)
    run(source, archive, overwrite=True)
    assert_right(archive, source)
    assert list(tsae.open_archive(str(archive))) == sorted(path.name for path in source.iterdir())


# Two at once


def second_before_work(monkeypatch: pytest.MonkeyPatch, second: Callable[[], object]) -> None:
    """Runs `second` between the plan and the work of the next job."""
    original = compress.run_here

    def second_then_first(*args: Any) -> object:
        monkeypatch.setattr(compress, "run_here", original)
        second()
        return original(*args)

    monkeypatch.setattr(compress, "run_here", second_then_first)


def test_of_two_updates_at_once_one_wins(source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(source)
    told = []

    def second() -> None:
        with pytest.raises(InputError, match="another command is at work there") as caught:
            run(source, archive)
        told.append(caught)

    second_before_work(monkeypatch, second)
    assert changes(run(source, archive)) == (4, 2, 0)
    assert len(told) == 1
    assert_right(archive, source)


def test_an_update_that_was_overwritten_is_told(source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(source)
    second_before_work(monkeypatch, lambda: run(source, archive, overwrite=True))
    with pytest.raises(InputError, match="another command has written here"):
        run(source, archive)
    assert_right(archive, source)


def test_a_state_that_was_committed_meanwhile_is_not_lost(
    source: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a copy over the archive, or whoever does not ask for its turn."""
    shutil.copytree(archive, tmp_path / "later")
    write_image(source / "later.png", 60)
    run(source, tmp_path / "later")
    write_image(source / "latest.png", 61)
    second_before_work(monkeypatch, lambda: shutil.copytree(tmp_path / "later", archive, dirs_exist_ok=True))
    with pytest.raises(InputError, match="another command has changed it meanwhile"):
        run(source, archive)
    with tsae.open_archive(str(archive)) as opened:
        assert list(opened) == [*FIRST, "later.png"]


# Another model


def test_the_old_archive_can_be_read_until_another_model_takes_over(
    source: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = other_model(tmp_path)
    before = tsae.open_archive(str(archive))[:]
    seen = []

    def look(*args: Any) -> Any:
        with tsae.open_archive(str(archive)) as opened:
            np.testing.assert_array_equal(opened[:], before)
            seen.append(sorted(path.name for path in archive.glob("*.safetensors")))
        return commit(*args)

    commit = ar.commit
    with monkeypatch.context() as patch:
        patch.setattr(ar, "commit", look)
        outcome = run(source, archive, overwrite=True, model=model)
    digest = ar.digest(Path(model).read_bytes())
    assert seen == [[f"model-{digest[:16]}.safetensors", "model.safetensors"]]
    assert outcome.manifest.model_file == f"model-{digest[:16]}.safetensors"
    assert [path.name for path in archive.glob("*.safetensors")] == [outcome.manifest.model_file]
    assert (archive / outcome.manifest.model_file).read_bytes() == Path(model).read_bytes()
    assert_right(archive, source)
    write_image(source / "new.png", 3)
    assert changes(run(source, archive, model=model)) == (1, 0, 0)
    run(source, archive, overwrite=True)
    assert [path.name for path in archive.glob("*.safetensors")] == ["model.safetensors"]
    assert_right(archive, source)


# A floor


def test_lossless_images_stay_and_come_with_later_runs(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "floor"
    run(source, archive, min_psnr_db=100.0)
    write_image(source / "new.png", 8)
    write_image(source / "b2.png", 9)
    assert changes(run(source, archive, min_psnr_db=100.0)) == (1, 1, 0)
    with tsae.open_archive(str(archive)) as opened:
        assert opened.info()["lossless"] == 7
        for key in opened:
            np.testing.assert_array_equal(opened[key], resize(decode_image((source / key).read_bytes())))
    with pytest.raises(InputError, match="--min-psnr: None, but the archive was made with 100"):
        run(source, archive)


def test_what_a_newer_tsae_has_written_is_not_dropped(source: Path, archive: Path, refused: Callable[..., str]) -> None:
    """An update writes the manifest anew, and would lose keys that it does not know."""
    fields = json.loads((archive / "manifest.json").read_text())
    fields = {name: value for name, value in fields.items() if name not in ("format", "format_version", "sha256")}
    rest = json.dumps({**fields, "future": 1}, indent=1).encode()[2:]
    head = b'{"format": "tsae", "format_version": 1, "sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n'
    (archive / "manifest.json").write_bytes(head + rest)
    assert len(list(tsae.open_archive(str(archive)))) > 0
    write_image(source / "new.png", 99)
    line = refused(source)
    assert "future" in line
    assert "update tsae" in line
