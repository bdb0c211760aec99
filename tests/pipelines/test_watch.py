"""`tsae compress --watch`: files that keep coming, in small commits; whatever happens, each has one record."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tsae
from pipelines.options import CompressOptions
from pipelines.watch import Stop, watch
from tests.pipelines.test_update import assert_right, changes, contents, run, write_image
from tsae import archive as ar
from tsae.cli import main
from tsae.errors import BusyError, InputError, TsaeError
from tsae.inputs import trees
from tsae.paths import Folder

REST_S = 0.2
LIMIT_S = 60.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with three images at rest."""
    for name in ("a0", "a1", "a2"):
        put(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def put(path: Path, seed: int | None = None, age_s: float = 1000) -> None:
    """An image that has not changed for some time."""
    write_image(path, seed=sum(path.name.encode()) if seed is None else seed)
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s))


class Steps(Stop):
    """Instead of each wait, does the next thing; then asks for the end."""

    def __init__(self, *things: Callable[[], object]) -> None:
        super().__init__()
        self._things = list(things)

    def wait(self, seconds: float) -> None:
        """Does the next thing."""
        if self._things:
            self._things.pop(0)()
        else:
            self.is_asked = True


def nothing() -> None:
    """Lets one look pass."""


def watched(source: Path | str, archive: Path | str, *things: Callable[[], object], **options: Any) -> Any:
    options = {"watch_s": REST_S, **options}
    return watch(CompressOptions(str(source), str(archive), **options), Steps(*things))


# What comes


