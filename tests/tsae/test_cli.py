"""The command line: what it prints, its exit codes, and what it imports."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tsae
from tsae.cli import main
from tsae.signs import draw_signs


@pytest.fixture
def first_key(archive_dir: Path) -> str:
    with tsae.open_archive(str(archive_dir)) as archive:
        return next(archive.keys())


def pixels(archive_dir: Path, key: str) -> np.ndarray:
    with tsae.open_archive(str(archive_dir)) as archive:
        return archive[key]


def test_ls_prints_a_key_a_line(archive_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(archive_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 40
    assert lines == sorted(lines)
    assert main(["ls", str(archive_dir), "s*"]) == 0
    assert capsys.readouterr().out.splitlines() == [line for line in lines if line.startswith("s")]


def test_ls_json_is_one_array(archive_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(archive_dir), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 40
    assert rows[0].keys() == {"key", "width", "height", "label", "psnr_db"}
    assert all(15 < row["psnr_db"] < 60 for row in rows)
    assert main(["ls", str(archive_dir), "none*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_ls_filters_and_sorts(archive_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*flags: str) -> list[dict[str, object]]:
        assert main(["ls", str(archive_dir), "--json", *flags]) == 0
        return json.loads(capsys.readouterr().out)

    every = rows()
    by_psnr = sorted(every, key=lambda row: row["psnr_db"])
    assert rows("--sort", "psnr") == by_psnr
    assert rows("--sort=psnr", "--reverse", "--limit=3") == by_psnr[:-4:-1]
    label = every[0]["label"]
    assert rows(f"--label={label}", "--max-psnr=33") == [r for r in every if r["label"] == label and r["psnr_db"] <= 33]
    assert rows("--after", every[4]["key"]) == every[5:]
    with_bytes = rows("--min-bytes=100", "--sort=bytes")
    assert [row["bytes"] for row in with_bytes] == sorted(row["bytes"] for row in with_bytes)
    assert main(["ls", str(archive_dir), "--sort", "psnr", "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [row["key"] for row in by_psnr[:2]]


def test_ls_keeps_control_characters_from_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / "a\x1b[2J\nb ü.png")
    main(["compress", str(tmp_path / "in"), str(tmp_path / "archive")])
    capsys.readouterr()
    main(["ls", str(tmp_path / "archive")])
    assert capsys.readouterr().out == "a\\x1b[2J\\nb ü.png\n"


def test_info_json_has_what_scripts_need(archive_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(archive_dir), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    needed = "images failures archive_bytes model_bytes bytes_per_image raw_bytes_per_image model format_version"
    assert set(needed.split()) <= info.keys()


def test_info_is_readable(archive_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(archive_dir)]) == 0
    out = capsys.readouterr().out
    assert "tsae, quality 5 (sha256 " in out
    assert "of them latents" in out


def test_models_lists_the_default_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    first, second, *classifiers = capsys.readouterr().out.splitlines()
    assert first.startswith("tsae (default): latents 8x8x32, qualities 1 to 8, ")
    assert second.startswith("seed-8x8x8: latents 8x8x8, one quality, 45,515 parameters, ")
    assert classifiers[0].startswith("signs-43: classifier of 43 signs by pixels, 15,150,592 multiply-adds, ")
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert [(model["name"], model["qualities"]) for model in models[:2]] == [("tsae", 8), ("seed-8x8x8", 0)]
    assert {model["kind"] for model in models[2:]} == {"classifier"}
    assert not any("stream_bytes" in model for model in models)


@pytest.mark.parametrize(("ending", "lossless"), [("png", True), ("webp", True), ("jpeg", False), ("jpg", False)])
def test_get_writes_one_image(archive_dir: Path, first_key: str, tmp_path: Path, ending: str, lossless: bool) -> None:
    out = tmp_path / f"x.{ending}"
    assert main(["get", str(archive_dir), first_key, "-o", str(out)]) == 0
    image = Image.open(out)
    assert image.format == {"png": "PNG", "webp": "WEBP"}.get(ending, "JPEG")
    difference = np.abs(np.asarray(image).astype(int) - pixels(archive_dir, first_key))
    assert difference.max() == 0 if lossless else difference.mean() < 8


def test_get_writes_numpy_arrays(archive_dir: Path, first_key: str, tmp_path: Path) -> None:
    assert main(["get", str(archive_dir), first_key, "-o", str(tmp_path / "x"), "--format", "npy"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x"), pixels(archive_dir, first_key))


def test_get_writes_to_standard_output(archive_dir: Path, first_key: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["get", str(archive_dir), first_key, "-o", "-"]) == 0
    image = Image.open(io.BytesIO(capfdbinary.readouterr().out))
    np.testing.assert_array_equal(np.asarray(image), pixels(archive_dir, first_key))


def test_get_without_output_writes_here(
    archive_dir: Path, first_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["get", str(archive_dir), first_key]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [Path(first_key).name]


def test_get_several_keys_into_a_folder_and_names_what_is_missing(
    archive_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive.keys())[:3]
    assert main(["get", str(archive_dir), *keys, "nothing.png", "-o", str(tmp_path / "out")]) == 1
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == keys
    assert "nothing.png: not in" in capfd.readouterr().err
    assert main(["get", str(archive_dir), *keys, "-o", "-"]) == 2


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["compress"],
        ["ls", "a", "b", "c"],
        ["info", "--no-such-flag", "a"],
        ["get", "archive"],
        ["ls", "a", "--min-psnr=nan"],
        ["ls", "a", "--limit=-1"],
        ["ls", "a", "--sort=colour"],
        ["sheet", "a"],
        ["compress", "a", "b", "--device=tpu"],
        ["compress", "a", "b", "--quality=x"],
        ["compress", "a", "b", "--quality=5.5"],
        ["compress", "a", "b", "--quality="],
        ["compress", "a", "b", "--target-bytes=much"],
        ["compress", "a", "b", "--quality=5", "--target-bytes=100"],
        ["compress", "a", "b", "--quality=5", "--target-psnr=30"],
        ["compress", "a", "b", "--target-bytes=100", "--target-psnr=30"],
    ],
)
def test_wrong_arguments_exit_with_2_and_one_line(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", [["ls"], ["info"], ["get", "key"]])
def test_what_is_no_archive_exits_with_2_and_one_line(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command
    assert main([name, str(tmp_path), *rest]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "not an archive" in err


def test_the_pipelines_are_programs_of_their_own(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    def run(module: str, source: Path, target: Path, *flags: str) -> None:
        command = [sys.executable, "-m", f"pipelines.{module}", "--input", str(source), "--output", str(target), *flags]
        subprocess.run(command, check=True, capture_output=True)

    run("compress", signs_dir, tmp_path / "archive")
    run("decompress", tmp_path / "archive", tmp_path / "out", "--select", "s*")
    for name in ("manifest.json", "model.safetensors"):
        assert (tmp_path / "archive" / name).read_bytes() == (archive_dir / name).read_bytes()
    assert list((tmp_path / "out").rglob("*.png"))


def test_demo_shows_a_contact_sheet_and_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
        out = capsys.readouterr().out
        assert str(tmp_path / "demo" / "contact-sheet.png") in out
        assert "mean" in out
    sheet = Image.open(tmp_path / "demo" / "contact-sheet.png")
    assert sheet.width > 1000
    assert len(list((tmp_path / "demo" / "decompressed").rglob("*.png"))) == 300


def test_demo_does_not_touch_a_folder_with_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "thesis.txt" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# Rate and quality


def info_of(archive: Path) -> dict[str, object]:
    with tsae.open_archive(str(archive)) as opened:
        return opened.info()


def test_a_quality_is_kept_and_told(
    signs_dir: Path, archive_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    infos = [info_of(archive_dir)]
    for quality in (1, 8):
        archive = str(tmp_path / f"{quality}")
        assert main(["compress", str(signs_dir), archive, "--quality", f"{quality}"]) == 0
        capfd.readouterr()
        assert main(["info", archive]) == 0
        assert f"tsae, quality {quality} (sha256 " in capfd.readouterr().out
        infos.insert(0 if quality == 1 else 2, info_of(Path(archive)))
    assert [info["quality"] for info in infos] == [1, 5, 8]
    assert [info["target"] for info in infos] == [None] * 3
    for name in ("stream_bytes", "psnr_mean_db", "psnr_min_db"):
        assert [info[name] for info in infos] == sorted(info[name] for info in infos)


def test_a_quality_of_5_is_what_none_gives(signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), "--quality=5"]) == 0
    for name in ("manifest.json", "model.safetensors"):
        assert (tmp_path / "archive" / name).read_bytes() == (archive_dir / name).read_bytes()


def test_a_target_is_kept_and_told(signs_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive = str(tmp_path / "archive")
    for message in ("target of 27 dB: quality ", "nothing has changed"):
        assert main(["compress", str(signs_dir), archive, "--target-psnr=27"]) == 0
        out, err = capfd.readouterr()
        assert message in out + err
    assert main(["info", archive]) == 0
    assert " for a target of 27 dB (sha256 " in capfd.readouterr().out
    assert info_of(Path(archive))["psnr_mean_db"] >= 27


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality=0"], "quality 0: model tsae has 1 to 8; choose one of them"),
        (["--quality=9"], "quality 9: model tsae has 1 to 8"),
        (["--quality=-1"], "quality -1: model tsae has 1 to 8"),
        (["--quality=5", "--model=seed-8x8x8"], "quality 5: model seed-8x8x8 has none"),
        (["--target-psnr=20", "--model=seed-8x8x8"], "model seed-8x8x8 has no qualities to choose from"),
        (["--target-bytes=20"], "target of 20 bytes: not to be had here; the nearest is quality 1"),
        (["--target-psnr=90"], "target of 90 dB: not to be had here; the nearest is quality 8"),
        *(([f"--target-bytes={value}"], "--target-bytes") for value in ("nan", "inf", "-inf", "0", "-5", "1e999")),
        *(([f"--target-psnr={value}"], "--target-psnr") for value in ("nan", "inf", "-inf", "0", "-5")),
    ],
)
def test_a_quality_or_target_that_is_not_to_be_had_is_refused(
    signs_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "archive"), *flags]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("flag", ["--target-psnr=30", "--target-bytes=100"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no image found"),
        (b"no image", "none of 1 images could be read, to choose a quality; give one with --quality"),
        ("a folder", "no readable image in "),
    ],
)
def test_a_target_for_nothing_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flag: str, content: bytes | str | None, message: str
) -> None:
    (tmp_path / "in").mkdir()
    if isinstance(content, bytes):
        (tmp_path / "in" / "a.png").write_bytes(content)
    elif content:
        (tmp_path / "in" / "a.png").mkdir()
    source = tmp_path / "in" / "*" if content == "a folder" else tmp_path / "in"
    assert main(["compress", str(source), str(tmp_path / "archive"), flag]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("tsae: error: ")
    assert not (tmp_path / "archive").exists()


def test_a_killed_job_for_a_target_is_resumed_with_its_quality(
    signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["compress", str(signs_dir), str(tmp_path / "archive"), "--target-psnr=27", "--workers=1"]
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.compress.finish", lambda job: 1 / 0)
        patch.setattr("pipelines.compress.commit_archive", lambda *_: 1 / 0)
        assert main(command) != 0
    assert not (tmp_path / "archive" / "manifest.json").exists()
    assert main([*command[:3], "--quality=5", "--workers=1", "--resume"]) == 2
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.request.choose_quality", None)
        assert main([*command, "--resume"]) == 0
    assert info_of(tmp_path / "archive")["target"] == "27 dB"
    assert main([*command[:3], "--target-psnr=27"]) == 0


# Training


def test_train_prints_what_came_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for sign in draw_signs(30):
        Image.fromarray(sign.image).save(tmp_path / "in" / sign.key.replace("/", "-"))
    for model in ("tsae", "seed-8x8x8"):
        out = tmp_path / f"{model}.safetensors"
        assert main(["train", str(tmp_path / "in"), "--out", str(out), "--model", model, "--epochs=1", "--device=cpu"]) == 0
        assert re.search(rf"^{out}: validation loss [0-9.]+ on 5 images$", capsys.readouterr().out, re.MULTILINE)
        assert main(["compress", str(tmp_path / "in"), str(tmp_path / f"archive-{model}"), "--model", str(out)]) == 0


def test_train_of_an_unknown_model_is_refused(signs_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(signs_dir), "--out", str(tmp_path / "m.safetensors"), "--model=none"]) == 2
    assert "no such recipe; choose one of seed-8x8x8, tsae" in capfd.readouterr().err


LIGHT_HELP = """
import sys
from tsae.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"torch", "apache_beam", "numpy", "pyarrow", "PIL"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT_HELP], check=True, capture_output=True, text=True)
    for command in ("demo", "train", "compress", "decompress", "get", "ls", "sheet", "info", "models"):
        assert command in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_job_leaves_no_archive_and_can_be_finished(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "in").mkdir()
    image = io.BytesIO()
    Image.fromarray(next(draw_signs(1)).image).save(image, "PNG")
    for i in range(5000):
        (tmp_path / "in" / f"{i}.png").write_bytes(image.getvalue())
    archive = tmp_path / "archive"
    command = [sys.executable, "-m", "tsae", "compress", str(tmp_path / "in"), str(archive), "--workers=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 60
        while not list(archive.glob("job/*/done/*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(job.pid, number)
        _, err = job.communicate(timeout=60)
    assert job.returncode == code, err
    assert "Traceback" not in err
    assert not (archive / "manifest.json").exists()
    (tmp_path / "in" / "later.png").write_bytes(image.getvalue())
    assert main(command[3:]) == 2
    first = {path: path.stat().st_mtime_ns for path in archive.glob("shards/*")}
    assert main([*command[3:], "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    (tmp_path / "in" / "later.png").unlink()
    assert main(["compress", str(tmp_path / "in"), str(tmp_path / "undisturbed")]) == 0
    names = {path.relative_to(archive) for path in archive.rglob("*") if path.is_file()}
    assert names == {p.relative_to(tmp_path / "undisturbed") for p in (tmp_path / "undisturbed").rglob("*") if p.is_file()}
    assert all((archive / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes() for name in names)


def test_resuming_what_is_no_job_or_another_is_refused(
    signs_dir: Path, archive_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(signs_dir), str(archive_dir), "--resume"]) == 2
    assert "no job to resume" in capfd.readouterr().err
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "plan.json").write_text("{")
    assert main(["compress", str(signs_dir), str(tmp_path), "--resume"]) == 2
    assert "damaged" in capfd.readouterr().err


def test_a_reader_that_has_enough_is_no_error(archive_dir: Path) -> None:
    command = f"{sys.executable} -m tsae ls {archive_dir} | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_terminal_without_utf_8_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / "ü.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for command in (["compress", "in", "ärchive"], ["ls", "ärchive"], ["info", "ärchive"]):
        done = subprocess.run([sys.executable, "-m", "tsae", *command], capture_output=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_bug_has_an_exit_code_of_its_own(archive_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: object) -> None:
    monkeypatch.setattr("tsae.reader.open_archive", lambda path: 1 / 0)
    assert main(["info", str(archive_dir)]) == 70


def test_the_first_failures_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for i in range(8):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"")
    assert main(["compress", str(tmp_path / "in"), str(tmp_path / "archive")]) == 1
    err = capfd.readouterr().err
    assert [f"{i}.png: 0 bytes" in err for i in range(8)] == [True] * 5 + [False] * 3
    assert "all 8 failures" in err
