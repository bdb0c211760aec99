"""Fixtures: a folder of drawn signs and an archive of it, made once by the command line itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsae.cli import main
from tsae.signs import write_signs

SIGNS = 40


@pytest.fixture(scope="session")
def signs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn signs with labels.csv; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("signs") / "images"
    write_signs(folder, SIGNS)
    return folder


@pytest.fixture(scope="session")
def archive_dir(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their archive; not to be changed by a test."""
    archive = tmp_path_factory.mktemp("archives") / "signs"
    assert main(["compress", str(signs_dir), str(archive)]) == 0
    return archive
