"""The watch as a pipeline without end: what is refused before it begins, and its steps on a runner that comes to an end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import apache_beam as beam
import pytest

from pipelines import engine, streaming
from pipelines.options import CompressOptions
from pipelines.request import prepare
from pipelines.transforms import CommitBatches, EncodeImages, FindBatches, ReadBatch, WriteShard
from tsae import archive as ar
from tsae.cli import main
from tsae.signs import write_signs

PORTABLE = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner", "BundleBasedDirectRunner", "SparkRunner", None])
def test_runners_that_end_what_has_no_end_are_refused(
    runner: str | None, signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = f"--runner={runner}" if runner else "--job_name=watch"
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), "--watch=1", flag]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tsae: error: --runner={runner or engine.DEFAULT_RUNNER}: cannot run what has no end")
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("runner", ["PortableRunner", "FlinkRunner", "PrismRunner", "DataflowRunner"])
def test_others_are_not(runner: str) -> None:
    engine.check_endless([f"--runner={runner}"])


def test_an_input_that_is_no_folder_is_refused(signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text(f"{next(signs_dir.rglob('*.png'))}\n")
    assert main(["compress", str(tmp_path / "list.txt"), str(tmp_path / "archive"), "--watch=1", *PORTABLE]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no folder" in line
    assert not (tmp_path / "archive").exists()


def test_a_target_needs_images_first(signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--watch=1", "--target-bytes=200", *PORTABLE]
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "compress some without --watch first" in line


def test_an_engine_that_is_not_there_leaves_the_archive_to_others(
    signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", str(signs_dir), str(tmp_path / "archive")]
    assert main([*command, "--watch=1", *PORTABLE, "--job_server_timeout=1"]) == 2
    assert "its job server does not answer" in capsys.readouterr().err
    assert main(command) == 0
    assert len(list(ar.ArchiveFiles(str(tmp_path / "archive")).keys())) == 40


def test_the_steps_make_an_archive_of_what_came(tmp_path: Path) -> None:
    source, archive = tmp_path / "in", tmp_path / "archive"
    write_signs(source, 12)
    for path in source.rglob("*"):
        os.utime(path, (1e9, 1e9))
    job = streaming.claim(prepare(CompressOptions(str(source), str(archive), watch_s=60.0)))
    for expected in (12, 15):

        def build(pipeline: beam.Pipeline) -> None:
            times = pipeline | beam.Create([time.time()])
            batches = times | FindBatches(job) | ReadBatch(job)
            _ = batches | EncodeImages(job) | WriteShard(job) | CommitBatches(job)

        engine.run(build, ["--runner=FnApiRunner"])
        keys = list(ar.ArchiveFiles(str(archive)).keys())
        assert len(keys) == len(set(keys)) == expected
        write_signs(tmp_path / "more", 3, seed=expected)
        for number, path in enumerate(sorted((tmp_path / "more").rglob("*.png"))):
            path.rename(source / f"new-{expected}-{number}.png")
            os.utime(source / f"new-{expected}-{number}.png", (1e9, 1e9))
