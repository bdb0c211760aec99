"""Decompressing, end to end through Beam: the same tree, what is missing, what is damaged."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tsae
from pipelines import compress, decompress
from pipelines.options import CompressOptions, DecompressOptions
from tsae import archive as ar
from tsae.archive import ArchiveFiles, Failure, failures_from_bytes
from tsae.cli import main
from tsae.config import Preprocessing
from tsae.errors import FormatError, InputError
from tsae.images import encode_image
from tsae.jobs.decompress import plan, read_records
from tsae.zoo import read_model_file


def run(archive: Path | str, output: Path | str, *flags: str, **options: object) -> tuple[int, int, int]:
    counts = decompress.run(DecompressOptions(str(archive), str(output), **options), flags)  # type: ignore[arg-type]
    return counts.written, counts.present, counts.failed


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_archive(tmp_path: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40 + i, 50, 3), 10 * i, np.uint8)
        Image.fromarray(pixels).save(path)
    compress.run(CompressOptions(str(tmp_path / "in"), str(tmp_path / "archive")))
    return tmp_path / "archive"


def test_the_same_tree_comes_back_with_the_archives_pixels(archive_dir: Path, signs_dir: Path, tmp_path: Path) -> None:
    assert run(archive_dir, tmp_path / "out") == (40, 0, 0)
    names = sorted(path.relative_to(signs_dir).as_posix() for path in signs_dir.rglob("*.png"))
    assert sorted(tree(tmp_path / "out")) == names
    with tsae.open_archive(str(archive_dir)) as archive:
        for key in names:
            image = Image.open(tmp_path / "out" / key)
            assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")
            np.testing.assert_array_equal(np.asarray(image), archive[key])
    assert not Path(f"{tmp_path / 'out'}.failures.parquet").exists()


def test_workers_and_runner_change_no_byte(archive_dir: Path, tmp_path: Path) -> None:
    run(archive_dir, tmp_path / "one", workers=1)
    assert run(archive_dir, tmp_path / "two", workers=2) == (40, 0, 0)
    assert run(archive_dir, tmp_path / "direct", "--runner=DirectRunner") == (40, 0, 0)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "direct")


def test_original_sizes_can_be_restored(archive_dir: Path, signs_dir: Path, tmp_path: Path) -> None:
    run(archive_dir, tmp_path / "out", restore_size=True)
    for path in signs_dir.rglob("*.png"):
        assert Image.open(tmp_path / "out" / path.relative_to(signs_dir)).size == Image.open(path).size


def test_running_again_writes_only_what_is_missing(archive_dir: Path, tmp_path: Path) -> None:
    run(archive_dir, tmp_path / "out")
    before = tree(tmp_path / "out")
    first, second, *_ = sorted(before)
    (tmp_path / "out" / first).unlink()
    (tmp_path / "out" / second).write_bytes(b"edited")
    assert run(archive_dir, tmp_path / "out") == (1, 38, 1)
    assert tree(tmp_path / "out") == {**before, second: b"edited"}
    failures = failures_from_bytes(Path(f"{tmp_path / 'out'}.failures.parquet").read_bytes(), "it")
    assert [(failure.path, failure.stage) for failure in failures] == [(second, "write")]
    assert run(archive_dir, tmp_path / "out", overwrite=True) == (40, 0, 0)
    assert tree(tmp_path / "out") == before


def test_files_of_another_size_are_not_taken_for_outputs(archive_dir: Path, signs_dir: Path, tmp_path: Path) -> None:
    """Such as the originals themselves, or the outputs of a run with other options."""
    originals = shutil.copytree(signs_dir, tmp_path / "originals")
    before = tree(originals)
    assert run(archive_dir, originals) == (0, 0, 40)
    assert tree(originals) == before
    run(archive_dir, tmp_path / "out")
    assert run(archive_dir, tmp_path / "out", restore_size=True) == (0, 0, 40)
    assert run(archive_dir, tmp_path / "out", restore_size=True, overwrite=True) == (40, 0, 0)
    assert run(archive_dir, tmp_path / "out", restore_size=True) == (0, 40, 0)


def failed_paths(output: Path) -> list[str]:
    return [failure.path for failure in failures_beside(output)]


def written_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def test_running_again_unchanged_writes_nothing(archive_dir: Path, tmp_path: Path) -> None:
    run(archive_dir, tmp_path / "out")
    before = written_times(tmp_path / "out")
    assert run(archive_dir, tmp_path / "out") == (0, 40, 0)
    assert len(before) == 40
    assert written_times(tmp_path / "out") == before


@pytest.mark.parametrize("restore_size", [False, True])
def test_the_output_of_an_image_that_changed_is_written_anew(tmp_path: Path, restore_size: bool) -> None:
    """Even if its size did as well."""
    archive, out = make_archive(tmp_path, ["a.png", "b.png", "c.png"]), tmp_path / "out"
    run(archive, out, restore_size=restore_size)
    before, times = tree(out), written_times(out)
    Image.fromarray(np.full((60, 70, 3), 200, np.uint8)).save(tmp_path / "in" / "b.png")
    compress.run(CompressOptions(str(tmp_path / "in"), str(archive)))
    assert run(archive, out, restore_size=restore_size) == (1, 2, 0)
    assert run(archive, tmp_path / "fresh", restore_size=restore_size) == (3, 0, 0)
    assert tree(out) == tree(tmp_path / "fresh")
    assert tree(out)["b.png"] != before["b.png"]
    assert {name for name, time in written_times(out).items() if times[name] != time} == {"b.png"}


def test_outputs_of_another_archive_are_written_anew(tmp_path: Path) -> None:
    names, out = ["a.png", "b.png"], tmp_path / "out"
    first, second = make_archive(tmp_path / "1", names), make_archive(tmp_path / "2", names[::-1])
    assert run(first, out) == (2, 0, 0)
    before = tree(out)
    assert run(second, out) == (2, 0, 0)
    assert tree(out)["a.png"] != before["a.png"]
    assert run(second, out) == (0, 2, 0)
    assert run(first, out) == (2, 0, 0)
    assert (after := tree(out)) == before, f"{after} instead of {before}"  # whole, also where pytest would shorten it


def test_outputs_of_another_model_are_written_anew(archive_dir: Path, tmp_path: Path) -> None:
    """Even if the records are the same, byte for byte."""
    run(archive_dir, tmp_path / "out")
    job, *_ = plan(str(archive_dir), str(tmp_path / "out"), None, False, False)
    assert read_records(0, job).present == 40
    other = read_records(0, dataclasses.replace(job, model_sha256="0" * 64))
    assert (other.present, len(other.records), other.failures) == (0, 40, [])


def test_a_picture_of_the_right_size_that_is_not_ours_is_left_alone(archive_dir: Path, tmp_path: Path) -> None:
    run(archive_dir, tmp_path / "out")
    first, second, third, *_ = sorted(before := tree(tmp_path / "out"))
    before[first] = encode_image(PIXELS)
    before[second] = encode_image(np.asarray(Image.open(tmp_path / "out" / second)))  # saved anew, as by an editor
    before[third] = encode_image(PIXELS, "jpeg")
    for name in (first, second, third):
        (tmp_path / "out" / name).write_bytes(before[name])
    assert run(archive_dir, tmp_path / "out") == (0, 37, 3)
    assert tree(tmp_path / "out") == before
    assert failed_paths(tmp_path / "out") == [first, second, third]


def test_a_damaged_record_leaves_the_picture_that_is_there(archive_dir: Path, tmp_path: Path) -> None:
    """Whether that is stale or not cannot be told, so it is not said to be well."""
    run(archive_dir, tmp_path / "out")
    before = tree(tmp_path / "out")
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    damage(copy, key := sorted(before)[11])
    assert run(copy, tmp_path / "out") == (0, 39, 1)
    assert failed_paths(tmp_path / "out") == [key]
    assert tree(tmp_path / "out") == before


@pytest.fixture
def three_shards(signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tsae.jobs.plan.SHARD_IMAGES", 15)
    compress.run(CompressOptions(str(signs_dir), str(tmp_path / "three")))
    return tmp_path / "three"


def failures_beside(output: Path) -> list[Failure]:
    table = Path(f"{output}.failures.parquet")
    return failures_from_bytes(table.read_bytes(), str(table))


@pytest.mark.parametrize("what", ["missing", "empty", "pages"])
def test_a_lost_shard_does_not_keep_the_others_from_coming_back(three_shards: Path, tmp_path: Path, what: str) -> None:
    """Where not even its keys can be read, its row group stands for them."""
    shard = sorted((three_shards / "shards").iterdir())[1]
    data = shard.read_bytes()
    shard.unlink() if what == "missing" else shard.write_bytes(bytes(len(data)) if what == "pages" else b"")
    written, present, failed = run(three_shards, tmp_path / "out")
    assert (written, present, failed) == (27, 0, 1)
    [failure] = failures_beside(tmp_path / "out")
    assert failure.path.endswith(f"shards/{shard.name} row group 0")
    assert failure.stage == "read"


def test_a_lost_footer_loses_no_image(three_shards: Path, tmp_path: Path) -> None:
    """The lists have copies."""
    shard = sorted((three_shards / "shards").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[-40] ^= 1
    shard.write_bytes(data)
    assert run(three_shards, tmp_path / "out") == (40, 0, 0)


def test_a_lost_list_is_told_as_a_failure_of_each_shard(three_shards: Path, tmp_path: Path) -> None:
    (lists,) = (three_shards / "lists").iterdir()
    lists.unlink()
    written, present, failed = run(three_shards, tmp_path / "out")
    assert (written, present) == (0, 0)
    assert failed == 3
    assert all(lists.name in failure.message for failure in failures_beside(tmp_path / "out"))


def test_a_selection_is_written_and_nothing_else(archive_dir: Path, tmp_path: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        expected = list(archive.keys("s*"))
    written, _, _ = run(archive_dir, tmp_path / "out", select="s*")
    assert 0 < written == len(expected) < 40
    assert sorted(tree(tmp_path / "out")) == expected
    with pytest.raises(InputError, match="matches none of 40"):
        run(archive_dir, tmp_path / "none", select="zzz*")


def test_outputs_that_would_meet_keep_their_whole_keys(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, ["a.png", "a.jpg", "b.ppm", "c/d.bmp", "e.png/f.png", "e.webp", "a.jpg.bmp"])
    assert run(archive, tmp_path / "out") == (7, 0, 0)
    assert sorted(tree(tmp_path / "out")) == [
        "a.jpg.bmp.png",
        "a.jpg.png",
        "a.png.png",
        "b.png",
        "c/d.png",
        "e.png/f.png",
        "e.webp.png",
    ]


def test_names_do_not_depend_on_the_selection(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, ["a.png", "a.jpg"])
    run(archive, tmp_path / "out", select="a.png")
    assert list(tree(tmp_path / "out")) == ["a.png.png"]


def damage(archive: Path, key: str) -> None:
    """Changes one latent of a record and makes all checksums of files and pages agree, so that only the record's can tell."""
    files = ArchiveFiles(str(archive))
    records = files.shard_records(0)
    row, crc32 = records.keys.index(key), records.checksums()
    records.streams[row] = bytes([records.streams[row][0] ^ 1]) + records.streams[row][1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(records), "checksums", lambda self: crc32)
        entry = ar.write_shard(files.folder, 0, records, {}, files.manifest.model_sha256)
    lists = ar.write_lists(files.folder, files, {0: entry}, [])
    ar.commit(files.folder, dataclasses.replace(files.manifest, lists=lists), files.manifest_text)


