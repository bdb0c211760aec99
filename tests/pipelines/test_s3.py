"""All commands on an S3 server, and the same a little in memory: inputs, archives and outputs lie nowhere else."""

from __future__ import annotations

import json
import multiprocessing
import operator
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tsae
from pipelines import compress as pipeline
from tsae import archive as ar
from tsae.cli import main
from tsae.jobs import plan
from tsae.signs import write_signs

SIGNS, SHARD_IMAGES = 12, 5
"""Signs are in three shards."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn signs with labels, and a file that is no image."""
    folder = tmp_path_factory.mktemp("s3") / "images"
    write_signs(folder, SIGNS, seed=3)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def upload(images: Path, url: str) -> str:
    for path in images.rglob("*"):
        if path.is_file():
            ar.Folder(url).write(path.relative_to(images).as_posix(), path.read_bytes())
    return url


@pytest.fixture(scope="module")
def source(images: Path, s3_url: str) -> str:
    """The images in the bucket; not to be changed."""
    return upload(images, f"{s3_url}/images of signs")


@pytest.fixture(scope="module")
def archive(source: str, s3_url: str) -> str:
    """Their archive in three shards; not to be changed."""
    url = f"{s3_url}/archives/signs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
        assert main(["compress", source, url, "--allow-failures", "--workers", "2"]) == 0
    return url


