"""The wheel and the source archive: both packages, weights, cards, and the command."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tsae.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and source archive, built from a copy of the tracked files' folders."""
    import shutil

    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("tsae", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_wheel_holds_both_packages_the_weights_and_their_cards(dist: Path) -> None:
    names = set(zipfile.ZipFile(next(dist.glob("*.whl"))).namelist())
    for entry in ZOO.values():
        assert {f"tsae/weights/{entry.file}", f"tsae/weights/{entry.card}"} <= names
    modules = {p.relative_to(ROOT).as_posix() for package in ("tsae", "pipelines") for p in (ROOT / package).rglob("*.py")}
    assert modules | {"tsae/py.typed"} <= names
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
