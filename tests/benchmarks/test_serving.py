"""benchmarks/serving.py, as far as it needs neither wrk nor nginx."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import serving


def test_made_up_columns_are_answered() -> None:
    found = serving.measure_columns(20_000)
    assert found["records"] == 20_000
    assert set(found["again_ms"]) == {"key", "psnr", "label", "prefix"}


def test_the_others_get_the_images_of_the_archive(archive_dir: Path, tmp_path: Path) -> None:
    serving.write_files(str(archive_dir), tmp_path)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 40


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_tells_figures_of_random_keys(archive_dir: Path) -> None:
    with serving.served(str(archive_dir)) as (port, pid):
        found = serving.wrk(port, 2, 1, "/stats")
        assert found["failed"] == 0
        assert found["requests"] > 0
        assert serving.wrk(port, 2, 1, "/images/", 10)["failed"] > 0  # keys that this archive does not have
        assert serving.rss_mb(pid) > 1
