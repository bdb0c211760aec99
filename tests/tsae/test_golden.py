"""Golden archives: files of format version 1 that are read for ever, and what must come out of them.

The seed's pixels may be one grey level off: between machines float32 networks differ that much (`docs/FORMAT.md`). All else
is exact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tsae
from tsae import archive as ar
from tsae.cli import main

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

DIGESTS = "26dfa32cd0aff04b5d099e493843d8d245aa87bf70ee6447719755788f622e81"
"""SHA-256 of `v1/SHA256SUMS`. Another one needs a line in the changelog; once the format is frozen, there is no other."""

TOLERANCES = {"signs": 1, "plain": 1, "learned": 0}
"""By how many grey levels a pixel may differ, and by how much a latent that is made anew, in each archive."""

NAMES = list(TOLERANCES)


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The script that made the golden archives."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "v1" / f"{name}.json").read_text())


def opened(name: str) -> tsae.Archive:
    return tsae.open_archive(str(GOLDEN / "v1" / name))


def test_no_golden_file_is_missing_or_changed() -> None:
    sums = (GOLDEN / "v1" / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == DIGESTS
    listed = dict(reversed(line.split("  ", 1)) for line in sums.decode().splitlines())
    files = {path.relative_to(GOLDEN / "v1").as_posix(): path for path in (GOLDEN / "v1").rglob("*") if path.is_file()}
    assert {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name != "SHA256SUMS"
    } == listed
    assert {f"{name}/manifest.json" for name in NAMES} <= listed.keys()


@pytest.mark.parametrize("name", NAMES)
def test_records_are_the_same_for_ever(name: str) -> None:
    wanted = expected(name)["records"]
    with opened(name) as archive:
        columns = ["key", "width", "height", "label", "psnr_db"]
        assert list(archive.rows()) == [{column: record[column] for column in columns} for record in wanted]
        keys = [record["key"] for record in wanted]
        latents = archive.latents(keys)
        assert [hashlib.sha256(one.tobytes()).hexdigest() for one in latents] == [r["latents_sha256"] for r in wanted]
        is_lossless = [image is not None for image in archive.to_table().column("lossless").to_pylist()]
        assert is_lossless == [record["is_lossless"] for record in wanted]


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_the_same_for_ever_within_the_tolerance(name: str, make: ModuleType) -> None:
    wanted = expected(name)["records"]
    pixels = make.read_pixels(GOLDEN / "v1" / name)
    with opened(name) as archive:
        assert len(archive) == len(pixels) == len(wanted)
        decoded = archive[:]
        assert np.abs(decoded.astype(int) - pixels).max() <= TOLERANCES[name]
        assert decoded.std() > 20  # pictures, not one grey
        for i, record in enumerate(wanted):
            tolerance = 0 if record["is_lossless"] else TOLERANCES[name]
            assert np.abs(archive[record["key"]].astype(int) - pixels[i]).max() <= tolerance
            assert np.array_equal(archive[i], archive[record["key"]])


@pytest.mark.parametrize("name", NAMES)
def test_failures_and_provenance_are_the_same_for_ever(name: str, make: ModuleType) -> None:
    wanted, files = expected(name), ar.ArchiveFiles(str(GOLDEN / "v1" / name))
    assert [dataclasses.asdict(failure) for failure in files.failures()] == wanted["failures"]
    assert {key: [o.size_bytes, o.version, o.sha256.hex()] for key, o in make.all_origins(files)} == wanted["origins"]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_intact_and_each_carries_its_model(name: str) -> None:
    assert main(["verify", str(GOLDEN / "v1" / name), "--decode"]) == 0
    manifest = opened(name).manifest
    assert manifest.model_sha256 == hashlib.sha256((GOLDEN / "v1" / name / manifest.model_file).read_bytes()).hexdigest()


def test_they_have_what_an_archive_can_have() -> None:
    """Else something could be dropped from the script that makes them, and nobody would notice."""
    signs, plain = expected("signs"), expected("plain")
    labels = {record["label"] for record in signs["records"]}
    assert {None, "", "straße"} <= labels
    assert {record["is_lossless"] for record in signs["records"]} == {True, False}
    assert len(signs["failures"]) == 3
    assert {record["psnr_db"] for record in plain["records"]} == {None}
    assert not plain["origins"]
    assert not plain["failures"]
    files = ar.ArchiveFiles(str(GOLDEN / "v1" / "signs"))
    assert [entry.rows for entry in files.manifest.lists] == [2, 2, 1]
    assert max(files.shard(number).row_groups for number in range(files.shards)) > 1
    codings = set(ar.ArchiveFiles(str(GOLDEN / "v1" / "learned")).records(list(opened("learned"))).codings.tolist())
    assert codings >= {2, 4, 6}  # lossless beside the lowest quality, and two qualities
    assert [record["key"] for record in expected("learned")["records"] if record["is_lossless"]] == ["pattern.png"]
    assert opened("learned").info()["quality"] == 5
    keys = list(files.keys())
    assert keys.index("a.png") > keys.index("zebra.png") - 3 > 0  # from a later commit, so not in its place by name


def test_the_script_still_makes_them(make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same contents; bytes may differ with the version of pyarrow, and the seed's latents by one between machines."""
    for module, name in (("shards", "ROW_GROUP_BYTES"), ("lists", "GROUP_SHARDS"), ("commit", "LIST_SHARDS")):
        home = importlib.import_module(f"tsae.archive.{module}")
        monkeypatch.setattr(home, name, getattr(home, name))  # so that they are set back
    make.make(tmp_path)
    for name in NAMES:
        with opened(name) as old, tsae.open_archive(str(tmp_path / name)) as new:
            assert list(new) == list(old)
            difference = new.latents(list(new)).astype(int) - old.latents(list(old))
            assert np.abs(difference).max() <= TOLERANCES[name]
            assert new.failures() == old.failures()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "v1" / "plain", tmp_path / "archive"))


