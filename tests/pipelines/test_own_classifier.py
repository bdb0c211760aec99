"""`compress --classifier FILE`: somebody's own classifier says what stays readable, on each engine, and in every later run."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tsae
from tests.pipelines.test_keep_readable import files_of
from tests.pipelines.test_watch import nothing, watched
from tsae import archive as ar
from tsae.archive.records import ENTROPY_CODED
from tsae.classifier import classifier_from_bytes, load_classifier
from tsae.cli import main
from tsae.config import DEFAULT_CLASSIFIER
from tsae.images import decode_image, resize
from tsae.zoo import read_model_file

compress = importlib.import_module("pipelines.compress")
trial = importlib.import_module("tsae.jobs.trial")

KEPT = ("--quality=1", "--keep-readable")
TARGET = "--target-bytes=260"


def write_own(path: Path) -> str:
    """The packaged classifier, but it mistakes some signs: its first layer is disturbed."""
    weights = classifier_from_bytes(read_model_file(DEFAULT_CLASSIFIER), DEFAULT_CLASSIFIER)
    first, *others = weights.layers.convolutions
    noise = np.random.default_rng(0).normal(0, 0.5 * first.weight.std(), first.weight.shape).astype(np.float32)
    layers = weights.layers._replace(convolutions=[first._replace(weight=first.weight + noise), *others])
    path.write_bytes(dataclasses.replace(weights, name="own", layers=layers).to_bytes())
    return str(path)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_own(tmp_path_factory.mktemp("own") / "own.safetensors")


@pytest.fixture(scope="module")
def archive(signs_dir: Path, own: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed by a test."""
    archive = tmp_path_factory.mktemp("archives") / "own"
    assert main(["compress", str(signs_dir), str(archive), *KEPT, "--classifier", own]) == 0
    return archive


