"""What operators see of a job: JSON lines, the report in the archive, metrics on Beam, exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from PIL import Image

import tsae
from pipelines import compress, local
from tsae import archive as ar
from tsae import progress
from tsae.cli import main
from tsae.errors import InputError
from tsae.jobs import compress as steps
from tsae.jobs import plan as planning
from tsae.jobs.job_folder import CompressJob
from tsae.signs import write_signs

SIGNS, SHARD_IMAGES = 12, 5
"""Signs are in three shards."""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drawn signs, and a file that is no image."""
    monkeypatch.setattr(planning, "SHARD_IMAGES", SHARD_IMAGES)
    write_signs(tmp_path / "images", SIGNS, seed=3)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The JSON lines; there are no others."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def run_json(archive: Path) -> dict[str, Any]:
    """The report of the run that committed the state that is there."""
    state = ar.digest((archive / "manifest.json").read_bytes())[:16]
    (path,) = reports(archive)
    assert path.name.startswith(f"run-{state}-")
    return dict(json.loads(path.read_text()))


def reports(archive: Path) -> list[Path]:
    return list((archive / "provenance").glob("run-*"))


# JSON lines


def test_a_job_tells_machines_how_it_goes_and_ends(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "JSON_INTERVAL_S", 0.0)
    archive = str(tmp_path / "archive")
    assert main(["compress", str(images), archive, "--log-json"]) == 1
    lines = told(capsys)
    events = [line["event"] for line in lines]
    assert [event for event in events if event != "progress"] == ["planned", "failed", "failures", "compressed"]
    by_event = {line["event"]: line for line in lines}
    assert (by_event["planned"]["images"], by_event["planned"]["tasks"]) == (SIGNS + 1, 3)
    assert (by_event["progress"]["done"], by_event["progress"]["total"]) == (SIGNS + 1, SIGNS + 1)
    assert by_event["progress"]["failed"] == 1
    assert by_event["failed"]["key"] == "broken.png"
    ended = by_event["compressed"]
    assert (ended["images"], ended["failures"], ended["exit_code"]) == (SIGNS, 1, 1)
    assert main(["decompress", archive, str(tmp_path / "out"), "--log-json"]) == 0
    ended = told(capsys)[-1]
    assert (ended["event"], ended["written"], ended["failed"], ended["exit_code"]) == ("decompressed", SIGNS, 0, 0)


def test_a_refusal_is_a_json_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(images), str(tmp_path / "archive"), "--log-json", "--workers=0"]) == 2
    (line,) = told(capsys)
    assert (line["level"], line["event"], line["error"], line["exit_code"]) == ("error", "refused", "InputError", 2)
    assert line["message"].startswith("--workers 0: ")


@pytest.mark.parametrize("flags", [["--quality=x"], ["--no-such-flag"]])
def test_a_command_that_cannot_be_read_is_a_json_line(
    flags: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["compress", str(images), str(tmp_path / "archive"), "--log-json", *flags])
    except SystemExit as end:
        code = end.code
    assert code == 2
    (line,) = told(capsys)
    assert (line["event"], line["exit_code"]) == ("refused", 2)
    assert flags[0].partition("=")[0] in line["message"]


@pytest.mark.parametrize("flags", [[], ["--log-json"]])
def test_where_nobody_takes_what_is_said_the_work_is_done_all_the_same(images: Path, tmp_path: Path, flags: list[str]) -> None:
    command = [sys.executable, "-m", "tsae", "compress", str(images), str(tmp_path / "archive"), *flags]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stderr=full, stdout=subprocess.DEVNULL).returncode == 1
    assert (tmp_path / "archive" / "manifest.json").exists()
    assert not (tmp_path / "archive" / "job" / "plan.json").exists()


def test_a_bug_is_a_json_line_with_its_traceback(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "run", lambda options, flags: 1 / 0)
    assert main(["compress", str(images), str(tmp_path / "archive"), "--log-json"]) == 70
    (line,) = told(capsys)
    assert (line["event"], line["exit_code"]) == ("bug", 70)
    assert "ZeroDivisionError" in line["traceback"]


# The report in the archive


