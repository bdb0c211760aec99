"""Archives of tar and Parquet files: made, brought up to date, finished after a kill."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tsae
from pipelines import compress
from pipelines.options import CompressOptions
from tsae import paths
from tsae.cli import main
from tsae.errors import InputError
from tsae.images import decode_image, resize
from tsae.inputs import reading
from tsae.jobs import compress as steps
from tsae.jobs import plan as planning

Members = Mapping[str, tuple[bytes, "str | None"]]


def image(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_tar(members: Members) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, (content, label) in members.items():
            parts = {name: content} | ({} if label is None else {name.removesuffix(".png") + ".cls": label.encode()})
            for part, data in parts.items():
                info = tarfile.TarInfo(part)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write_table(members: Members) -> bytes:
    cells = [{"bytes": content, "path": name} for name, (content, _) in members.items()]
    file = io.BytesIO()
    labels = pa.array([label for _, label in members.values()], pa.string())
    pq.write_table(pa.table({"image": cells, "label": labels}), file, row_group_size=2)
    return file.getvalue()


@pytest.fixture(params=["tar", "parquet"])
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def write(ending: str) -> Callable[[Path, Members], None]:
    """Writes a container, later than any before."""
    times = iter(range(10**9, 2 * 10**9))

    def write(path: Path, members: Members) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((write_tar if ending == "tar" else write_table)(members))
        os.utime(path, (0, next(times)))

    return write


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsae.jobs.plan.SHARD_IMAGES", 3)


def run(source: Path | str, archive: Path | str, **options: Any) -> compress.Outcome:
    return compress.run(CompressOptions(str(source), str(archive), **options))


def changes(outcome: compress.Outcome) -> tuple[int, int, int]:
    assert outcome.changes is not None
    return outcome.changes.new, outcome.changes.changed, outcome.changes.missing


def facts(archive: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and times of all files."""
    files = [path for path in archive.rglob("*") if path.is_file()]
    return {path.relative_to(archive).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def assert_holds(archive: Path | str, members: Members) -> None:
    """Every picture and label of the archive is that of the member."""
    with tsae.open_archive(str(archive)) as opened:
        keys = list(opened)
        assert sorted(keys) == sorted(members)
        originals = np.stack([resize(decode_image(members[key][0])) for key in keys])
        expected = opened.codec.decode(opened.codec.encode(originals, opened.manifest.settings.quality))
        np.testing.assert_array_equal(opened.decode(keys), expected)
        table = opened.to_table()
        labels = dict(zip(table.column("key").to_pylist(), table.column("label").to_pylist(), strict=True))
        assert labels == {key: label for key, (_, label) in members.items()}


def signs(count: int) -> dict[str, tuple[bytes, str | None]]:
    order = np.random.default_rng(0).permutation(count)
    return {f"{i:02d}.png": (image(i), f"class {i % 3}" if i % 4 else None) for i in order}


def test_an_archive_of_one_container_is_brought_up_to_date(
    tmp_path: Path, ending: str, write: Callable[[Path, Members], None]
) -> None:
    source, archive, members = tmp_path / f"in.{ending}", tmp_path / "archive", signs(8)
    write(source, members)
    run(source, archive)
    assert_holds(archive, members)
    before = facts(archive)
    assert changes(run(source, archive)) == (0, 0, 0)
    assert facts(archive) == before

    write(source, dict(sorted(members.items())))  # other places, the same images
    assert changes(run(source, archive)) == (0, 0, 0)
    assert facts(archive) == before

    gone = members.pop("03.png")
    members |= {
        "00.png": (image(100), members["00.png"][1]),
        "05.png": (members["05.png"][0], "other"),
        "99.png": (image(99), None),
    }
    write(source, members)
    assert changes(run(source, archive)) == (1, 2, 1)
    assert_holds(archive, members | {"03.png": gone})


def test_several_containers(tmp_path: Path, ending: str, write: Callable[[Path, Members], None]) -> None:
    parts = {f"{name}.{ending}": signs(count) for name, count in (("a", 5), ("b", 4))}
    for name, members in parts.items():
        write(tmp_path / "in" / name, members)
    expected = {f"{name}/{key}": value for name, members in parts.items() for key, value in members.items()}
    assert main(["compress", f"{tmp_path}/in/*.{ending}", str(tmp_path / "archive")]) == 0
    assert_holds(tmp_path / "archive", expected)
    write(tmp_path / "in" / f"c.{ending}", {"x.png": (image(50), "new")})
    assert changes(run(f"{tmp_path}/in/*.{ending}", tmp_path / "archive")) == (1, 0, 0)
    assert_holds(tmp_path / "archive", expected | {f"c.{ending}/x.png": (image(50), "new")})
    assert main(["decompress", str(tmp_path / "archive"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / f"c.{ending}" / "x.png").exists()


def test_damaged_members_are_failures_until_they_change(
    tmp_path: Path, ending: str, write: Callable[[Path, Members], None], capfd: pytest.CaptureFixture[str]
) -> None:
    source, archive, members = tmp_path / f"in.{ending}", tmp_path / "archive", signs(5)
    write(source, members | {"02.png": (b"no image", "x"), "04.png": (b"", None)})
    assert main(["compress", str(source), str(archive)]) == 1
    assert "02.png" in capfd.readouterr().err
    with tsae.open_archive(str(archive)) as opened:
        assert [(failure.path, failure.stage) for failure in opened.failures()] == [("02.png", "decode"), ("04.png", "decode")]
    before = facts(archive)
    assert changes(run(source, archive)) == (0, 0, 0)
    assert facts(archive) == before
    write(source, members)
    assert changes(run(source, archive)) == (2, 0, 0)
    assert_holds(archive, members)


def test_a_killed_job_finds_its_members_again(
    tmp_path: Path, ending: str, write: Callable[[Path, Members], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, members = tmp_path / f"in.{ending}", signs(8)
    write(source, members)
    run(source, tmp_path / "whole")
    jobs = []
    monkeypatch.setattr(compress, "_run_job", lambda job, *_: jobs.append(job))
    run(source, tmp_path / "archive")
    steps.write_shard(steps.encode_images(steps.read_images(0, jobs[0]), jobs[0]), jobs[0])
    monkeypatch.undo()
    monkeypatch.setattr(planning, "SHARD_IMAGES", 3)
    monkeypatch.setattr("pipelines.compress.list_inputs", None)  # what is to be done is planned already
    run(source, tmp_path / "archive", resume=True)
    assert_holds(tmp_path / "archive", members)
    assert {name: content for name, (content, _) in facts(tmp_path / "archive").items()} == {
        name: content for name, (content, _) in facts(tmp_path / "whole").items()
    }


def test_a_container_that_changes_before_the_resume_gives_failures_not_wrong_images(
    tmp_path: Path, ending: str, write: Callable[[Path, Members], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, members = tmp_path / f"in.{ending}", signs(4)
    write(source, members)
    with monkeypatch.context() as patch:
        patch.setattr(compress, "_run_job", lambda *_: None)
        run(source, tmp_path / "archive")
    members = {"first.png": (image(77), None)} | members
    write(source, members)
    manifest = run(source, tmp_path / "archive", resume=True).manifest
    assert (manifest.images, manifest.counts.failures) == (0, 4)
    assert changes(run(source, tmp_path / "archive")) == (5, 0, 0)
    assert_holds(tmp_path / "archive", members)


def test_a_remote_container(ending: str) -> None:
    files, members = fsspec.filesystem("memory"), signs(5)
    files.pipe_file(f"/containers/in.{ending}", (write_tar if ending == "tar" else write_table)(members))
    source, archive = f"memory://containers/in.{ending}", f"memory://containers-{ending}"
    run(source, archive)
    assert_holds(archive, members)
    assert changes(run(source, archive)) == (0, 0, 0)


def test_a_container_on_s3(s3_folder: str, ending: str) -> None:

    files, members = paths.filesystem(s3_folder)[0], signs(5)
    files.pipe_file(f"{s3_folder}/in/a.{ending}", (write_tar if ending == "tar" else write_table)(members))
    source, archive = f"{s3_folder}/in/*.{ending}", f"{s3_folder}/archive"
    run(source, archive)
    assert_holds(archive, {f"a.{ending}/{key}": value for key, value in members.items()})
    assert changes(run(source, archive)) == (0, 0, 0)


def test_a_target_is_aimed_at_with_members(tmp_path: Path, ending: str, write: Callable[[Path, Members], None]) -> None:
    write(tmp_path / f"in.{ending}", signs(4))
    assert run(tmp_path / f"in.{ending}", tmp_path / "archive", target_psnr_db=5.0).manifest.settings.quality == 1


def test_a_file_beside_a_table_is_read_again_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    cells = [{"bytes": None, "path": "a.png"}, {"bytes": image(2), "path": "b.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "in.parquet")
    source, archive = tmp_path / "in.parquet", tmp_path / "out" / "archive"
    run(source, archive)
    assert changes(run(source, archive)) == (0, 0, 0)
    (tmp_path / "a.png").write_bytes(image(3))
    assert changes(run(source, archive)) == (0, 1, 0)
    assert_holds(archive, {"a.png": (image(3), None), "b.png": (image(2), None)})


def test_a_container_that_cannot_be_opened_once_is_tried_again(
    tmp_path: Path, write: Callable[[Path, Members], None], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / f"x.{ending}"
    write(source, {f"{i}.png": (image(i), None) for i in range(4)})
    original, calls = reading.check_unchanged, iter([True])

    def failing(*args: Any) -> None:
        if next(calls, False):
            raise OSError(5, "Input/output error")
        original(*args)

    monkeypatch.setattr(reading, "check_unchanged", failing)
    outcome = compress.run(CompressOptions(str(source), str(tmp_path / "archive")))
    assert outcome.manifest.counts.failures > 0
    outcome = compress.run(CompressOptions(str(source), str(tmp_path / "archive")))
    assert outcome.manifest.counts.failures == 0
    assert outcome.manifest.counts.images == 4


def test_a_job_of_an_earlier_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan has no version, but a list of what its tasks replace."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image(0))
    options = CompressOptions(str(tmp_path / "in"), str(tmp_path / "archive"))
    with monkeypatch.context() as patch:
        patch.setattr(compress, "run_here", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compress.run(options)
    plan = tmp_path / "archive" / "job" / "plan.json"
    fields = json.loads(plan.read_bytes())
    del fields["plan_version"], fields["tasks"]
    plan.write_text(json.dumps({**fields, "replaces": [None]}))
    with pytest.raises(InputError, match="planned by another version of tsae; .* --overwrite"):
        compress.run(dataclasses.replace(options, resume=True))
    assert compress.run(dataclasses.replace(options, overwrite=True)).manifest.counts.images == 1