def test_people_are_told_when_the_classifier_does_not_know_what_it_keeps(
    signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn signs are not the real ones that it has learned."""
    command = ["compress", str(signs_dir), str(tmp_path / "archive"), *KEPT]
    assert main([*command, "--workers=1"]) == 0
    sure, told = capsys.readouterr().err.split("--keep-readable: signs-43 is only ")[1].split(" % sure of the originals, ")
    assert 0 < int(sure) < 70
    assert told.count("\n") == 1
    assert "train one that does, and name it with --classifier" in told
    assert main(command) == 0  # nothing to do, nothing to tell
    assert "sure" not in capsys.readouterr().err


@pytest.fixture
def knows_drawn_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SURE", 0.0)


def lost_to(classifier: str, archive_dir: Path, signs_dir: Path) -> NDArray[np.bool_]:
    """Which images are read otherwise than their originals."""
    read = load_classifier(classifier).probabilities
    with tsae.open_archive(str(archive_dir)) as archive:
        keys, decoded = list(archive), archive[:]
    originals = np.stack([resize(decode_image((signs_dir / key).read_bytes())) for key in keys])
    return read(originals).argmax(1) != read(decoded).argmax(1)


def streams_of(archive: Path) -> dict[str, list[bytes]]:
    with tsae.open_archive(str(archive)) as opened:
        return {key: opened.record(key).streams for key in opened}


def copy(images: list[Path], root: Path, to: Path) -> None:
    """With the times of the originals, long ago for a watch that waits for files to rest."""
    for image in images:
        path = to / image.relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read_bytes())
        os.utime(path, (1e9, 1e9))


def test_no_image_is_lost_to_it(signs_dir: Path, own: str, archive: Path) -> None:
    assert not lost_to(own, archive, signs_dir).any()
    assert lost_to(DEFAULT_CLASSIFIER, archive, signs_dir).any()
    with tsae.open_archive(str(archive)) as opened:
        assert opened.manifest.settings.keep_readable == ar.digest(Path(own).read_bytes())
    assert not (archive / "job").exists()


@pytest.mark.parametrize("flags", [("--workers=2",), ("--runner=FnApiRunner",)])
def test_every_engine_asks_it(signs_dir: Path, own: str, archive: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "a"), *KEPT, "--classifier", own, *flags]) == 0
    assert files_of(tmp_path / "a") == files_of(archive)


def test_a_later_run_asks_it_again(
    signs_dir: Path, own: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after an update that brought another packaged classifier: with the one of then, given by its file, all goes on."""
    source, grown, images = tmp_path / "in", tmp_path / "grown", sorted(signs_dir.rglob("*.png"))
    copy(images[:30], signs_dir, source)
    command = ["compress", str(source), str(grown), *KEPT]
    assert main([*command, "--classifier", own]) == 0
    copy(images[30:], signs_dir, source)
    before = files_of(grown)
    capsys.readouterr()
    assert main(command) == 2
    assert "--keep-readable (SHA-256 of --classifier): " in capsys.readouterr().err
    assert files_of(grown) == before
    assert main([*command, "--classifier", own]) == 0
    assert streams_of(grown) == streams_of(archive)


def test_a_killed_job_is_resumed_with_it(
    signs_dir: Path,
    own: str,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["compress", str(signs_dir), str(tmp_path / "a"), *KEPT, "--workers=1"]
    with monkeypatch.context() as patch:
        patch.setattr(compress, "commit_archive", lambda *_: 1 / 0)
        assert main([*command, "--classifier", own]) != 0
    capsys.readouterr()
    assert main([*command, "--resume"]) == 2
    assert "give the killed command" in capsys.readouterr().err
    assert main([*command, "--classifier", own, "--resume"]) == 0
    assert files_of(tmp_path / "a") == files_of(archive)


def test_a_worker_with_another_packaged_classifier_is_refused(
    signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one with another version of tsae has: what the command takes for the packaged one is not in the job's folder."""
    jobs = importlib.import_module("tsae.jobs.compress")
    other = load_classifier("signs-43-seed")
    monkeypatch.setattr(jobs, "_packaged", lambda: other)
    assert main(["compress", str(signs_dir), str(tmp_path / "a"), *KEPT, "--workers=1"]) == 2
    assert "one version of tsae on all machines" in capsys.readouterr().err


@pytest.mark.usefixtures("knows_drawn_signs")
def test_bytes_go_to_what_it_doubts(signs_dir: Path, own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compress", str(signs_dir), str(tmp_path / "a"), TARGET]
    assert main([*command, "--classifier", own]) == 0
    doubt = tsae.open_archive(str(tmp_path / "a")).manifest.settings.doubt
    assert doubt is not None
    assert doubt.classifier == ar.digest(Path(own).read_bytes())
    assert main(["compress", str(signs_dir), str(tmp_path / "by-distortion"), TARGET]) == 0  # signs-43 does not know them
    lost, without = (lost_to(own, tmp_path / name, signs_dir) for name in ("a", "by-distortion"))
    assert lost.sum() < without.sum()
    with tsae.open_archive(str(tmp_path / "a")) as opened:
        codings = np.array([opened.record(key).codings[0] for key in opened])
    assert (codings[lost] == ENTROPY_CODED[8 - 1]).all()  # what not even the highest quality brings back
    before = files_of(tmp_path / "a")
    capsys.readouterr()
    assert main(command) == 2
    error, packaged = capsys.readouterr().err, ar.digest(read_model_file(DEFAULT_CLASSIFIER))
    assert "--target-bytes (SHA-256 of --classifier): " in error
    assert f"of {packaged}, but the archive was made with " in error
    assert "--overwrite" in error
    assert files_of(tmp_path / "a") == before
    assert main([*command, "--classifier", own]) == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_a_watch_asks_it(signs_dir: Path, own: str, archive: Path, tmp_path: Path) -> None:
    """Each commit is a job of its own, which has the classifier with it."""
    source, images = tmp_path / "in", sorted(signs_dir.rglob("*.png"))
    copy(images[:20], signs_dir, source)
    options = {"quality": 1, "keep_readable": True, "classifier": own, "workers": 1}
    watched(source, tmp_path / "a", lambda: copy(images[20:], signs_dir, source), nothing, nothing, **options)
    assert streams_of(tmp_path / "a") == streams_of(archive)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classifier", "signs-43"], "--classifier signs-43: nothing would ask it; add --keep-readable or --target-bytes"),
        ([TARGET, "--no-verify", "--classifier", "signs-43"], "--classifier signs-43: nothing would ask it; add"),
        ([*KEPT, "--classifier", "signs-43-tsae"], "--classifier signs-43-tsae: looks at latents; name one"),
        ([*KEPT, "--classifier", "tsae"], "tsae: is a model of tsae-1, no classifier; name one ("),
        ([*KEPT, "--classifier", "no-such.safetensors"], "no-such.safetensors"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "a"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tsae: error: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()