@pytest.fixture
def own(images: Path, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Images and their archive, both in the bucket, to be changed."""
    monkeypatch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
    source, url = upload(images, f"{s3_folder}/in"), f"{s3_folder}/archive"
    assert main(["compress", source, url, "--allow-failures", "--workers", "1"]) == 0
    return source, url


def names(url: str, kind: str = "") -> list[str]:
    return sorted(name for name in ar.Folder(url).sizes_bytes() if name.startswith(kind))


def manifest(url: str) -> bytes:
    return ar.read_manifest_text(ar.Folder(url))


def picture(seed: int, tmp_path: Path) -> bytes:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return path.read_bytes()


def test_the_archive_is_that_of_a_local_run(
    archive: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
    assert main(["compress", str(images), str(tmp_path / "local"), "--allow-failures", "--workers", "1"]) == 0
    assert names(archive, "shards/") == names(str(tmp_path / "local"), "shards/")
    assert not names(archive, "job/")
    assert len(names(archive, "shards/")) == 3


def test_commands_that_read(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", archive, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == SIGNS
    assert all(row["label"] for row in rows)
    assert main(["info", archive, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["images"], info["shards"], info["failures"]) == (SIGNS, 3, 1)
    assert info["archive_bytes"] > info["stream_bytes"] > SIGNS * 20
    keys = [rows[0]["key"], rows[-1]["key"]]
    assert main(["get", archive, *keys, "-o", f"{tmp_path}/out/"]) == 0
    with tsae.open_archive(archive) as opened:
        for key in keys:
            assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / key)), opened[key])
    assert main(["get", archive, "no such key", "-o", f"{tmp_path}/x.png"]) == 1
    assert main(["verify", archive, "--decode", "--workers", "2"]) == 0


def test_an_image_is_put_into_the_bucket(archive: str, s3_folder: str) -> None:
    with tsae.open_archive(archive) as opened:
        key = opened.keys().__next__()
    assert main(["get", archive, key, "-o", f"{s3_folder}/one.webp"]) == 0
    assert ar.Folder(s3_folder).read("one.webp")[8:12] == b"WEBP"


def test_every_way_of_access(archive: str, images: Path) -> None:
    with tsae.open_archive(archive) as opened:
        keys = list(opened)
        assert sorted(keys) == keys == sorted(str(path.relative_to(images)) for path in images.glob("*/*.png"))
        everything = opened[:]
        assert everything.shape == (SIGNS, 32, 32, 3)
        assert np.array_equal(opened[keys[7]], everything[7])
        assert np.array_equal(opened[-1], everything[-1])
        assert np.array_equal(opened[2:11:3], everything[2:11:3])
        assert np.array_equal(opened.decode([keys[9], keys[1], keys[9]]), everything[[9, 1, 9]])
        assert opened.latents(keys[3:5]).shape == (2, 32, 8, 8)
        assert opened.to_table().column("key").to_pylist() == keys
        assert keys[0] in opened
        assert "no such key" not in opened
        folder = keys[0].partition("/")[0]
        assert list(opened.keys(f"{folder}/*")) == [key for key in keys if key.startswith(f"{folder}/")]
        assert [failure.path for failure in opened.failures()] == ["broken.png"]
        with pytest.raises(KeyError):
            opened["no such key"]
        with pytest.raises(IndexError):
            opened[SIGNS]


def test_another_process_reads_on_from_a_pickle(archive: str) -> None:
    with tsae.open_archive(archive) as opened:
        assert np.array_equal(pickle.loads(pickle.dumps(opened))[3], opened[3])  # noqa: S301 - our own
        keys = list(opened)[2:4]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(operator.methodcaller("latents", keys), opened).result()
        assert np.array_equal(found, opened.latents(keys))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the server is asked for from here on, as `GET name`."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler

    seen: list[str] = []

    def log_request(handler: MotoRequestHandler, code: object = "-", size: object = "-") -> None:
        seen.append(f"{handler.command} {handler.path.partition('?')[0].rpartition('/archives/signs/')[2]}")

    monkeypatch.setattr(MotoRequestHandler, "log_request", log_request)
    return seen


def test_an_image_costs_one_request_once_the_list_is_there(archive: str, requests: list[str]) -> None:
    (shards,), (first, *_, last) = names(archive, "lists/"), names(archive, "shards/")
    requests.clear()
    opened = tsae.open_archive(archive)
    assert requests == ["GET manifest.json"]
    record = opened.record  # without the model, which is read for the first image that is decoded
    key = "bumps/00001.png" if "bumps/00001.png" in opened else next(iter(opened))
    opened.close()
    requests.clear()
    record(key)
    assert requests[0] == f"GET {shards}"
    assert len(requests) == 2
    requests.clear()
    record(key)
    opened.decode([])
    assert len(requests) == 1
    opened[0]
    requests.clear()
    assert opened[0].shape == (32, 32, 3)
    assert requests == [f"GET {first}"]
    requests.clear()
    assert opened[-1].shape == (32, 32, 3)
    assert requests == [f"GET {last}"]
    requests.clear()
    assert len(opened.decode(list(opened.keys())[:2])) == 2
    assert all(request.startswith("GET shards/") for request in requests)


def test_decompress_to_the_bucket_and_to_disk(archive: str, s3_folder: str, tmp_path: Path) -> None:
    assert main(["decompress", archive, f"{s3_folder}/out", "--workers", "2"]) == 0
    assert main(["decompress", archive, str(tmp_path / "out"), "--workers", "1"]) == 0
    local = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.png")}
    assert len(local) == SIGNS
    assert {name: ar.Folder(f"{s3_folder}/out").read(name) for name in names(f"{s3_folder}/out")} == local


def test_an_archive_is_brought_up_to_date(own: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, url = own
    before, text = names(url, "shards/"), manifest(url)
    with tsae.open_archive(url) as old:
        keys, pixels = list(old), old[:]
    command = ["compress", source, url, "--allow-failures", "--workers", "1"]
    assert main(command) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert manifest(url) == text
    folder = ar.Folder(source)
    folder.write("new.png", picture(1, tmp_path))
    folder.write(keys[6], picture(2, tmp_path))
    folder.remove([keys[0]])
    assert main(command) == 0
    assert "(1 new, 1 changed; no longer in the input, but kept: 1)" in capsys.readouterr().out
    with tsae.open_archive(url) as new:
        assert list(new) == [*keys, "new.png"]
        same = [i for i in range(SIGNS) if i != 6]
        assert np.array_equal(new[:SIGNS][same], pixels[same])
        assert not np.array_equal(new[6], pixels[6])
    assert len(set(before) & set(names(url, "shards/"))) == 2
    assert main(["verify", url]) == 0


def test_a_failed_image_is_tried_again(own: tuple[str, str], tmp_path: Path) -> None:
    source, url = own
    assert main(["compress", source, url, "--retry-failed", "--workers", "1"]) == 1
    ar.Folder(source).write("broken.png", picture(3, tmp_path))
    assert main(["compress", source, url, "--workers", "1"]) == 0
    with tsae.open_archive(url) as opened:
        assert opened.failures() == []
        assert "broken.png" in opened
    assert not names(url, "failures/")


def test_an_archive_is_replaced_at_the_end(own: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    source, url = own
    command = ["compress", source, url, "--allow-failures", "--workers", "1", "--no-verify"]
    assert main(command) == 2
    assert "start anew with --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert main(["verify", url]) == 0
    assert "not part of the archive" not in capsys.readouterr().out
    assert ar.read_manifest(ar.Folder(url)).counts.psnr_mean_db is None


def fail_once(patch: pytest.MonkeyPatch, name: str) -> None:
    """Lets a step of committing fail: what was done until then is there, and nothing more."""
    patch.setattr(ar, name, lambda *args: (_ for _ in ()).throw(tsae.TsaeError("the power is gone")))


@pytest.mark.parametrize("step", ["write_lists", "commit"])
def test_a_job_is_resumed(source: str, archive: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
    command = ["compress", source, s3_folder, "--allow-failures", "--workers", "1"]
    with monkeypatch.context() as patch:
        fail_once(patch, step)
        assert main(command) == 2
    assert main(["info", s3_folder]) == 2
    assert main(["verify", s3_folder]) == 2
    assert main(command) == 2
    assert main([*command, "--resume"]) == 0
    assert names(s3_folder, "shards/") == names(archive, "shards/")
    assert names(s3_folder, "lists/") == names(archive, "lists/")
    assert not names(s3_folder, "job/")
    assert main(["verify", s3_folder]) == 0


def run_between(patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Lets something happen after a job is planned and before it runs, once."""
    run_job = pipeline._run_job

    def run(*args: object) -> object:
        patch.setattr(pipeline, "_run_job", run_job)
        action()
        return run_job(*args)

    patch.setattr(pipeline, "_run_job", run)


def test_of_two_commands_at_once_the_second_is_told(
    source: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", source, s3_folder, "--allow-failures", "--workers", "1"]
    codes = []
    run_between(monkeypatch, lambda: codes.append(main(command)))
    assert main(command) == 0
    assert codes == [2]
    assert "or another command is at work there" in capsys.readouterr().err
    assert main(["verify", s3_folder]) == 0


def test_a_command_whose_place_another_one_takes_is_told(
    source: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", source, s3_folder, "--allow-failures", "--workers", "1"]
    codes = []
    run_between(monkeypatch, lambda: codes.append(main([*command, "--overwrite", "--no-verify"])))
    assert main(command) == 2
    assert codes == [0]
    assert "another command" in capsys.readouterr().err
    assert main(["verify", s3_folder, "--decode"]) == 0
    with tsae.open_archive(s3_folder) as opened:
        assert not opened.manifest.settings.verify
        assert len(opened) == SIGNS


def test_of_two_commits_from_one_state_the_second_is_told(own: tuple[str, str]) -> None:
    _, url = own
    folder, base = ar.Folder(url), manifest(url)
    state = ar.Manifest.from_json(base, url)
    one, other = (ar.Manifest(**{**vars(state), "created_by": name}) for name in ("one", "other"))
    ar.commit(folder, one, base)
    with pytest.raises(tsae.TsaeError, match="another command has changed it meanwhile"):
        ar.commit(folder, other, base)
    ar.commit(folder, one, base)  # doing it again changes nothing
    assert ar.read_manifest(folder).created_by == "one"


def test_a_damaged_archive_is_repaired_in_the_bucket(own: tuple[str, str], s3_folder: str) -> None:
    source, url = own
    name = names(url, "shards/")[1]
    data = ar.Folder(url).read(name)
    records, _ = ar.Shard.of_file(data, name).read(0)
    at = data.index(records.streams[2])
    ar.Folder(url).write(name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with tsae.open_archive(url) as opened:
        with pytest.raises(tsae.TsaeError, match="does not match its checksum"):
            opened[records.keys[2]]
        assert opened[records.keys[1]].shape == (32, 32, 3)
    out = f"{s3_folder}/repaired"
    assert main(["verify", url, "--repair", out]) == 1
    assert main(["verify", out, "--decode"]) == 0
    assert main(["verify", url, "--repair", out]) == 2
    with tsae.open_archive(out) as opened:
        assert len(opened) == SIGNS - 1
        assert {failure.path for failure in opened.failures()} == {"broken.png", records.keys[2]}
    assert main(["compress", source, out, "--allow-failures", "--workers", "1"]) == 0
    with tsae.open_archive(out) as opened:
        assert opened.record(records.keys[2]).streams == [records.streams[2]]


def test_in_memory(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"memory://pipelines-{tmp_path.name}"
    source, url = upload(images, f"{place}/in"), f"{place}/archive"
    command = ["compress", source, url, "--allow-failures"]
    assert main(command) == 0
    assert main(command) == 0
    assert "nothing has changed" in capsys.readouterr().out
    ar.Folder(source).write("new.png", picture(1, tmp_path))
    assert main(command) == 0
    assert main(["decompress", url, f"{place}/out"]) == 0
    assert len(names(f"{place}/out")) == SIGNS + 1
    assert main(["verify", url, "--decode"]) == 0
    with tsae.open_archive(url) as opened:
        assert opened[-1].shape == opened["new.png"].shape == (32, 32, 3)
