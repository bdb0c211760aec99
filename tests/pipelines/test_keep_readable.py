"""`compress --keep-readable` end to end: every image is read as its original, on each engine, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tsae
from tsae.archive import MANIFEST_FILE, digest
from tsae.classifier import load_classifier
from tsae.cli import main
from tsae.config import DEFAULT_CLASSIFIER
from tsae.images import decode_image, resize
from tsae.zoo import read_model_file

LOW = ("--quality=1", "--keep-readable")
SEED = ("--model=seed-8x8x8", "--keep-readable")


@pytest.fixture(scope="module")
def low_archive(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed by a test."""
    archive = tmp_path_factory.mktemp("archives") / "low"
    assert main(["compress", str(signs_dir), str(archive), "--quality=1"]) == 0
    return archive


@pytest.fixture(scope="module")
def kept_archive(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, kept readable; not to be changed by a test."""
    archive = tmp_path_factory.mktemp("archives") / "kept"
    assert main(["compress", str(signs_dir), str(archive), *LOW]) == 0
    return archive


def files_of(archive: Path) -> dict[str, bytes]:
    return {path.relative_to(archive).as_posix(): path.read_bytes() for path in archive.rglob("*") if path.is_file()}


def readings(archive_dir: Path, signs_dir: Path) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """What is read from originals, and from what an archive gives back."""
    classifier = load_classifier()
    with tsae.open_archive(str(archive_dir)) as archive:
        keys, decoded = list(archive), archive[:]
    originals = np.stack([resize(decode_image((signs_dir / key).read_bytes())) for key in keys])
    return classifier.probabilities(originals).argmax(1), classifier.probabilities(decoded).argmax(1)


@pytest.mark.parametrize("flags", [LOW, SEED])
def test_all_images_are_read_as_their_originals(
    signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    archives = tmp_path / "plain", tmp_path / "kept"
    assert main(["compress", str(signs_dir), str(archives[0]), flags[0]]) == 0
    capsys.readouterr()
    assert main(["compress", str(signs_dir), str(archives[1]), *flags]) == 0
    told = capsys.readouterr().out
    before, after = (readings(archive, signs_dir) for archive in archives)
    changed = int((before[0] != before[1]).sum())
    assert changed
    np.testing.assert_array_equal(*after)
    plain, kept = (tsae.open_archive(str(archive)) for archive in archives)
    sizes = [
        plain.info()["stream_bytes"] + plain.info()["lossless_bytes"],
        kept.info()["stream_bytes"] + kept.info()["lossless_bytes"],
    ]
    assert f"{changed} stored better to stay readable, {(sizes[1] - sizes[0]) / 40:+.1f} bytes an image" in told
    same = [row for row, key in enumerate(plain) if plain.record(key).streams == kept.record(key).streams]
    assert len(same) >= 40 - changed
    untouched = np.flatnonzero(before[0] == before[1])
    np.testing.assert_array_equal(plain[:][untouched], kept[:][untouched])


def test_the_classifier_is_part_of_the_settings(
    low_archive: Path, kept_archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = digest(read_model_file(DEFAULT_CLASSIFIER))
    with tsae.open_archive(str(kept_archive)) as archive:
        assert archive.manifest.settings.keep_readable == archive.info()["keep_readable"] == sha256
    plain = json.loads((low_archive / MANIFEST_FILE).read_text())
    assert "keep_readable" not in plain["settings"]  # so that it is to the byte what it would have been without the flag
    capsys.readouterr()
    assert main(["info", str(kept_archive)]) == 0
    assert f"readable  as the originals, to the classifier of sha256 {sha256[:16]}..." in capsys.readouterr().out
    assert main(["info", str(low_archive)]) == 0
    assert "readable" not in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--workers=2",), ("--runner=FnApiRunner",)])
def test_every_engine_gives_the_same_archive(
    signs_dir: Path, kept_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), *LOW, *flags]) == 0
    assert files_of(tmp_path / "archive") == files_of(kept_archive)
    assert " stored better to stay readable, +" in capsys.readouterr().out


def test_a_rerun_needs_the_same_setting(
    signs_dir: Path, low_archive: Path, kept_archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(kept_archive)
    assert main(["compress", str(signs_dir), str(kept_archive), *LOW]) == 0
    assert "0 new, 0 changed" in capsys.readouterr().out.replace("nothing has changed", "0 new, 0 changed")
    for archive, flags in ((kept_archive, LOW[:1]), (low_archive, LOW)):
        assert main(["compress", str(signs_dir), str(archive), *flags]) == 2
        error = capsys.readouterr().err
        assert "--keep-readable (SHA-256 of --classifier): " in error
        assert "--overwrite" in error
    assert files_of(kept_archive) == before


def test_it_cannot_be_kept_without_decoding(signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), *LOW, "--no-verify"]) == 2
    assert (
        capsys.readouterr().err == "tsae: error: --keep-readable: cannot be kept without verification; leave out --no-verify\n"
    )


def test_machines_are_told_what_it_took(signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), *LOW, "--log-json", "--run-report"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (done,) = [line for line in lines if line["event"] == "compressed"]
    (report,) = (tmp_path / "archive" / "provenance").glob("run-*.json")
    told = json.loads(report.read_text())
    assert done["kept_readable"] == told["images_kept_readable"] > 0
    assert done["kept_readable_bytes"] == told["bytes_kept_readable"] > 0
