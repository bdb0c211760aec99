"""benchmarks/scaling.py: sizes, table and plot; and a small run from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peers.watch import Watched
from scaling import plot, result_table, sizes_bytes, to_row

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_sizes_are_those_of_files_and_of_their_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(5000))
    (tmp_path / "c").write_bytes(bytes(1))
    size, disk = sizes_bytes(tmp_path)
    assert size == 5001
    assert disk % 512 == 0


def test_rows_are_shown_and_drawn(tmp_path: Path) -> None:
    watched = Watched(2.0, 0, "", "", 300.0, 100.0, [120.0, 80.0])
    rows = [to_row(direction, images, watched, tmp_path) for direction in ("compress", "decompress") for images in (10, 100)]
    assert rows[0]["images_per_s"] == 5
    cells = [cell.strip() for cell in result_table(rows).splitlines()[2].split("|")[1:-1]]
    assert cells[:8] == ["compress", "10", "2", "5", "200,000", "300", "100", "120"]
    plot(rows, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 100


@pytest.mark.slow
def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    arguments = ["--images", "5", "20", "--model", "seed-8x8x8", "--workers", "1", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(BENCHMARKS / "scaling.py"), *arguments], check=True)
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [(row["direction"], row["images"]) for row in rows] == [(d, n) for n in (5, 20) for d in ("compress", "decompress")]
    assert all(row["bytes"] and row["peak_mb"] for row in rows)
    assert "decompress" in (tmp_path / "scaling.md").read_text()