def test_a_damaged_record_fails_alone_beside_the_output(
    archive_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    with tsae.open_archive(str(archive_dir)) as archive:
        key = list(archive.keys())[11]
    damage(copy, key)
    assert main(["decompress", str(copy), str(tmp_path / "out")]) == 1
    assert len(tree(tmp_path / "out")) == 39
    table = Path(f"{tmp_path / 'out'}.failures.parquet")
    assert [(f.path, f.error) for f in failures_from_bytes(table.read_bytes(), "it")] == [(key, "CorruptDataError")]
    assert str(table) in capfd.readouterr().err
    assert main(["decompress", str(copy), str(tmp_path / "out"), "--allow-failures"]) == 0
    assert run(archive_dir, tmp_path / "out") == (1, 39, 0)
    assert not table.exists()


def flip(archive: Path, find: bytes, offset: int = 0) -> None:
    """Flips a bit in the only shard, near bytes that are in it."""
    (shard,) = (archive / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[data.index(find) + offset] ^= 1
    shard.write_bytes(data)


def test_a_flipped_bit_costs_its_own_image_only(archive_dir: Path, tmp_path: Path) -> None:
    """Not all that share its page."""
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    with tsae.open_archive(str(archive_dir)) as archive:
        key = list(archive.keys())[20]
        flip(copy, archive.record(key).streams[0], 100)
    assert run(copy, tmp_path / "out") == (39, 0, 1)
    assert [(f.path, f.stage, f.error) for f in failures_beside(tmp_path / "out")] == [(key, "read", "CorruptDataError")]
    run(archive_dir, tmp_path / "intact")
    intact = tree(tmp_path / "intact")
    assert tree(tmp_path / "out") == {name: data for name, data in intact.items() if name != key}


def test_the_images_of_a_damaged_page_are_named(archive_dir: Path, tmp_path: Path) -> None:
    """Bytes that tell where streams end: what is left cannot be told apart, but for the keys."""
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    with tsae.open_archive(str(archive_dir)) as archive:
        flip(copy, archive.record(next(archive.keys())).streams[0], -10)
        assert run(copy, tmp_path / "out") == (0, 0, 40)
        assert [failure.path for failure in failures_beside(tmp_path / "out")] == list(archive)


def test_memory_urls_work_like_folders(archive_dir: Path, tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.put(str(archive_dir), "/decompress-test/archive", recursive=True)
    assert run("memory://decompress-test/archive", "memory://decompress-test/out") == (40, 0, 0)
    assert run("memory://decompress-test/archive", "memory://decompress-test/out") == (0, 40, 0)
    files.get("/decompress-test/out", str(tmp_path / "from-memory"), recursive=True)
    run(archive_dir, tmp_path / "local")
    assert tree(tmp_path / "from-memory") == tree(tmp_path / "local")
    files.rm("/decompress-test", recursive=True)


def test_what_is_no_archive_is_refused(tmp_path: Path, archive_dir: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("missing", "empty"):
        with pytest.raises(FormatError, match="not an archive"):
            run(tmp_path / place, tmp_path / "out")
    with pytest.raises(InputError, match="inside the archive"):
        run(archive_dir, archive_dir / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run(archive_dir, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_an_archive_without_its_model_is_refused_before_anything_is_written(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        run(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["../up.png", "/absolute.png", "a//b.png", "a/../b.png", "./a.png", "", "C:/x.png", "a\0.png"])
def test_a_hostile_key_is_never_written(key: str, tmp_path: Path) -> None:
    """An archive that somebody crafted: its checksums hold, its keys would leave the folder."""
    model = read_model_file("seed-8x8x8")
    sha256, one = ar.digest(model), np.ones(1, np.uint32)
    records = ar.Records(
        [key], one, one, [None], one.astype(np.float32), one.astype(np.uint8), [bytes(512)], [encode_image(PIXELS, "webp")]
    )
    folder = ar.Folder(str(tmp_path / "x" / "archive"))
    lists = ar.write_lists(folder, None, {}, [ar.write_shard(folder, 0, records, {}, sha256)])
    manifest = ar.Manifest(
        requires=(),
        model="seed-8x8x8",
        model_file=ar.MODEL_FILE,
        model_bytes=len(model),
        model_sha256=sha256,
        latent_shape=(8, 8, 8),
        preprocessing=Preprocessing().to_json(),
        settings=ar.Settings("/in", "/in", True, None),
        created_by="me",
        counts=ar.count(folder, lists, 0, 0),
        lists=lists,
        failures=(),
    )
    ar.write(folder, ar.MODEL_FILE, model)
    ar.commit(folder, manifest, None)
    before = tree(tmp_path)
    assert run(tmp_path / "x" / "archive", tmp_path / "x" / "out") == (0, 0, 1)
    assert tree(tmp_path).keys() - before.keys() == {"x/out.failures.parquet"}


PIXELS = np.zeros((32, 32, 3), np.uint8)
