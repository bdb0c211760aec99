"""Decompressing, end to end through Beam: the same tree, what is missing, what is damaged."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tsae
from pipelines import compress, decompress
from pipelines.options import CompressOptions, DecompressOptions
from tsae.archive import failures_from_bytes
from tsae.cli import main
from tsae.errors import FormatError, InputError


def run(archive: Path | str, output: Path | str, *flags: str, **options: object) -> tuple[int, int, int]:
    counts = decompress.run(DecompressOptions(str(archive), str(output), **options), flags)  # type: ignore[arg-type]
    return counts.get("images-written", 0), counts.get("images-present", 0), counts.get("images-failed", 0)


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


@pytest.fixture
def three_shards(signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tsae.jobs.plan.SHARD_IMAGES", 15)
    compress.run(CompressOptions(str(signs_dir), str(tmp_path / "three")))
    return tmp_path / "three"


@pytest.mark.parametrize("what", ["missing", "footer"])
def test_a_lost_shard_does_not_keep_the_others_from_coming_back(three_shards: Path, tmp_path: Path, what: str) -> None:
    shard = sorted((three_shards / "shards").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[-40] ^= 1
    shard.unlink() if what == "missing" else shard.write_bytes(data)
    written, present, failed = run(three_shards, tmp_path / "out")
    assert (written, present, failed) == (27, 0, 1)
    [failure] = failures_from_bytes(Path(f"{tmp_path / 'out'}.failures.parquet").read_bytes(), "it")
    assert failure.path == f"shards/{shard.name} (13 images)"


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
    """Changes one latent of a record and makes Parquet's own page checksum agree, so that only the record's can tell."""
    import hashlib
    import json

    from tsae.archive import ShardReader, concatenate, shard_to_bytes

    manifest = json.loads((archive / "manifest.json").read_text())
    entry = next(shard for shard in manifest["shards"] if shard["first_key"] <= key <= shard["last_key"])
    reader = ShardReader(io.BytesIO((archive / entry["file"]).read_bytes()), "it")
    records = concatenate([reader.read(group)[0] for group in range(reader.row_groups)])
    row = records.keys.index(key)
    crc32 = records.checksums()
    records.streams[row] = bytes([records.streams[row][0] ^ 1]) + records.streams[row][1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(records), "checksums", lambda self: crc32)
        data = shard_to_bytes(records, reader.metadata())
    (archive / entry["file"]).write_bytes(data)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (archive / "manifest.json").write_text(json.dumps(manifest))


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


def test_the_images_of_a_damaged_page_are_named(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    with tsae.open_archive(str(archive_dir)) as archive:
        stream = archive.record(next(archive.keys())).streams[0]
    shard = next((copy / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[data.find(stream)] ^= 1
    shard.write_bytes(data)
    assert run(copy, tmp_path / "out") == (0, 0, 40)
    failures = failures_from_bytes(Path(f"{tmp_path / 'out'}.failures.parquet").read_bytes(), "it")
    with tsae.open_archive(str(archive_dir)) as archive:
        assert [failure.path for failure in failures] == list(archive)


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


@pytest.mark.parametrize("key", ["../up.png", "/absolute.png", "a//b.png", "a/../b.png", "./a.png", ""])
def test_a_hostile_key_is_never_written(key: str, tmp_path: Path) -> None:
    """An archive that somebody crafted: its checksums hold, its keys would leave the folder."""
    import hashlib

    from tsae.archive import Folder, Manifest, Records, ShardEntry, commit, shard_to_bytes, write_digested
    from tsae.config import Preprocessing
    from tsae.zoo import read_model_file

    model = read_model_file("seed-8x8x8")
    sha256 = hashlib.sha256(model).hexdigest()
    one = np.ones(1, np.uint32)
    records = Records([key], one, one, [None], one.astype(np.uint8), [bytes(512)])
    data = shard_to_bytes(records, {"format_version": 1, "model_sha256": sha256})
    folder = Folder(str(tmp_path / "x" / "archive"))
    entry = ShardEntry(
        *write_digested(folder, "shards", 0, data)[:1], 1, len(data), hashlib.sha256(data).hexdigest(), key, key, 512
    )
    preprocessing = Preprocessing().to_json()
    commit(folder, Manifest("seed-8x8x8", sha256, preprocessing, "me", 0, 0, (entry,), ()), model)
    before = tree(tmp_path)
    assert run(tmp_path / "x" / "archive", tmp_path / "x" / "out") == (0, 0, 1)
    assert tree(tmp_path).keys() - before.keys() == {"x/out.failures.parquet"}
