"""Compressing, end to end through Beam: what goes in, what is refused, what fails alone."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import tsae
from pipelines import compress, decompress
from pipelines.options import CompressOptions, DecompressOptions
from tsae.archive import Failure
from tsae.cli import main
from tsae.errors import InputError, ModelError
from tsae.images import decode_image, resize
from tsae.progress import SharedCount, Tally
from tsae.zoo import names, read_model_file


def run(source: Path | str, archive: Path | str, *flags: str, **options: object) -> tsae.Archive:
    compress.run(CompressOptions(str(source), str(archive), **options), flags)  # type: ignore[arg-type]
    return tsae.open_archive(str(archive))


def streams(archive: tsae.Archive) -> dict[str, bytes]:
    return {key: archive.record(key).streams[0] for key in archive}


def write_image(path: Path, seed: int = 0, **options: object) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good images."""
    for i in range(3):
        write_image(tmp_path / "in" / f"good{i}.png", i)
    return tmp_path / "in"


def test_png_and_ppm_of_the_same_pixels_give_the_same_latents(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    for path in signs_dir.rglob("*.png"):
        target = (tmp_path / "ppm" / path.relative_to(signs_dir)).with_suffix(".ppm")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    from_ppm = streams(run(tmp_path / "ppm", tmp_path / "archive"))
    from_png = streams(tsae.open_archive(str(archive_dir)))
    assert from_ppm == {key.replace(".png", ".ppm"): stream for key, stream in from_png.items()}


def files_of(archive: Path) -> dict[str, bytes]:
    return {path.relative_to(archive).as_posix(): path.read_bytes() for path in archive.rglob("*") if path.is_file()}


def test_worker_count_and_runner_change_no_byte(
    signs_dir: Path, archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(signs_dir, tmp_path / "direct", "--runner=DirectRunner")
    assert files_of(tmp_path / "direct") == files_of(archive_dir)
    monkeypatch.setattr("tsae.jobs.plan.SHARD_IMAGES", 9)
    run(signs_dir, tmp_path / "one", workers=1)
    run(signs_dir, tmp_path / "two", workers=2)
    kinds = [name.partition("/")[0] for name in files_of(tmp_path / "one")]
    assert sorted(set(kinds)) == ["lists", "manifest.json", "model.safetensors", "provenance", "shards"]
    assert (kinds.count("lists"), kinds.count("shards"), kinds.count("provenance")) == (1, 8, 8)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert streams(tsae.open_archive(str(tmp_path / "one"))) == streams(tsae.open_archive(str(archive_dir)))


def test_a_list_in_any_order_gives_the_archive_of_the_folder(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    names = [path.relative_to(signs_dir).as_posix() for path in signs_dir.rglob("*.png")]
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(np.random.default_rng(0).permutation(names)) + "\n")
    run(listing, tmp_path / "archive", root=str(signs_dir))
    shard = {name: data for name, data in files_of(tmp_path / "archive").items() if name.startswith("shards/")}
    assert shard == {name: data for name, data in files_of(archive_dir).items() if name.startswith("shards/")}


def test_memory_urls_work_like_folders(signs_dir: Path, archive_dir: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.put(str(signs_dir), "/compress-test/in", recursive=True)
    with run("memory://compress-test/in", "memory://compress-test/archive", workers=2) as archive:
        assert streams(archive) == streams(tsae.open_archive(str(archive_dir)))
    files.rm("/compress-test", recursive=True)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_each_bad_file_fails_alone_and_is_named(folder: Path, tmp_path: Path) -> None:
    good_png = (folder / "good0.png").read_bytes()
    write_image(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-500])
    (folder / "truncated.png").write_bytes(good_png[: len(good_png) // 2])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "broken-link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.md").write_text("skipped")
    (folder / "folder.png").mkdir()
    write_image(folder / "folder.png" / "inside.png", 9)
    with run(folder, tmp_path / "archive") as archive:
        assert list(archive.keys()) == ["folder.png/inside.png", "good0.png", "good1.png", "good2.png", "whole.jpg"]
        failures = {failure.path: failure for failure in archive.failures()}
        info = archive.info()
    assert failures.keys() == {
        "truncated.jpg",
        "truncated.png",
        "zero.png",
        "text.png",
        "bomb.png",
        "broken-link.png",
        "pipe.png",
    }
    assert {name: failure.stage for name, failure in failures.items() if failure.stage == "read"} == {
        "broken-link.png": "read",
        "pipe.png": "read",
    }
    assert "pixels" in failures["bomb.png"].message
    assert "No such file" in failures["broken-link.png"].message
    assert all(failure.message and "\n" not in failure.message for failure in failures.values())
    assert (info["images"], info["failures"], info["skipped"]) == (5, 7, 1)


def test_names_of_every_kind_come_through_or_are_escaped(tmp_path: Path) -> None:
    names = ["with space.png", "new\nline.png", "ünï-日本.png", "quote'\".png", "-dash.png", "a*b[1].png", "tab\t.png"]
    for i, name in enumerate(names):
        write_image(tmp_path / "in" / name, i)
    good = (tmp_path / "in" / names[0]).read_bytes()
    with open(os.fsencode(tmp_path / "in") + b"/bad\xff.png", "wb") as file:
        file.write(good)
    with run(tmp_path / "in", tmp_path / "archive") as archive:
        assert list(archive.keys()) == sorted(names)
        assert [failure.path for failure in archive.failures()] == ["bad%FF.png"]


def test_only_failures_still_make_an_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no")
    assert main(["compress", str(tmp_path / "in"), str(tmp_path / "archive")]) == 1
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        assert len(archive) == 0
        assert [failure.path for failure in archive.failures()] == ["a.png"]
        assert archive.info()["bytes_per_image"] is None
        with pytest.raises(KeyError):
            archive["a.png"]


def test_an_unreadable_file_and_folder_fail_alone(folder: Path, tmp_path: Path, as_nobody: object) -> None:
    write_image(folder / "secret.png", 7).chmod(0)
    write_image(folder / "locked" / "inside.png", 8)
    (folder / "locked").chmod(0)
    with as_nobody(folder, tmp_path):  # type: ignore[operator]
        from tsae.inputs import list_inputs, read_input

        listing = list_inputs(str(folder))
        assert [failure.path for failure in listing.failures] == ["locked/"]
        with pytest.raises(tsae.TsaeError, match="Permission denied"):
            read_input(str(folder), "secret.png")
    assert "good0.png" in listing.keys
    (folder / "locked").chmod(0o755)


@pytest.fixture
def as_nobody() -> object:
    """A block that runs without root's right to read everything."""
    import contextlib

    @contextlib.contextmanager
    def drop(*paths: Path) -> object:  # type: ignore[misc]
        if os.geteuid() != 0:
            yield
            return
        opened = []
        for path in {parent for given in paths for parent in [given, *given.parents]}:
            if path.stat().st_mode & 0o055 != 0o055:
                opened.append((path, path.stat().st_mode))
                path.chmod(path.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
            for path, mode in opened:
                path.chmod(mode)

    return drop


def refused(source: Path | str, archive: Path | str, capfd: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that a refused command prints; it changes nothing."""
    before = files_of(Path(archive)) if Path(archive).is_dir() else None
    assert main(["compress", str(source), str(archive), *flags]) == 2
    assert (files_of(Path(archive)) if Path(archive).is_dir() else None) == before
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("tsae: error: ")
    assert err.count("\n") == 1
    return err


def test_inputs_without_images_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    assert "no image found" in refused(tmp_path / "empty", tmp_path / "archive", capfd)
    assert "1 files with other endings" in refused(tmp_path / "texts", tmp_path / "archive", capfd)
    assert "not there" in refused(tmp_path / "missing", tmp_path / "archive", capfd)
    assert "no image found" in refused(tmp_path / "texts" / "*.png", tmp_path / "archive", capfd)
    assert not (tmp_path / "archive").exists()


def test_outputs_that_would_lose_something_are_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert "thesis.txt" in refused(folder, tmp_path / "other", capfd)
    assert "thesis.txt" in refused(folder, tmp_path / "other", capfd, "--overwrite")
    assert "is a file" in refused(folder, tmp_path / "file", capfd)
    assert "inside the input" in refused(folder, folder / "archive", capfd)
    assert "inside the input" in refused(folder, tmp_path, capfd)
    assert "inside the input" in refused(folder, folder, capfd)


def test_the_manifest_of_an_app_is_never_replaced(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    web = tmp_path / "web"
    (web / "css").mkdir(parents=True)
    (web / "css" / "a.css").write_text("mine")
    (web / "manifest.json").write_text('{"name": "app"}')
    before = files_of(web)
    for flags in ([], ["--overwrite"]):
        assert "holds something else (manifest.json)" in refused(folder, web, capfd, *flags)
    assert files_of(web) == before


def test_the_shards_of_an_archive_without_manifest_survive(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    run(folder, archive).close()
    for name in ("manifest.json", "model.safetensors"):  # no model: only files that a killed job may leave too
        (archive / name).unlink()
    before = files_of(archive)
    capfd.readouterr()
    line = refused(folder, archive, capfd)
    assert f"tsae verify {archive} --repair OUT" in line
    assert "--overwrite" in line
    assert files_of(archive) == before
    with run(folder, archive, overwrite=True) as replaced:
        assert list(replaced.keys()) == ["good0.png", "good1.png", "good2.png"]


def test_an_archive_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    """Without --overwrite the second run adds: what has gone from the input stays."""
    run(folder, tmp_path / "archive")
    (tmp_path / "archive" / "my-notes.txt").write_text("kept")
    (folder / "good0.png").unlink()
    write_image(folder / "new.png", 11)
    with run(folder, tmp_path / "archive") as archive:
        assert list(archive.keys()) == ["good0.png", "good1.png", "good2.png", "new.png"]
    with run(folder, tmp_path / "archive", overwrite=True) as archive:
        assert list(archive.keys()) == ["good1.png", "good2.png", "new.png"]
    assert len(list((tmp_path / "archive" / "shards").iterdir())) == 1
    assert (tmp_path / "archive" / "my-notes.txt").read_text() == "kept"


def test_a_link_into_the_input_is_seen_through(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert "inside the input" in refused(folder, tmp_path / "link" / "archive", capfd)


@pytest.mark.parametrize("name", names("codec"))
def test_unusable_models_are_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    model = read_model_file(name)
    (tmp_path / "short.safetensors").write_bytes(model[:5000])
    size = int.from_bytes(model[:8], "little")
    future = model[8 : 8 + size].replace(b'\\"format_version\\": 1', b'\\"format_version\\": 7')
    (tmp_path / "future.safetensors").write_bytes(len(future).to_bytes(8, "little") + future + model[8 + size :])
    assert "damaged" in refused(folder, tmp_path / "archive", capfd, f"--model={tmp_path / 'short.safetensors'}")
    assert "update tsae" in refused(folder, tmp_path / "archive", capfd, f"--model={tmp_path / 'future.safetensors'}")
    assert "no model of that name" in refused(folder, tmp_path / "archive", capfd, "--model=none")
    with pytest.raises(ModelError):
        run(folder, tmp_path / "archive", model=str(tmp_path / "short.safetensors"))


@pytest.mark.parametrize("flags", [["--workers=0"], ["--no-such-flag"], ["--runner=DirectRunner", "--no-such-flag"]])
def test_wrong_flags_are_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert flags[-1].split("=")[0] in refused(folder, tmp_path / "archive", capfd, *flags)
    assert not (tmp_path / "archive").exists()


def test_images_listed_twice_are_compressed_once(folder: Path, tmp_path: Path) -> None:
    (folder / "list.txt").write_text(f"good0.png\n./good0.png\n{folder}/good0.png\ngood1.png\n")
    with run(folder / "list.txt", tmp_path / "archive") as archive:
        assert list(archive.keys()) == ["good0.png", "good1.png"]


FULL_DISK = """
import resource, sys
from tsae.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(["compress", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more_ends_the_job_in_one_line(signs_dir: Path, tmp_path: Path, workers: int) -> None:
    """No file may grow beyond 10 kB: the model, the first file to be written, is larger."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FULL_DISK, "10000", str(signs_dir), str(tmp_path / "archive"), f"--workers={workers}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "cannot be written" in errors[0]
    assert not (tmp_path / "archive" / "manifest.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small filesystem needs root")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_filesystem_ends_the_job_in_one_line(tmp_path: Path, workers: int) -> None:
    """The model and the listing fit, the shards do not: the workers meet the error."""
    for i in range(400):
        write_image(tmp_path / "in" / f"{i:03d}.png", i)
    (tmp_path / "small").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path / "small")], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.decode()}")
    try:
        code = "import sys, tsae.jobs.plan as c; c.SHARD_IMAGES = 200; from tsae.cli import main; sys.exit(main(sys.argv[1:]))"
        archive = tmp_path / "small" / "archive"
        command = [sys.executable, "-c", code, "compress", str(tmp_path / "in"), str(archive), f"--workers={workers}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert [line for line in done.stderr.splitlines() if "error" in line] == [done.stderr.splitlines()[-1]]
        assert "No space left on device" in done.stderr
        assert not (archive / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_transparent_grey_and_16_bit_images_follow_the_policy(tmp_path: Path) -> None:
    """Through the whole pipeline: each odd file gives the stream of the RGB image it should be read as."""
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    grey = np.random.default_rng(1).integers(0, 65536, (32, 32), np.uint16)
    (tmp_path / "in").mkdir()
    Image.fromarray(rgba).save(tmp_path / "in" / "alpha.png")
    Image.fromarray(grey).save(tmp_path / "in" / "grey16.png")
    expected = {
        "alpha-rgb.png": resize(decode_image((tmp_path / "in" / "alpha.png").read_bytes())),
        "grey16-rgb.png": np.repeat(np.rint(grey / 257).astype(np.uint8)[:, :, None], 3, 2),
    }
    for name, pixels in expected.items():
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    found = streams(run(tmp_path / "in", tmp_path / "archive"))
    assert found["alpha.png"] == found["alpha-rgb.png"]
    assert found["grey16.png"] == found["grey16-rgb.png"]


def test_a_broken_labels_file_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "labels.csv").write_text("a,b\n1,2\n")
    assert "labels.csv: labels cannot be read" in refused(folder, tmp_path / "archive", capfd)
    assert not (tmp_path / "archive").exists()


def test_failures_are_plain_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    run(tmp_path / "in", tmp_path / "archive")
    rows = pq.read_table(tmp_path / "archive" / "failures").to_pylist()
    assert [Failure(**row).error for row in rows] == ["ImageError"]
    assert list(rows[0]) == ["path", "stage", "error", "message", "size_bytes", "version"]


def test_an_unknown_url_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        run("nonsense://bucket/in", tmp_path / "archive")


@pytest.mark.parametrize("name", ["shards/data.tar", "job/thesis.txt", "failures/log.csv", "shards/000000-mine.parquet"])
def test_files_in_folders_of_our_names_are_not_taken_for_ours(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert name in refused(folder, tmp_path / "out", capfd)
    assert name in refused(folder, tmp_path / "out", capfd, "--overwrite")


def test_files_beside_an_archive_survive_its_replacement(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "archive")
    for name in ("shards/notes.txt", "failures/mine.csv"):
        (tmp_path / "archive" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "archive" / name).write_text("mine")
    write_image(folder / "new.png", 11)
    run(folder, tmp_path / "archive", overwrite=True)
    assert (tmp_path / "archive" / "shards" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "archive" / "failures" / "mine.csv").read_text() == "mine"


def test_a_job_that_another_one_replaced_stops(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second starts, with --overwrite, between plan and work of the first: the first must not commit."""
    from pipelines import compress

    original = compress.run_here

    def second_then_first(*args: object) -> object:
        monkeypatch.setattr(compress, "run_here", original)
        write_image(folder / "new.png", 11)
        run(folder, tmp_path / "archive", overwrite=True)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(compress, "run_here", second_then_first)
    with pytest.raises(InputError, match="another command has written here"):
        run(folder, tmp_path / "archive")
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        assert "new.png" in list(archive)


def test_file_urls_are_local_paths(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(folder / "pipe.png")
    with run(f"file://{folder}", f"file://{tmp_path}/archive") as archive:
        assert [failure.path for failure in archive.failures()] == ["pipe.png"]
        assert len(archive) == 3
    capfd.readouterr()
    assert "inside the input" in refused(f"file://{folder}", folder / "archive", capfd)


@pytest.mark.parametrize("flags", [["--runner=Bogus"], ["--direct_num_workers=abc"], ["--root=/"], ["--resume"]])
def test_refused_commands_leave_nothing(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    refused(folder, tmp_path / "archive", capfd, *flags)
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("damage", ["listing.parquet", "000000.parquet", "model.safetensors", "plan.json"])
@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_damaged_job_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, damage: str, how: str
) -> None:

    with monkeypatch.context() as patch:
        patch.setattr(compress, "run_here", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "archive")
    capfd.readouterr()
    (path,) = (tmp_path / "archive" / "job").rglob(damage)
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:50])
    assert "--" in refused(folder, tmp_path / "archive", capfd, "--resume")
    with run(folder, tmp_path / "archive", overwrite=True) as archive:
        assert len(archive) == 3


# Quality


def originals(source: Path, keys: list[str]) -> np.ndarray:
    return np.stack([resize(decode_image((source / key).read_bytes())) for key in keys])


def test_without_verification_no_psnr_is_known(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), "--no-verify"]) == 0
    with tsae.open_archive(str(tmp_path / "archive")) as archive, tsae.open_archive(str(archive_dir)) as measured:
        assert {row["psnr_db"] for row in archive.rows()} == {None}
        info = archive.info()
        assert (info["psnr_mean_db"], info["psnr_min_db"], info["lossless"]) == (None, None, 0)
        assert streams(archive) == streams(measured)
        assert measured.info()["psnr_min_db"] > 15


def test_images_below_the_floor_are_stored_losslessly_as_well(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as lossy:
        rows, latents, pictures = list(lossy.rows()), lossy.latents(list(lossy)), lossy[:]
        stream_bytes = lossy.info()["stream_bytes"]
    psnrs_db = np.array([row["psnr_db"] for row in rows])
    floor_db = float(np.median(psnrs_db))
    below = psnrs_db < floor_db
    assert 10 < below.sum() < 30
    with run(signs_dir, tmp_path / "archive", min_psnr_db=floor_db) as archive:
        keys, info = list(archive), archive.info()
        exact = originals(signs_dir, keys)
        decoded = archive.decode(keys)
        np.testing.assert_array_equal(decoded[below], exact[below])
        np.testing.assert_array_equal(decoded[~below], pictures[~below])
        np.testing.assert_array_equal(archive.latents(keys), latents)
        assert [row["psnr_db"] for row in archive.rows()] == psnrs_db.tolist()
        stored = [archive.record(key).lossless[0] for key in keys]
    assert [one is not None for one in stored] == below.tolist()
    assert (info["lossless"], info["min_psnr_db"]) == (below.sum(), floor_db)
    assert info["lossless_bytes"] == sum(len(one or b"") for one in stored)
    assert info["stream_bytes"] == stream_bytes
    assert info["psnr_min_db"] == psnrs_db.min()


def test_the_floor_itself_is_high_enough(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as lossy:
        worst_db = lossy.info()["psnr_min_db"]
    with run(signs_dir, tmp_path / "at", min_psnr_db=worst_db) as archive:
        assert archive.info()["lossless"] == 0
    with run(signs_dir, tmp_path / "above", min_psnr_db=worst_db + 1 / 64) as archive:
        assert archive.info()["lossless"] >= 1


def test_a_floor_and_its_count_are_told(signs_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), "--min-psnr=100"]) == 0
    assert "40 stored losslessly as well" in capfd.readouterr().out
    assert main(["decompress", str(tmp_path / "archive"), str(tmp_path / "out")]) == 0
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        keys = list(archive)
    back = np.stack([np.asarray(Image.open(tmp_path / "out" / key)) for key in keys])
    np.testing.assert_array_equal(back, originals(signs_dir, keys))


@pytest.mark.parametrize("floor", ["0", "-3", "nan", "inf", "100.01", "1e9"])
def test_a_floor_that_makes_no_sense_is_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], floor: str
) -> None:
    assert "--min-psnr" in refused(folder, tmp_path / "archive", capfd, f"--min-psnr={floor}")
    assert not (tmp_path / "archive").exists()


def test_a_floor_without_verification_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(folder, tmp_path / "archive", capfd, "--min-psnr=30", "--no-verify")
    assert "leave out --no-verify" in message
    with pytest.raises(SystemExit):
        main(["compress", str(folder), str(tmp_path / "archive"), "--min-psnr=high"])
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("length", [4_096, 4_097, 100_000])
def test_a_label_too_long_to_be_read_is_never_written(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], length: int
) -> None:
    (folder / "labels.csv").write_text(f"path,label\ngood0.png,{'x' * length}\ngood1.png,stop\n")
    with run(folder, tmp_path / "archive") as archive:
        expected = ["x" * length if length <= 4_096 else None, "stop", None]
        assert [row["label"] for row in archive.rows()] == expected
        assert len(archive[:]) == 3
    assert ("label" in capfd.readouterr().err) == (length > 4_096)


# Progress


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_agrees_with_the_archive(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    monkeypatch.setattr("tsae.jobs.plan.SHARD_IMAGES", 2)
    seen = watched(compress, monkeypatch)
    archive = run(folder, tmp_path / "archive", workers=workers)
    counts = archive.manifest.counts
    assert (counts.images, counts.failures) == (3, 1)
    good = sum((folder / key).stat().st_size for key in archive)
    shards = sum(path.stat().st_size for path in (tmp_path / "archive" / "shards").iterdir())
    assert seen == [Tally(counts.images + counts.failures, counts.failures, good, shards)]


def test_progress_of_decompressing_agrees_with_the_files(
    archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(decompress, monkeypatch)
    out = tmp_path / "out"
    counts = decompress.run(DecompressOptions(str(archive_dir), str(out)))
    pngs = list(out.rglob("*.png"))
    shards = sum(path.stat().st_size for path in (archive_dir / "shards").iterdir())
    assert seen == [Tally(counts.written, 0, shards, sum(path.stat().st_size for path in pngs))]
    assert len(pngs) == counts.written > 0
    decompress.run(DecompressOptions(str(archive_dir), str(out)))
    assert seen[1] == Tally(counts.written, 0, shards, 0)


def watched(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Tally]:
    """What the progress of each run of a pipeline comes to."""
    seen: list[Tally] = []
    watch = module.watch

    @contextlib.contextmanager
    def remember(total: int, label: str, elsewhere: Callable[[], int] | None = None) -> Iterator[SharedCount]:
        with watch(total, label, elsewhere) as count:
            yield count
            seen.append(count.total())

    monkeypatch.setattr(module, "watch", remember)
    return seen
