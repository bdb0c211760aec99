"""The wheel and the source archive: both packages, weights, cards, and the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tsae.signs import write_signs
from tsae.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged."""
    source = tmp_path_factory.mktemp("source")
    for name in ("tsae", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and source archive."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_wheel_holds_both_packages_the_weights_and_their_cards(dist: Path) -> None:
    names = set(zipfile.ZipFile(next(dist.glob("*.whl"))).namelist())
    for entry in ZOO.values():
        assert {f"tsae/weights/{entry.file}", f"tsae/weights/{entry.card}"} <= names
    modules = {p.relative_to(ROOT).as_posix() for package in ("tsae", "pipelines") for p in (ROOT / package).rglob("*.py")}
    assert modules | {"tsae/py.typed", "tsae/evaluation/report.css"} <= names
    assert not {name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))}


def test_the_wheel_works_without_the_source(dist: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else, with the repository out of reach, it lists its model."""
    zipfile.ZipFile(next(dist.glob("*.whl"))).extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tsae.cli as c; print(c.__file__); c.main(['models'])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "seed-8x8x8" in done.stdout


def test_the_source_archive_holds_the_weights(dist: Path) -> None:
    names = {name.split("/", 1)[1] for name in tarfile.open(next(dist.glob("*.tar.gz"))).getnames() if "/" in name}
    assert {f"tsae/weights/{entry.file}" for entry in ZOO.values()} | {"setup.py", "pyproject.toml"} <= names


def test_what_beam_ships_by_setup_file_runs_in_an_empty_environment(source: Path, tmp_path: Path) -> None:
    """As a worker does: it installs the one archive that Beam's stager makes of `--setup_file`, and runs the steps."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.stager import Stager

    staged, empty = tmp_path / "staged", tmp_path / "empty"
    staged.mkdir()
    options = PipelineOptions(["--setup_file", str(source / "setup.py"), "--sdk_location=container"])
    before = Path.cwd()
    try:
        Stager.create_job_resources(options, str(staged))  # which changes the folder
    finally:
        os.chdir(before)
    (package,) = staged.glob("*.tar.gz")
    venv.create(empty, symlinks=True)
    python = str(empty / "bin" / "python")
    (site,) = (empty / "lib").glob("python*/site-packages")
    # What a worker's image has already: everything but tsae, which lies there as a link that nobody follows from here.
    (site / "image.pth").write_text(sysconfig.get_path("purelib"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", str(package)]
    run = [python, "-m", "pipelines.compress", "--input", "images", "--output", "archive", "--runner=FnApiRunner"]
    write_signs(tmp_path / "images", 5)
    where = [python, "-c", "import pipelines, tsae; print(tsae.__file__, pipelines.__file__)"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (install, run, where):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ)
        assert done.returncode == 0, done.stderr
    assert all(place.startswith(str(site)) for place in done.stdout.split())
    assert (tmp_path / "archive" / "manifest.json").exists()
