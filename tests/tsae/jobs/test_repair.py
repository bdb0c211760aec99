"""Repair: what is saved of each kind of damage, what a later run brings back, and what a repair itself must not do."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines import compress
from pipelines.options import CompressOptions
from tsae import archive as ar
from tsae import open_archive
from tsae.cli import main
from tsae.errors import InputError
from tsae.jobs import plan
from tsae.jobs.repair import Salvage, check_place, repair
from tsae.signs import write_signs

SIGNS, SHARD_IMAGES, LAST = 24, 10, 9
"""Signs are in three shards, nine of them in the last one."""

LOSSLESS = 30.0
"""A floor below which some of the drawn signs come out."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn signs with labels, and a file that is no image."""
    folder = tmp_path_factory.mktemp("repair") / "images"
    write_signs(folder, SIGNS, seed=5)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def intact(images: Path) -> Path:
    """Their archive; not to be changed."""
    archive = images.parent / "archive"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
        compress.run(CompressOptions(str(images), str(archive), min_psnr_db=LOSSLESS, workers=1))
    return archive


@pytest.fixture
def damaged(intact: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "archive"))


def named(archive: Path, kind: str) -> list[Path]:
    return sorted((archive / kind).iterdir())


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_stream(archive: Path, shard: Path) -> str:
    """Flips a bit in the middle of the pages of streams; returns the key whose record that is."""
    reader = ar.Shard.of_file(shard.read_bytes(), "")
    records, _ = reader.read(0)
    flip(shard, shard.read_bytes().index(records.streams[3]) + 100)
    return records.keys[3]


def run(archive: Path, output: Path) -> Salvage:
    """Repairs, and checks what holds for every repair."""
    before = digests(archive)
    salvage = repair(ar.Folder(str(archive)), check_place(ar.Folder(str(archive)), str(output)), 2)
    assert digests(archive) == before
    assert main(["verify", str(output), "--decode"]) == 0
    with open_archive(str(output)) as new:
        keys = list(new)
        assert len(keys) == len(set(keys)) == len(new) == salvage.manifest.images
    return salvage


def check_equal(archive: Path, intact: Path) -> None:
    """Whether all that is in one archive is in the other one, in that order, and alike."""
    with open_archive(str(archive)) as new, open_archive(str(intact)) as old:
        keys = list(new)
        assert keys == [key for key in old if key in set(keys)]
        assert new.to_table().equals(old.to_table().filter([key in set(keys) for key in old]))
        assert np.array_equal(new.decode(keys), old.decode(keys))


def check_brought_back(images: Path, archive: Path, intact: Path) -> None:
    """Whether the command that made the archive brings lost records back into the repaired one."""
    assert main(["compress", str(images), str(archive), "--min-psnr", str(LOSSLESS), "--allow-failures", "--workers", "1"]) == 0
    with open_archive(str(archive)) as new, open_archive(str(intact)) as old:
        assert sorted(new) == sorted(old)
        keys = list(old)
        assert np.array_equal(new.latents(keys), old.latents(keys))
        assert [failure.path for failure in new.failures()] == ["broken.png"]
        assert new.manifest.counts.source_bytes == old.manifest.counts.source_bytes
    assert main(["verify", str(archive)]) == 0


def test_an_intact_archive_is_copied_to_the_byte(intact: Path, tmp_path: Path) -> None:
    salvage = run(intact, tmp_path / "out")
    assert (salvage.lost, salvage.notes) == ([], [])
    old, new = digests(intact), digests(tmp_path / "out")
    assert old.pop("manifest.json") != new.pop("manifest.json")  # its failures table has another number
    assert sorted(new.values()) == sorted(old.values())
    assert {name for name in new if not name.startswith("failures/")} == {
        name for name in old if not name.startswith("failures/")
    }


def test_a_lost_record_is_a_failure_until_the_next_run_brings_it_back(
    damaged: Path, intact: Path, images: Path, tmp_path: Path
) -> None:
    key = flip_stream(damaged, named(damaged, "shards")[1])
    salvage = run(damaged, tmp_path / "out")
    assert salvage.lost == [key]
    assert salvage.manifest.images == SIGNS - 1
    check_equal(tmp_path / "out", intact)
    with open_archive(str(tmp_path / "out")) as new, open_archive(str(intact)) as old:
        assert {failure.path for failure in new.failures()} == {"broken.png", key}
        lost = next(failure for failure in new.failures() if failure.path == key)
        assert "its checksum does not match" in lost.message
        assert new.manifest.settings == old.manifest.settings
    others = {path.name for path in named(intact, "shards")} - {named(intact, "shards")[1].name}
    assert others <= {path.name for path in named(tmp_path / "out", "shards")}
    check_brought_back(images, tmp_path / "out", intact)


def test_a_damaged_footer_costs_nothing(damaged: Path, intact: Path, tmp_path: Path) -> None:
    for shard in named(damaged, "shards"):
        flip(shard, shard.stat().st_size - 300)
    assert run(damaged, tmp_path / "out").manifest.images == SIGNS
    check_equal(tmp_path / "out", intact)


