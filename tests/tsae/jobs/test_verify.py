"""`tsae verify` from the command line: what it prints, its exit codes, and what it cannot be talked into."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tsae import archive as ar
from tsae.cli import main
from tsae.errors import FormatError
from tsae.jobs import verify as job
from tsae.zoo import read_model_file


@pytest.fixture
def archive(archive_dir: Path, tmp_path: Path) -> Path:
    """A copy of the archive of 40 drawn signs, to be damaged."""
    return Path(shutil.copytree(archive_dir, tmp_path / "archive"))


def only(archive: Path, kind: str) -> Path:
    (path,) = (archive / kind).iterdir()
    return path


def flip_stream(archive: Path, row: int) -> str:
    shard = only(archive, "shards")
    data = shard.read_bytes()
    records, _ = ar.Shard.of_file(data, "").read(0)
    at = data.index(records.streams[row])
    shard.write_bytes(data[:at] + bytes([data[at] ^ 128]) + data[at + 1 :])
    return records.keys[row]


def test_an_intact_archive(archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsae.progress.PLAIN_INTERVAL_S", 0)
    assert main(["verify", str(archive), "--decode", "--workers", "2"]) == 0
    captured = capsys.readouterr()
    size_mb = f"{sum(path.stat().st_size for path in archive.rglob('*') if path.is_file()) / 1e6:.1f}"
    assert captured.out == f"{archive}: 5 files, {size_mb} MB, 40 of 40 images intact\n"
    assert re.fullmatch(rf"verifying: {size_mb}/{size_mb} MB, [0-9.]+ MB/s", captured.err.splitlines()[-1])


def test_a_damaged_record_is_named_with_what_to_do(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, name = flip_stream(archive, 20), f"shards/{only(archive, 'shards').name}"
    assert main(["verify", str(archive)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"damaged: {name}: does not match its SHA-256: 39 of 40 records are intact",
        f"damaged: {name}: {key!r}: the record is lost: its checksum does not match",
        "remedy: restore what is damaged from a copy, or save what is intact with --repair OUT",
    ]


def test_many_damages_are_counted_and_json_has_all(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [flip_stream(archive, row) for row in range(8)]
    assert main(["verify", str(archive)]) == 1
    assert "damaged: 4 more; --json shows all" in capsys.readouterr().out
    assert main(["verify", str(archive), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert [damage["key"] for damage in result["damages"]] == [None, *keys]
    assert (result["images"], result["intact"], result["files"], result["salvage"]) == (40, 32, 5, None)
    assert result["bytes"] == sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())


def test_a_repair_is_told(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = flip_stream(archive, 20)
    out = str(tmp_path / "out")
    assert main(["verify", str(archive), "--repair", out, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["salvage"] == {"path": out, "images": 39, "lost": [key], "notes": []}
    assert main(["verify", str(archive), "--repair", out + "2"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    source = ar.read_manifest(ar.Folder(out)).settings.source
    again = f"the flags that made it and `tsae compress {source} {out}2` bring them back"
    assert last == f"repaired: {out}2: 39 images, 1 lost (see its failures table); {again}"


def test_extra_files_are_no_damage(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "notes.txt").write_text("mine")
    assert main(["verify", str(archive)]) == 0
    assert "note: 1 file is not part of the archive, such as 'notes.txt'" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 50])
def test_a_damaged_manifest_does_not_hide_other_damage(
    archive: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    shard = only(archive, "shards")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (archive / "manifest.json").unlink()
    if content is not None:
        (archive / "manifest.json").write_bytes(content)
    assert main(["verify", str(archive)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("damaged: manifest.json: ")
    assert lines[1].endswith(": nothing can be read without it")
    assert lines[2] == f"damaged: shards/{shard.name}: does not match the digest in its name"


def test_a_damaged_model_is_told_once_also_when_all_is_decoded(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "model.safetensors").write_bytes(b"no model")
    assert main(["verify", str(archive), "--decode"]) == 1
    out = capsys.readouterr().out
    assert out.count("damaged: ") == 1
    assert "model.safetensors: has 8 bytes instead of" in out
    assert "nothing can be decoded without it" in out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a refused command says."""
    assert main(["verify", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_what_is_no_archive_is_refused(tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not an archive (no manifest.json)" in refused(capsys, str(tmp_path))
    assert "not an archive (no manifest.json)" in refused(capsys, str(tmp_path / "nowhere"), "--repair", str(tmp_path / "out"))
    assert "not an archive (no manifest.json)" in refused(capsys, str(only(archive, "shards")))
    assert "--workers 0: at least 1" in refused(capsys, str(archive), "--workers", "0")


def test_a_job_that_did_not_end_is_no_damaged_archive(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "manifest.json").unlink()
    (archive / "job").mkdir()
    (archive / "job" / "plan.json").write_text("{}")
    assert "finish it with --resume" in refused(capsys, str(archive))
    assert "finish it with --resume" in refused(capsys, str(archive), "--repair", str(archive.parent / "out"))


@pytest.mark.parametrize("version", [0, 2, 10])
def test_an_unknown_version_is_refused_and_not_repaired(
    archive: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (archive / "manifest.json").read_bytes()
    (archive / "manifest.json").write_bytes(text.replace(b'"format_version": 1', b'"format_version": %d' % version, 1))
    for flags in ([], ["--repair", str(archive.parent / "out")]):
        line = refused(capsys, str(archive), *flags)
        assert f"archive format {version}, this tsae reads 1; update tsae" in line
    assert not (archive.parent / "out").exists()


def test_an_unknown_feature_is_refused_and_not_repaired(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = ar.read_manifest(ar.Folder(str(archive)))
    (archive / "manifest.json").write_bytes(dataclasses.replace(manifest, requires=("video",)).to_json())
    for flags in ([], ["--repair", str(archive.parent / "out")]):
        assert "the archive needs video, which this tsae does not know; update tsae" in refused(capsys, str(archive), *flags)


def test_an_archive_that_is_changed_meanwhile_is_not_called_damaged(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(files: ar.ArchiveFiles, workers: int, decode: object) -> list[ar.FileReport]:
        text = dataclasses.replace(files.manifest, created_by="another command").to_json()
        (archive / "manifest.json").write_bytes(text)
        return [ar.FileReport("shards/x", damages=(ar.Damage("shards/x", None, "is missing"),))]

    monkeypatch.setattr(ar, "verify", verify)
    with pytest.raises(FormatError, match="was changed by another command meanwhile; run this again"):
        job.verify(str(archive))


def test_records_that_the_model_cannot_decode_are_found_by_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their checksums hold: somebody's writer has made them so."""
    folder, model = ar.Folder(str(tmp_path / "archive")), read_model_file("seed-8x8x8")
    streams, lossless = [bytes(512), bytes(511), bytes(512), bytes(512)], [None, None, None, b"no webp"]
    keys, sizes = ["a.png", "b.png", "c.png", "d.png"], np.full(4, 32, np.uint32)
    codings = np.array([1, 1, 77, 1], np.uint8)
    records = ar.Records(keys, sizes, sizes, [None] * 4, np.full(4, 30, np.float32), codings, streams, lossless)
    lists = ar.write_lists(folder, None, {}, [ar.write_shard(folder, 0, records, {}, ar.digest(model))])
    counts, settings = ar.count(folder, lists, 0, 0), ar.Settings("/in", "/in", True, None)
    ar.write(folder, ar.MODEL_FILE, model)
    manifest = ar.Manifest(
        (), "seed-8x8x8", ar.MODEL_FILE, len(model), ar.digest(model), (8, 8, 8), {}, settings, "a test", counts, lists, ()
    )
    ar.commit(folder, manifest, None)
    assert main(["verify", folder.path]) == 0
    assert main(["verify", folder.path, "--decode", "--json"]) == 1
    result = json.loads(capsys.readouterr().out.rpartition("intact\n")[2])
    assert [damage["key"] for damage in result["damages"]] == ["b.png", "c.png", "d.png"]
    assert result["intact"] == 1


def test_bytes_that_cannot_be_read_are_damage(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a bad sector: what lies elsewhere is intact."""
    read_range, shard = ar.Folder.read_range, f"shards/{only(archive, 'shards').name}"

    def fails(folder: ar.Folder, name: str, start: int, length: int) -> bytes:
        if name == shard and start <= 3000 < start + length:
            raise OSError(5, "Input/output error")
        return read_range(folder, name, start, length)

    monkeypatch.setattr(ar.Folder, "read_range", fails)
    result = job.verify(str(archive))
    assert result.damages[0].file == shard
    assert result.damages[0].message.startswith("cannot be read (Input/output error)")


def test_verify_needs_no_torch_unless_it_decodes(archive: Path) -> None:
    code = "import sys; from tsae.cli import main; assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "verify", str(archive)], check=True, capture_output=True, env=os.environ)
    out = str(archive.parent / "out")
    subprocess.run([sys.executable, "-c", code, "verify", str(archive), "--repair", out], check=True, capture_output=True)


def test_in_memory(archive: Path) -> None:
    folder = ar.Folder("memory://verify/archive")
    for path in archive.rglob("*"):
        if path.is_file():
            folder.write(str(path.relative_to(archive)), path.read_bytes())
    assert job.verify(folder.path, decode=True).damages == []
    name = f"shards/{only(archive, 'shards').name}"
    folder.write(name, folder.read(name)[:-10])
    assert [damage.file for damage in job.verify(folder.path).damages] == [name]
