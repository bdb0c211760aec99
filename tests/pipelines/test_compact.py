"""Compaction beside `tsae compress`: what it leaves is an archive like any other, whatever happens to either of them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tsae
from pipelines import compress
from pipelines.options import CompressOptions
from pipelines.watch import Stop, watch
from tests.pipelines import faults
from tsae import archive as ar
from tsae.cli import main
from tsae.errors import InputError
from tsae.jobs import plan
from tsae.jobs.claim import take_claim
from tsae.jobs.compact import CompactOptions, compact
from tsae.signs import write_signs

SHARD_IMAGES = 8


def update(source: Path, archive: Path | str) -> compress.Outcome:
    return compress.run(CompressOptions(str(source), str(archive), workers=1))


def pixels(archive: Path) -> dict[str, np.ndarray]:
    with tsae.open_archive(str(archive)) as opened:
        keys = list(opened)
        return dict(zip(keys, opened.decode(keys), strict=True))


def check_pixels(archive: Path, expected: dict[str, np.ndarray]) -> None:
    found = pixels(archive)
    assert found.keys() == expected.keys()
    for key, image in expected.items():
        np.testing.assert_array_equal(found[key], image)


def check_tidy(archive: Path) -> None:
    folder = ar.Folder(str(archive))
    assert set(folder.sizes_bytes()) == ar.named_files(folder, ar.read_manifest(folder))


def grow(source: Path, archive: Path, commits: int, images: int) -> None:
    """Commits of some images each, the keys of each between those of all others."""
    names = write_signs(source.with_name("drawn"), commits * images)
    for commit in range(commits):
        for name in names[commit::commits]:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((source.with_name("drawn") / name).read_bytes())
        update(source, archive)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in"


@pytest.fixture
def archive(source: Path, tmp_path: Path, small_shards: None) -> Path:
    """Of ten commits of two images."""
    grow(source, tmp_path / "archive", 10, 2)
    return tmp_path / "archive"


def test_pixels_stay_and_nothing_has_changed_for_compress(source: Path, archive: Path) -> None:
    before = pixels(archive)
    assert compact(CompactOptions(str(archive))).shards_after == 3
    check_pixels(archive, before)
    check_tidy(archive)
    outcome = update(source, archive)
    assert outcome.changes is not None
    assert not outcome.changes.is_needed
    name = next(iter(before))
    (source / name).write_bytes((source / list(before)[1]).read_bytes())
    changed = update(source, archive).changes
    assert changed is not None
    assert (changed.new, changed.changed) == (0, 1)
    check_tidy(archive)


def test_what_was_removed_comes_back_with_its_file_only(source: Path, archive: Path) -> None:
    name = next(iter(pixels(archive)))
    compact(CompactOptions(str(archive), remove=[name]))
    with tsae.open_archive(str(archive)) as opened:
        assert name not in opened
    (source / name).unlink()
    assert update(source, archive).changes.new == 0  # type: ignore[union-attr]


def test_readers_of_the_old_state_keep_working_until_they_close(archive: Path) -> None:
    before = pixels(archive)
    reader = tsae.open_archive(str(archive))
    compact(CompactOptions(str(archive)))
    check_pixels(archive, before)
    for key, image in before.items():
        np.testing.assert_array_equal(reader[key], image)
    assert len(ar.Folder(str(archive)).sizes_bytes()) > 20
    reader.close()
    assert not compact(CompactOptions(str(archive))).is_changed
    check_tidy(archive)
    check_pixels(archive, before)


def test_a_claim_that_was_left_is_in_the_way_of_no_command(source: Path, archive: Path, tmp_path: Path) -> None:
    write_signs(source, 22)
    take_claim(ar.Folder(str(archive)), "compact")
    with pytest.raises(InputError, match="has no job to resume; run the command without --resume"):
        compress.run(CompressOptions(str(source), str(archive), resume=True))
    update(source, archive)
    check_tidy(archive)
    take_claim(ar.Folder(str(archive)), "compact")
    compress.run(CompressOptions(str(source), str(archive), overwrite=True))
    check_tidy(archive)


def test_beside_a_watch(source: Path, archive: Path) -> None:
    """Images keep coming, in small commits, while the archive is compacted again and again."""
    stop, ended = Stop(), []
    options = CompressOptions(str(source), str(archive), watch_s=0.1, workers=1)
    thread = threading.Thread(target=lambda: ended.append(watch(options, stop)))
    thread.start()
    drawn = source.with_name("more")
    names = write_signs(drawn, 30, seed=9)
    try:
        for start in range(0, 30, 3):
            for name in names[start : start + 3]:
                (source / f"new-{name}".replace("/", "-")).write_bytes((drawn / name).read_bytes())
            compact(CompactOptions(str(archive)))
            ended.append(None) if not thread.is_alive() else None
    finally:
        _wait_for_images(archive, 50)
        stop.is_asked = True
        thread.join(60)
    assert len(ended) == 1
    compact(CompactOptions(str(archive)))
    check_tidy(archive)
    found = pixels(archive)
    assert len(found) == 50
    fresh = archive.with_name("fresh")
    update(source, fresh)
    check_pixels(archive, pixels(fresh))


def _wait_for_images(archive: Path, images: int) -> None:
    pause = threading.Event()
    for _ in range(600):
        if ar.read_manifest(ar.Folder(str(archive))).images >= images:
            return
        pause.wait(0.05)


# Accidents


@dataclasses.dataclass(frozen=True)
class Scene:
    """An archive of small shards, its input, and what compaction makes of it."""

    source: Path
    base: Path
    old: dict[str, bytes]
    new: dict[str, bytes]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = faults.Runner(tmp_path_factory.mktemp("runner"))
    running.shard_images = SHARD_IMAGES
    yield running
    running.close()


@pytest.fixture(scope="module")
def scene(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
        grow(folder / "in", folder / "base", 6, 2)
    done = faults.copy_archive(folder / "base", folder / "done")
    assert runner.run(["compact", done]).code == 0
    return Scene(folder / "in", folder / "base", faults.files_of(folder / "base"), faults.files_of(done))


def check_visible(archive: Path, scene: Scene) -> bool:
    """A reader sees the old state or the new one, whole; returns whether it is the new one."""
    found = faults.files_of(archive)
    is_new = found["manifest.json"] == scene.new["manifest.json"]
    state = scene.new if is_new else scene.old
    assert {name: found.get(name) for name in state if name[-1] != "/"} == {n: d for n, d in state.items() if n[-1] != "/"}
    strange = [name for name in found if name[-1] != "/" and name not in scene.old | scene.new]
    assert all(map(ar.is_leftover, strange))
    return is_new


def check_goes_on(runner: Any, archive: Path, scene: Scene, by_compress: bool) -> None:
    """Compaction again, or a compression of one image more, finishes and leaves nothing behind."""
    if by_compress:
        extra = archive.with_name(f"{archive.name}-in")
        faults.copy_archive(scene.source, extra)
        first = min(path for path in extra.rglob("*.png"))
        ended = runner.run(["compress", extra, archive, "--overwrite"])
        assert ended.code == 0, ended.err
        assert first.exists()
        check_tidy(archive)
        return
    ended = runner.run(["compact", archive])
    assert ended.code == 0, ended.err
    found = {name: data for name, data in faults.files_of(archive).items() if name[-1] != "/"}
    assert found == {name: data for name, data in scene.new.items() if name[-1] != "/"}


def test_a_kill_between_any_two_file_operations(scene: Scene, runner: Any, tmp_path: Path) -> None:
    archive = faults.copy_archive(scene.base, tmp_path / "archive")
    (tmp_path / "copies").mkdir()
    fault = faults.Fault(faults.SYNCED, how="snapshot", folder=str(tmp_path / "copies"), archive=str(archive))
    assert runner.run(["compact", archive], fault).code == 0
    copies = sorted(path for path in (tmp_path / "copies").iterdir() if path.is_dir())
    seen = [check_visible(copy, scene) for copy in copies if copy.name != "0000"]  # which is of the end
    assert len(copies) > 20
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    for number, copy in enumerate(copies):
        check_goes_on(runner, copy, scene, by_compress=number % 5 == 4)


@pytest.mark.slow
def test_a_real_kill_between_any_two_file_operations(scene: Scene, runner: Any, tmp_path: Path) -> None:
    for at in itertools.count(1):
        archive = faults.copy_archive(scene.base, tmp_path / f"{at}")
        ended = runner.run(["compact", archive], faults.Fault(at=at, how="kill", archive=str(archive)))
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL
        check_visible(archive, scene)
        check_goes_on(runner, archive, scene, by_compress=at % 5 == 4)
    assert at > 20


@pytest.mark.parametrize("code", [28, 5])
def test_an_error_of_the_disk_at_any_operation(scene: Scene, runner: Any, tmp_path: Path, code: int) -> None:
    for at in itertools.count(1 if code == 28 else 2, 3):
        archive = faults.copy_archive(scene.base, tmp_path / f"{at}")
        fault = faults.Fault(faults.SYNCED, at=at, how="error", code=code, archive=str(archive))
        ended = runner.run(["compact", archive], fault)
        if faults.MET not in ended.err:
            break
        if ended.code:
            assert "tsae: error: " in ended.err.splitlines()[-1]
            assert "Traceback" not in ended.err
        check_visible(archive, scene)
        check_goes_on(runner, archive, scene, by_compress=False)
    assert at > 20


def test_two_at_once(scene: Scene, runner: Any, tmp_path: Path) -> None:
    for attempt in range(3):
        archive = faults.copy_archive(scene.base, tmp_path / f"{attempt}")
        running = [runner.start(["compact", archive]) for _ in range(2)]
        assert [command.end().code for command in running] == [0, 0]
        check_goes_on(runner, archive, scene, by_compress=False)


# The command line


def test_what_the_command_says(source: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compact", str(archive)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{archive}: 10 -> 3 shards, 20 images, ")
    assert " bytes, " in said.out
    assert said.err == ""
    before = faults.files_of(archive)
    assert main(["compact", str(archive), "--all"]) == 0
    assert capsys.readouterr().out.startswith(f"{archive}: nothing to do, 3 shards, 20 images, ")
    assert faults.files_of(archive) == before
    name = next(iter(pixels(archive)))
    assert main(["compact", str(archive), "--remove", name, "nothing-of-the-kind*"]) == 0
    said = capsys.readouterr()
    assert "19 images, 1 record removed" in said.out
    assert "tsae compress adds it again" in said.err
    assert main(["compact", str(archive), "--remove", "*"]) == 2
    assert "tsae: error: " in capsys.readouterr().err
    assert main(["compact", str(archive), "--grace", "-1"]) == 2
    assert "--grace -1.0" in capsys.readouterr().err
    (source / next(iter(pixels(archive)))).unlink()
    assert main(["compact", str(archive), "--remove-missing", "--log-json"]) == 0
    said = capsys.readouterr()
    assert "18 images, 1 record removed" in said.out
    assert '"event": "compacted"' in said.err
    assert '"removed": 1' in said.err


def test_there_must_be_an_archive_to_compact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", str(tmp_path)]) == 2
    assert "not an archive" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