def test_a_shard_that_is_gone_is_known_by_its_provenance(damaged: Path, intact: Path, images: Path, tmp_path: Path) -> None:
    shard = named(damaged, "shards")[0]
    keys = ar.Shard.of_file(shard.read_bytes(), "").keys()
    shard.unlink()
    assert run(damaged, tmp_path / "out").lost == keys
    check_equal(tmp_path / "out", intact)
    check_brought_back(images, tmp_path / "out", intact)


def test_a_lost_record_without_provenance_comes_back_as_well(damaged: Path, intact: Path, images: Path, tmp_path: Path) -> None:
    shutil.rmtree(damaged / "provenance")
    named(damaged, "shards")[2].write_bytes(b"")
    assert run(damaged, tmp_path / "out").lost == []  # nobody knows their keys
    check_equal(tmp_path / "out", intact)
    check_brought_back(images, tmp_path / "out", intact)


def test_a_shard_cut_short_loses_its_only_row_group(damaged: Path, intact: Path, tmp_path: Path) -> None:
    shard = named(damaged, "shards")[2]
    shard.write_bytes(shard.read_bytes()[:2000])
    assert run(damaged, tmp_path / "out").manifest.images == SIGNS - LAST
    check_equal(tmp_path / "out", intact)


def test_the_model_is_taken_from_the_package(damaged: Path, intact: Path, tmp_path: Path) -> None:
    flip(damaged / "model.safetensors", 5000)
    assert main(["verify", str(damaged), "--decode"]) == 1
    run(damaged, tmp_path / "out")
    assert digests(tmp_path / "out")["model.safetensors"] == digests(intact)["model.safetensors"]