def commands(archive: Path, place: Path) -> Iterator[list[str]]:
    yield from (["info", str(archive)], ["ls", str(archive)], ["verify", str(archive)])
    yield ["get", str(archive), "00000.ppm", "-o", str(place / "a.png")]
    yield ["decompress", str(archive), str(place / "out")]


def refusals(archive: Path, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """What all commands that read say; each must refuse in one line and write nothing."""
    said = set()
    for command in commands(archive, archive.parent):
        assert main(command) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        said.add(line.partition("manifest.json: ")[2])
        assert captured.out == ""
    assert [path.name for path in archive.parent.iterdir()] == ["archive"]
    return said


def test_another_version_is_refused_in_one_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(text.replace(b'"format_version": 1', b'"format_version": 2', 1))
    assert refusals(copy, capsys) == {"archive format 2, this tsae reads 1; update tsae"}


def test_an_unknown_feature_is_refused_in_one_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = ar.read_manifest(ar.Folder(str(copy)))
    (copy / "manifest.json").write_bytes(dataclasses.replace(manifest, requires=("video", "sound")).to_json())
    assert refusals(copy, capsys) == {"the archive needs sound, video, which this tsae does not know; update tsae"}


def test_what_a_later_writer_may_add_is_read_past(copy: Path) -> None:
    """Keys of the manifest that this version does not know."""
    text = (copy / "manifest.json").read_bytes()
    head, rest = text.split(b"\n", 1)
    rest = b' "weather": "fine",\n' + rest.replace(b'"counts": {', b'"counts": {"clouds": 3, ', 1)
    digest = hashlib.sha256(rest).hexdigest().encode()
    (copy / "manifest.json").write_bytes(head.replace(head.split(b'"')[-2], digest) + b"\n" + rest)
    with tsae.open_archive(str(copy)) as archive, opened("plain") as plain:
        assert archive.to_table() == plain.to_table()