def test_the_archive_tells_of_its_last_run(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    assert main(["compress", str(images), str(archive), "--allow-failures", "--run-report", "--workers=2"]) == 0
    report = run_json(archive)
    assert (report["engine"], report["workers"], report["tasks"]) == ("local", 2, 3)
    assert (report["images_written"], report["images_failed"]) == (SIGNS, 1)
    assert report["archive"] == json.loads((archive / "manifest.json").read_text())["counts"]
    sources = sum(path.stat().st_size for path in images.rglob("*.png") if path.name != "broken.png")
    shards = sum(path.stat().st_size for path in (archive / "shards").iterdir())
    assert (report["bytes_read"], report["bytes_written"]) == (sources, shards)
    assert set(report["stages_s"]) == {"list", "plan", "read", "encode", "write"}
    assert all(seconds >= 0 for seconds in report["stages_s"].values())
    assert datetime.fromisoformat(report["started"]) <= datetime.fromisoformat(report["ended"])
    assert report["versions"]["tsae"] == tsae.__version__
    assert {"python", "apache-beam", "numpy", "onnxruntime", "pyarrow"} <= set(report["versions"])


def test_each_run_that_commits_tells_of_itself(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    command = ["compress", str(images), str(archive), "--allow-failures", "--run-report"]
    assert main(command) == 0
    first = reports(archive)
    assert main(command) == 0  # nothing has changed, so nothing is committed
    assert reports(archive) == first
    write_signs(images / "more", 2, seed=9)
    (images / "more" / "labels.csv").unlink()
    assert main([*command, "--runner=FnApiRunner"]) == 0
    report = run_json(archive)
    assert (report["engine"], report["workers"], report["images_written"]) == ("FnApiRunner", None, 2)
    assert report["archive"]["images"] == SIGNS + 2


def test_a_resumed_run_tells_of_all_tasks(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive"
    command = ["compress", str(images), str(archive), "--allow-failures", "--run-report"]
    leave_unfinished(command, monkeypatch)
    assert not reports(archive)
    assert main([*command, "--resume"]) == 0
    assert run_json(archive)["images_written"] == SIGNS


def leave_unfinished(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command that ends when two tasks are done."""
    with monkeypatch.context() as patch:
        patch.setattr(compress, "run_here", do_two_tasks_and_fail)
        assert main(command) == 2


def do_two_tasks_and_fail(workers: local.Workers, job: CompressJob, tasks: list[int]) -> None:
    workers.map(compress.compress_task, tasks[:2], job)
    raise InputError("as if killed")


def test_an_archive_needs_no_report_but_a_damaged_one_is_found(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    assert main(["compress", str(images), str(archive), "--allow-failures", "--run-report"]) == 0
    (report,) = reports(archive)
    report.write_bytes(report.read_bytes().replace(b"local", b"locaL"))
    assert main(["verify", str(archive)]) == 1
    assert report.name in capsys.readouterr().out
    assert main(["compress", str(images), str(archive), "--allow-failures", "--run-report"]) == 0
    report.unlink()
    assert main(["verify", str(archive)]) == 0
    assert main(["compress", str(images), str(archive), "--allow-failures", "--run-report"]) == 0


def test_without_being_asked_an_archive_tells_nothing_that_differs_from_run_to_run(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    command = ["compress", str(images), str(archive), "--allow-failures"]
    assert main([*command, "--run-report"]) == 0
    assert len(reports(archive)) == 1
    write_signs(images / "more", 2, seed=9)
    assert main(command) == 0
    assert not reports(archive)  # that of another state is gone


def test_a_report_that_cannot_be_written_costs_nothing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = ar.Folder.write

    def fail(folder: ar.Folder, name: str, *args: Any, **options: Any) -> None:
        if name.startswith("provenance/run-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, name, *args, **options)

    monkeypatch.setattr(ar.Folder, "write", fail)
    archive = tmp_path / "archive"
    assert main(["compress", str(images), str(archive), "--allow-failures", "--run-report"]) == 0
    assert not reports(archive)
    assert not (archive / "job").exists() or not list((archive / "job").rglob("*.*"))


def test_a_report_counts_what_the_run_has_done_and_not_what_lies_beside_it(images: Path, tmp_path: Path) -> None:
    """A changed image rewrites its shard, in which others are."""
    archive = tmp_path / "archive"
    command = ["compress", str(images), str(archive), "--allow-failures", "--run-report"]
    assert main(command) == 0
    changed = next(path for path in sorted(images.rglob("*.png")) if path.name != "broken.png")
    Image.new("RGB", (40, 50), (200, 20, 20)).save(changed)
    assert main(command) == 0
    report = run_json(archive)
    assert (report["images_written"], report["bytes_read"]) == (1, changed.stat().st_size)


def test_damaged_notes_of_a_killed_run_are_done_anew(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive"
    command = ["compress", str(images), str(archive), "--allow-failures", "--run-report"]
    leave_unfinished(command, monkeypatch)
    for note in archive.rglob("done/*.json"):
        note.write_text(json.dumps({**json.loads(note.read_text()), "stages_s": {"read": "long"}}))
    assert main([*command, "--resume"]) == 0
    assert run_json(archive)["images_written"] == SIGNS


# Engines that start tasks again, or end without the last step


@pytest.fixture
def begun(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a job of which two tasks are done."""
    command = ["compress", str(images), str(tmp_path / "archive"), "--allow-failures"]
    leave_unfinished(command, monkeypatch)
    return command


def test_an_engine_that_starts_all_tasks_again_does_only_what_is_left(
    begun: list[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = steps.read_images
    monkeypatch.setattr(compress, "finished_tasks", lambda job: {})  # as if none had been done when it was submitted
    monkeypatch.setattr(steps, "read_images", lambda task, job: read.append(task) or real(task, job))
    assert main([*begun, "--resume", "--runner=FnApiRunner"]) == 0
    assert read == [2]
    assert main(["compress", str(images), str(tmp_path / "other"), "--allow-failures"]) == 0
    one, other = (sorted(path.name for path in (tmp_path / name / "shards").iterdir()) for name in ("archive", "other"))
    assert one == other


def test_a_task_whose_shard_is_not_whole_is_done_again(
    begun: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = next((tmp_path / "archive" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    monkeypatch.setattr(compress, "finished_tasks", lambda job: {})
    assert main([*begun, "--resume", "--runner=FnApiRunner"]) == 0
    assert main(["verify", str(tmp_path / "archive")]) == 0


def test_an_engine_that_ends_without_its_last_step_has_not_committed(
    begun: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines import transforms

    shards = {path.name for path in (tmp_path / "archive" / "shards").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(compress, "build", lambda pipeline, job, tasks: pipeline | transforms.ListTasks(tasks))
        assert main([*begun, "--resume", "--runner=FnApiRunner"]) == 2
    assert "the engine ended without committing; finish it with --resume" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "archive" / "shards").iterdir()} == shards
    assert main([*begun, "--resume"]) == 0
    assert main(["verify", str(tmp_path / "archive")]) == 0


# Metrics


def test_steps_count_on_beam(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []

    class Pipeline(beam.Pipeline):
        def run(self, *args: Any, **options: Any) -> Any:
            results.append(super().run(*args, **options))
            return results[-1]

    monkeypatch.setattr(beam, "Pipeline", Pipeline)
    archive = str(tmp_path / "archive")
    assert main(["compress", str(images), archive, "--allow-failures", "--runner=FnApiRunner"]) == 0
    assert main(["decompress", archive, str(tmp_path / "out"), "--runner=FnApiRunner"]) == 0
    (counters, shards), (counters_back, shards_back) = (metrics_of(result) for result in results)
    sources = sum(path.stat().st_size for path in images.rglob("*.png") if path.name != "broken.png")
    written = sum(path.stat().st_size for path in (tmp_path / "archive" / "shards").iterdir())
    assert counters == {
        "images_read": SIGNS,
        "images_failed": 1,
        "bytes_read": sources,
        "images_encoded": SIGNS,
        "images_lossless": 0,
        "images_kept_readable": 0,
        "images_written": SIGNS,
        "bytes_written": written,
    }
    assert shards == {"shard_read_ms": 3, "shard_encode_ms": 3, "shard_write_ms": 3}
    assert counters_back == {
        "images_read": SIGNS,
        "images_present": 0,
        "images_decoded": SIGNS,
        "images_written": SIGNS,
        "images_failed": 0,
    }
    assert shards_back == {"shard_read_ms": 3, "shard_decode_ms": 3, "shard_write_ms": 3}


def metrics_of(result: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Counters, and the number of times that each distribution was told a value, summed over steps."""
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("tsae"))
    counters: dict[str, int] = {}
    for counter in found["counters"]:
        counters[counter.key.metric.name] = counters.get(counter.key.metric.name, 0) + counter.committed
    return counters, {entry.key.metric.name: entry.committed.count for entry in found["distributions"]}