def test_a_model_that_is_nowhere_is_asked_for(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tsae.zoo.ZOO", {})
    model = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").unlink()
    assert main(["verify", str(damaged), "--repair", str(tmp_path / "out")]) == 2
    assert f"(SHA-256 {hashlib.sha256(model).hexdigest()}) is lost; put a copy there" in capsys.readouterr().err
    (damaged / "model.safetensors").write_bytes(model)
    run(damaged, tmp_path / "out")


@pytest.mark.parametrize("is_gone", [False, True])
def test_shards_of_a_lost_list_are_found_by_their_names(damaged: Path, intact: Path, tmp_path: Path, is_gone: bool) -> None:
    (shards,) = named(damaged, "lists")
    if is_gone:
        shards.unlink()
    else:
        flip(shards, 100)
    salvage = run(damaged, tmp_path / "out")
    assert salvage.manifest.images == SIGNS
    assert salvage.notes == ["3 shards were found without a list: records that had been replaced may be among them"]
    check_equal(tmp_path / "out", intact)


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_lost_manifest_costs_the_settings_only(
    damaged: Path, intact: Path, images: Path, tmp_path: Path, content: bytes | None
) -> None:
    (damaged / "manifest.json").unlink()
    if content is not None:
        (damaged / "manifest.json").write_bytes(content)
    assert main(["verify", str(damaged)]) == 1
    salvage = run(damaged, tmp_path / "out")
    assert salvage.manifest.images == SIGNS
    assert "make it anew with --overwrite" in salvage.notes[0]
    check_equal(tmp_path / "out", intact)
    with open_archive(str(tmp_path / "out")) as new, open_archive(str(intact)) as old:
        assert new.failures() == old.failures()
        assert new.manifest.preprocessing == old.manifest.preprocessing
    assert main(["compress", str(images), str(tmp_path / "out")]) == 2


def test_manifest_list_and_a_record_lost_at_once(damaged: Path, intact: Path, tmp_path: Path) -> None:
    (damaged / "manifest.json").unlink()
    flip_stream(damaged, named(damaged, "shards")[2])
    salvage = run(damaged, tmp_path / "out")
    assert salvage.manifest.images == SIGNS - 1  # its list still has the footer
    flip(named(damaged, "lists")[0], 100)
    salvage = run(damaged, tmp_path / "other")
    assert salvage.manifest.images == SIGNS - LAST  # without that, a damaged shard is of no use
    check_equal(tmp_path / "other", intact)


def test_without_a_manifest_a_list_is_enough_to_read_damaged_shards(damaged: Path, intact: Path, tmp_path: Path) -> None:
    (damaged / "manifest.json").unlink()
    for shard in named(damaged, "shards"):
        flip(shard, shard.stat().st_size - 300)
    assert run(damaged, tmp_path / "out").manifest.images == SIGNS
    check_equal(tmp_path / "out", intact)


def test_a_shard_that_was_replaced_doubles_nothing(damaged: Path, intact: Path, tmp_path: Path) -> None:
    """Left over from before an update, and another one, it has keys that other shards have as well."""
    shard = ar.Shard.of_file(named(damaged, "shards")[0].read_bytes(), "")
    records, _ = shard.read(0)
    stale = ar.shard_to_bytes(records.take([0, 1, 2]), shard.metadata())
    ar.write_digested(ar.Folder(str(damaged)), "shards", 0, stale, 3)
    assert run(damaged, tmp_path / "out").notes == []  # no list names it, and none is lost
    flip(damaged / "manifest.json", 200)
    assert run(damaged, tmp_path / "other").manifest.images == SIGNS
    check_equal(tmp_path / "other", intact)
    named(damaged, "lists")[0].unlink()
    salvage = run(damaged, tmp_path / "third")
    assert salvage.manifest.images == SIGNS
    assert salvage.lost == []


def test_older_failures_are_kept_as_far_as_they_can_be_read(damaged: Path, tmp_path: Path) -> None:
    flip(named(damaged, "failures")[0], 50)
    salvage = run(damaged, tmp_path / "out")
    assert "the failures in it are no longer known" in salvage.notes[0]
    assert salvage.manifest.failures == ()


def test_a_record_that_failed_later_and_is_lost_now_is_one_failure(damaged: Path, intact: Path, tmp_path: Path) -> None:
    key = flip_stream(damaged, named(damaged, "shards")[0])
    files = ar.ArchiveFiles(str(damaged))
    failures = [*files.failures(), ar.Failure(key, "read", "ImageError", "no longer an image", 3, "4")]
    entry = ar.write_digested(files.folder, "failures", 7, ar.failures_to_bytes(failures), len(failures))
    counts = ar.count(files.folder, files.manifest.lists, 2, files.manifest.counts.skipped)
    (damaged / "manifest.json").write_bytes(
        ar.Manifest(**{**vars(files.manifest), "failures": (entry,), "counts": counts}).to_json()
    )
    assert run(damaged, tmp_path / "out").lost == [key]
    with open_archive(str(tmp_path / "out")) as new:
        assert [(failure.path, failure.size_bytes) for failure in new.failures() if failure.path == key] == [(key, 3)]


def test_nothing_left_is_refused(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in named(damaged, "shards"):
        shard.write_bytes(b"")
    assert main(["verify", str(damaged), "--repair", str(tmp_path / "out")]) == 2
    assert "no intact record was found; restore it from a copy" in capsys.readouterr().err
    (damaged / "manifest.json").unlink()
    named(damaged, "lists")[0].write_bytes(b"")
    assert main(["verify", str(damaged), "--repair", str(tmp_path / "out")]) == 2
    assert "neither its manifest nor a shard is intact" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["archive", "archive/new", "used", "file", "alone", ""])
def test_a_place_that_is_not_free_is_refused(damaged: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = damaged.parent / where if where else Path()
    (damaged.parent / "used").mkdir()
    (damaged.parent / "used" / "mine.txt").write_text("mine")
    (damaged.parent / "alone").mkdir()
    (damaged.parent / "alone" / "model.safetensors").write_text("mine")
    (damaged.parent / "file").write_text("mine")
    before = digests(damaged.parent)
    assert main(["verify", str(damaged), "--repair", str(place) if where else ""]) == 2
    assert "--repair" in capsys.readouterr().err
    assert digests(damaged.parent) == before


def interrupt_write(patch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Lets the writing of that file fail, and of all after it."""
    write, replace, written = ar.Folder.write, ar.Folder.replace, [0]

    def guarded(method: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            if written[0] >= number:
                raise error
            written[0] += 1
            method(*args, **kwargs)

        return call

    patch.setattr(ar.Folder, "write", guarded(write))
    patch.setattr(ar.Folder, "replace", guarded(replace))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_repair_that_ends_early_is_no_archive_and_can_be_run_again(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    flip_stream(damaged, named(damaged, "shards")[1])
    whole = digests(damaged.parent / "whole") if run(damaged, tmp_path / "whole") else {}
    for number in range(len(whole)):
        output = tmp_path / f"out{number}"
        with monkeypatch.context() as patch:
            interrupt_write(patch, number, error)
            folder = ar.Folder(str(damaged))
            with pytest.raises((InputError, KeyboardInterrupt)):
                repair(folder, check_place(folder, str(output)), 1)
        assert not (output / "manifest.json").exists()
        assert len(digests(output)) == number if output.exists() else number == 0
        assert main(["info", str(output)]) == 2
        run(damaged, output)
        assert digests(output) == whole
        shutil.rmtree(output)


def test_leftovers_of_an_interrupted_repair_of_another_archive_are_removed(damaged: Path, tmp_path: Path) -> None:
    leftover = ar.write_digested(ar.Folder(str(tmp_path / "out")), "shards", 9, b"of another one", 1)
    run(damaged, tmp_path / "out")
    assert not (tmp_path / "out" / leftover.file).exists()


def test_in_memory(intact: Path) -> None:
    source, target = ar.Folder("memory://repair/damaged"), "memory://repair/new"
    for name in digests(intact):
        source.write(name, (intact / name).read_bytes())
    source.remove([next(name for name in source.sizes_bytes() if name.startswith("shards/000002"))])
    assert main(["verify", source.path, "--repair", target]) == 1
    assert main(["verify", target, "--decode"]) == 0
    with open_archive(target) as new:
        assert len(new) == SIGNS - LAST
    assert main(["verify", source.path, "--repair", target]) == 2