def test_each_batch_is_a_commit_and_as_if_compressed_by_hand(source: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def count() -> None:
        with tsae.open_archive(str(tmp_path / "archive")) as archive:
            seen.append(len(archive))

    outcome = watched(
        source, tmp_path / "archive", count, lambda: put(source / "b/1.png"), count, lambda: put(source / "a3.png"), count
    )
    assert seen == [3, 4, 5]
    assert (outcome.manifest.counts.images, outcome.done) == (5, 5)
    assert_right(tmp_path / "archive", source)
    assert changes(run(source, tmp_path / "archive")) == (0, 0, 0)


def test_an_archive_begins_with_the_first_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    archive = tmp_path / "archive"
    assert watched(tmp_path / "in", archive, nothing) is None
    assert not archive.exists()
    outcome = watched(tmp_path / "in", archive, nothing, lambda: put(tmp_path / "in/a.png"), nothing)
    assert outcome.manifest.counts.images == 1
    assert_right(archive, tmp_path / "in")


def test_a_changed_image_takes_the_place_of_its_record(source: Path, tmp_path: Path) -> None:
    def replace() -> None:
        put(tmp_path / "new.png", seed=7)
        os.replace(tmp_path / "new.png", source / "a1.png")

    outcome = watched(source, tmp_path / "archive", replace, nothing)
    assert (outcome.manifest.counts.images, outcome.manifest.counts.shards) == (3, 1)
    assert_right(tmp_path / "archive", source)


def test_a_touched_image_changes_nothing(source: Path, tmp_path: Path) -> None:
    before: list[dict[str, bytes]] = []
    archive = tmp_path / "archive"

    def touch() -> None:
        before.append(contents(archive))
        os.utime(source / "a1.png", (5, 5))

    watched(source, archive, touch, nothing)
    assert contents(archive) == before[0]


def test_a_half_written_image_fails_and_comes_through_when_it_is_whole(source: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.png", source / "b.png"
    write_image(whole, 5)
    archive, failures = tmp_path / "archive", []

    def write_half() -> None:
        half.write_bytes(whole.read_bytes()[:500])
        os.utime(half, (1000, 1000))

    def write_rest() -> None:
        failures.extend(ar.ArchiveFiles(str(archive)).failures())
        half.write_bytes(whole.read_bytes())
        os.utime(half, (2000, 2000))

    outcome = watched(source, archive, write_half, write_rest, nothing)
    assert [failure.path for failure in failures] == ["b.png"]
    assert (outcome.manifest.counts.images, outcome.manifest.counts.failures) == (4, 0)
    assert_right(archive, source)


def test_new_folders_that_give_labels_label_all(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source)
    put(source / "stop/1.png")
    outcome = watched(source, tmp_path / "archive", lambda: put(source / "yield/1.png"), nothing, nothing)
    assert outcome.manifest.counts.images == 2
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        assert {row["key"]: row["label"] for row in archive.rows()} == {"stop/1.png": "stop", "yield/1.png": "yield"}


def test_a_target_is_chosen_once(source: Path, tmp_path: Path) -> None:
    add = lambda: put(source / "b.png")  # noqa: E731 - one of the things that happen
    outcome = watched(source, tmp_path / "archive", add, nothing, target_bytes=10000.0)
    assert outcome.manifest.counts.images == 4
    assert outcome.manifest.settings.target == "10000 bytes"


def test_a_store_is_watched(s3_folder: str) -> None:
    folder = Folder(f"{s3_folder}/in")

    def add(name: str) -> Callable[[], None]:
        return lambda: folder.write(name, picture)

    picture = _picture()
    folder.write("a.png", picture)
    outcome = watched(folder.path, f"{s3_folder}/archive", add("b.png"), add("c.png"), nothing)
    assert outcome.manifest.counts.images == 3
    assert sorted(ar.ArchiveFiles(f"{s3_folder}/archive").keys()) == ["a.png", "b.png", "c.png"]


def _picture() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def test_where_the_records_are_is_remembered(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a key up among thousands of small shards takes seconds."""
    monkeypatch.delattr(ar.ArchiveFiles, "shard_of")

    def change() -> None:
        for name in ("a0", "a2", "b", "c"):
            put(tmp_path / "new.png", seed=99)
            os.replace(tmp_path / "new.png", source / f"{name}.png")
        (source / "d.png").write_bytes(b"no image")
        os.utime(source / "d.png", (5, 5))

    def mend() -> None:
        put(source / "d.png")

    outcome = watched(
        source, tmp_path / "archive", lambda: put(source / "b.png"), lambda: put(source / "c.png"), change, mend, nothing
    )
    assert (outcome.manifest.counts.images, outcome.manifest.counts.failures) == (6, 0)
    assert_right(tmp_path / "archive", source)


def test_it_tells_of_many_small_shards(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.watch.MANY_SHARDS", 2)
    adds = [lambda name=name: put(source / f"{name}.png") for name in "bcdef"]  # type: ignore[misc]
    watched(source, tmp_path / "archive", *adds, nothing)
    told = [line for line in capsys.readouterr().err.splitlines() if "tsae compact" in line]
    assert [line.split()[1] for line in told] == ["2", "4", "6"]


# Others at work


def test_keys_that_somebody_else_has_added_are_not_added_again(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"

    def add_and_compress() -> None:
        put(source / "b.png")
        run(source, archive)
        put(source / "c.png")

    outcome = watched(source, archive, add_and_compress, nothing)
    assert outcome.manifest.counts.images == 5
    assert_right(archive, source)


def test_it_waits_for_another_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "archive"
    plan = archive / ar.PLAN_FILE

    def begin() -> None:
        plan.parent.mkdir()
        plan.write_text("of another command")
        put(source / "b.png")

    def end() -> None:
        assert len(ar.ArchiveFiles(str(archive)).manifest.lists) == 1
        shutil.rmtree(plan.parent)

    outcome = watched(source, archive, begin, nothing, end, nothing)
    assert outcome.manifest.counts.images == 4
    assert capsys.readouterr().err.count("another command is at work there") == 1
    assert_right(archive, source)


def test_what_came_while_all_was_compared_in_vain_is_compressed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when labels became others, and another command began between the comparison and the job."""
    shutil.rmtree(source)
    put(source / "stop/1.png")
    compare, busy = importlib.import_module("pipelines.watch").compress_listing, [False, True]

    def meet(*args: Any) -> Any:
        if len(busy) and busy.pop(0):
            raise BusyError("another command started at the same time")
        return compare(*args)

    monkeypatch.setattr("pipelines.watch.compress_listing", meet)
    outcome = watched(source, tmp_path / "archive", lambda: put(source / "yield/1.png"), nothing, nothing)
    assert not busy
    assert outcome.manifest.counts.images == 2


def test_files_of_old_states_stay_while_they_are_read(source: Path, tmp_path: Path) -> None:
    archive, opened = tmp_path / "archive", []

    def replace_all() -> None:
        opened.append(tsae.open_archive(str(archive)))
        for name in ("a0", "a1", "a2"):
            put(source / f"{name}.png", seed=99)

    def read() -> None:
        (old,) = opened
        assert len(old[:]) == 4
        old.close()

    watched(source, archive, lambda: put(source / "b.png"), replace_all, nothing, lambda: put(source / "c.png"), read, nothing,
            lambda: put(source / "d.png"), nothing)  # fmt: skip
    assert_right(archive, source)


# Kills and ends


@pytest.mark.parametrize("step", ["write_lists", "commit", "clean_up", "clean_up_job", "write_shard"])
def test_a_watch_that_was_killed_goes_on(source: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive"
    watched(source, archive)

    def kill(*_: object) -> None:
        raise RuntimeError("killed")

    def add_and_be_killed() -> None:
        put(source / "c.png")
        monkeypatch.setattr(ar, step, kill)

    # The first commit of a watch looks over the whole archive, the later ones do not.
    before = [] if step == "clean_up" else [lambda: put(source / "b.png")]
    with pytest.raises(RuntimeError, match="killed"):
        watched(source, archive, *before, add_and_be_killed, nothing)
    monkeypatch.undo()
    put(source / "e.png")
    outcome = watched(source, archive, lambda: put(source / "f.png"), nothing)
    assert outcome.manifest.counts.images == len(list(source.iterdir()))
    assert_right(archive, source)


@pytest.fixture
def process(source: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A watch as a command."""
    command = [sys.executable, "-m", "tsae", "compress", str(source), str(tmp_path / "archive"), "--watch", str(REST_S)]
    with subprocess.Popen([*command, "--log-json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def await_images(archive: Path, images: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if ar.read_manifest(Folder(str(archive))).images >= images:
                return
        except TsaeError:
            pass
        time.sleep(0.02)
    pytest.fail(f"not {images} images within {LIMIT_S} s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(process: subprocess.Popen[str], source: Path, tmp_path: Path, number: int) -> None:
    await_images(tmp_path / "archive", 3)
    put(source / "b.png")
    await_images(tmp_path / "archive", 4)
    process.send_signal(number)
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert "4 images, 4 of them now" in out
    events = [json.loads(line) for line in errors.splitlines()]
    assert [(e["new"], e["images"]) for e in events if e["event"] == "committed"] == [(3, 3), (1, 4)]
    assert_right(tmp_path / "archive", source)


def test_a_killed_process_loses_and_doubles_nothing(process: subprocess.Popen[str], source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    await_images(archive, 3)
    for number in range(20):
        put(source / f"b{number}.png")
    deadline = time.monotonic() + LIMIT_S
    while not (archive / "job").exists() and ar.read_manifest(Folder(str(archive))).images < 4:
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    watched(source, archive, nothing)
    assert ar.read_manifest(Folder(str(archive))).images == 23
    assert_right(archive, source)


# Refusals


def test_what_cannot_be_watched_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("in/a0.png\n")
    archive = str(tmp_path / "archive")
    assert main(["compress", str(tmp_path / "list.txt"), archive, "--watch", "1"]) == 2
    assert "no folder and no glob" in capsys.readouterr().err
    assert main(["compress", str(tmp_path / "nowhere"), archive, "--watch", "1"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not Path(archive).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "0"], "must be 0.1 to 86400"),
        (["--watch", "nan"], "must be 0.1 to 86400"),
        (["--watch", "in"], "put --watch last"),
        (["--watch", "1", "--overwrite"], "not allowed with"),
    ],
)
def test_flags_that_cannot_be(
    source: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["compress", str(source), str(tmp_path / "archive"), *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_other_settings_are_refused(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "archive")
    with pytest.raises(InputError, match="start anew with --overwrite"):
        watched(source, tmp_path / "archive", quality=1)


def test_what_a_commit_reads_does_not_grow_with_the_archive(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lists of shards: a commit reads the last one only, and lists neither archive nor input."""
    monkeypatch.setattr(importlib.import_module("tsae.archive.commit"), "LIST_SHARDS", 2)
    monkeypatch.setattr(trees, "COARSE_NS", -(10**18))
    archive, read, listed = tmp_path / "archive", [], []

    def spy() -> None:
        put(source / "sub/d.png")
        folder_read, sizes = Folder.read, Folder.sizes_bytes
        monkeypatch.setattr(Folder, "read", lambda self, name, *more: (read.append(name), folder_read(self, name, *more))[1])
        monkeypatch.setattr(Folder, "sizes_bytes", lambda self: (listed.append(self.path), sizes(self))[1])

    steps = [lambda name=name: put(source / f"{name}.png") for name in "bcdefg"]  # type: ignore[misc]
    watched(source, archive, *steps, nothing, spy, nothing)
    lists = [name for name in read if name.startswith("lists/")]
    assert {name[:12] for name in lists} == {"lists/000003"}, "7 shards in lists of 2: the last one"
    assert str(archive) not in listed
