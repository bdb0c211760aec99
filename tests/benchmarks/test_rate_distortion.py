"""The pure parts of benchmarks/rate_distortion.py: curves, and comparisons at equal PSNR or equal bytes."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rd.curves import Curve, best_at_bytes, best_at_psnr, best_of, bjontegaard_rate, curves_of, rate_columns
from rd.linear import ideal_bits
from rd.points import Point, select
from rd.summary import summarize


def point(curve: str, size: float, psnr_db: float, p1_db: float = 20.0, mse: float | None = 1.0) -> Point:
    return Point(curve, "", size, psnr_db, mse, p1_db, 0.9)


def line(curve: str, scale: float, low_db: int = 26, high_db: int = 40) -> Curve:
    """Bytes that double every 4 dB."""
    return Curve.of([point(curve, scale * 2 ** (db / 4), db, db - 5) for db in range(low_db, high_db + 1, 2)])


def test_between_points_log_bytes_are_linear_in_psnr() -> None:
    curve = Curve.of([point("a", 400, 34), point("a", 100, 30)])
    assert curve.bytes_at(32) == pytest.approx(200)
    assert curve.at_bytes(200, "psnr_mean_db") == pytest.approx(32)
    assert curve.bytes_at(30) == pytest.approx(100)


def test_outside_a_curve_there_is_nothing() -> None:
    curve = Curve.of([point("a", 400, 34), point("a", 100, 30)])
    assert curve.bytes_at(29.9) is None
    assert curve.bytes_at(34.1) is None
    assert curve.at_psnr(32, "encode_us") is None


def test_points_that_another_beats_are_left_out() -> None:
    curve = Curve.of([point("a", 100, 30), point("a", 150, 29), point("a", 200, 31), point("a", 210, 31)])
    assert [p.bytes_per_image for p in curve.points] == [100, 200]


def test_exact_points_are_on_no_curve() -> None:
    assert list(curves_of([point("a", 100, 30), point("b", 900, 100, mse=None)])) == ["a"]


def test_the_best_rival_is_that_of_each_place() -> None:
    rivals = {"a": line("a", 1), "b": line("b", 2), "c": line("c", 0.5, 26, 30)}
    name, size = best_at_psnr(rivals, 29) or ("", 0)
    assert (name, size) == ("c", pytest.approx(0.5 * 2 ** (29 / 4)))
    assert (best_at_psnr(rivals, 31) or ("",))[0] == "a"
    assert best_at_psnr(rivals, 50) is None
    assert best_at_bytes(rivals, 2 ** (32 / 4), "psnr_p1_db") == ("a", pytest.approx(27))


def test_bjontegaard_of_a_curve_of_half_the_bytes_is_minus_half() -> None:
    pytest.importorskip("bjontegaard")
    for method in ("pchip", "akima"):
        found = bjontegaard_rate(rate_columns(line("a", 2)), rate_columns(line("b", 1, 28, 36)), 27, 38, method)
        assert found is not None
        assert found["percent"] == pytest.approx(-50)
        assert (found["low_db"], found["high_db"]) == (28, 36)
    assert bjontegaard_rate(rate_columns(line("a", 2)), rate_columns(line("b", 1)), 41, 50) is None


def test_bjontegaard_against_the_best_of_several() -> None:
    pytest.importorskip("bjontegaard")
    rivals = {"a": line("a", 2), "b": line("b", 4)}
    found = bjontegaard_rate(best_of(rivals, 28, 38), rate_columns(line("c", 1)), 28, 38)
    assert found is not None
    assert found["percent"] == pytest.approx(-50, abs=0.01)


def test_a_single_point_is_compared_at_its_own_psnr() -> None:
    pytest.importorskip("bjontegaard")
    summary = summarize(Curve.of([point("ours", 2 ** (30 / 4), 30, 24)]), {"a": line("a", 2)}, {})
    (row,) = summary["at_own_points"]
    assert row["ratio"] == pytest.approx(0.5)
    assert row["best_rival"] == "a"
    assert summary["at_equal_psnr"][0]["ours"] is None


def test_ideal_bits_are_those_of_the_seen_frequencies() -> None:
    seen = np.repeat([0, 1], [3000, 1000]).astype(np.int32)
    bits = ideal_bits(seen, np.array([0, 1], np.int32))
    assert bits == pytest.approx(-math.log2(0.75) - math.log2(0.25), abs=1e-3)
    assert ideal_bits(seen, np.array([5], np.int32)) > 12


def test_select_spreads_evenly() -> None:
    assert select(101, 3).tolist() == [0, 50, 100]
    assert select(3, None).tolist() == select(3, 10).tolist() == [0, 1, 2]
