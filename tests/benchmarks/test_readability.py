"""The parts of benchmarks/readability.py: rivals at equal bytes, comparisons, and what the tables say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import readability
from reading import report
from reading.coded import Data, code_rival
from reading.read import compare, describe

from tsae.evaluation.facts import Facts, Readings
from tsae.images import resize
from tsae.signs import draw_signs

CLASSES = ("0", "1")


@pytest.fixture(scope="module")
def data() -> Data:
    signs = list(draw_signs(12))
    images = np.stack([resize(Image.fromarray(sign.image)) for sign in signs])
    return Data((), [sign.key for sign in signs], [sign.label for sign in signs], np.full(12, 40), images)


@pytest.mark.parametrize("least_bytes", [150, 300, 500])
def test_a_rival_gets_the_lowest_quality_that_is_not_smaller(data: Data, least_bytes: int, tmp_path: Path) -> None:
    found = code_rival(data, "WebP", least_bytes, tmp_path)
    assert found.bytes_per_image >= least_bytes
    assert found.bytes_per_image == found.sizes_bytes.mean()
    quality = int(found.setting.split()[1])
    below = code_rival(data, "WebP", found.bytes_per_image - 1e-6, None)
    assert int(below.setting.split()[1]) == quality
    again = code_rival(data, "WebP", least_bytes, tmp_path)
    np.testing.assert_array_equal(again.decoded, found.decoded)


def test_a_rival_that_cannot_go_so_low_gives_its_smallest_files(data: Data) -> None:
    assert code_rival(data, "WebP", 1, None).setting == "quality 0"


def read(decoded: list[int]) -> Readings:
    count = len(decoded)
    values = np.linspace(30, 40, count)
    sizes, flags, zeros = np.full(count, 100), np.zeros(count, bool), np.zeros(count, np.int64)
    keys = [f"{row}.png" for row in range(count)]
    columns = (sizes, sizes, flags, values, values / 40, values, values, zeros, np.array(decoded), values / 40, values / 40)
    return Readings(Facts(keys, ["0"] * count, *columns), CLASSES)


def test_two_coders_are_compared_image_by_image() -> None:
    found = compare(read([0, 0, 0, 0, 0, 0, 0, 1]), read([1, 1, 1, 1, 1, 1, 0, 0]))
    assert (found["only_ours"], found["only_theirs"]) == (6, 1)
    assert found["gain_points"] == pytest.approx(62.5)
    assert found["mcnemar_p"] == pytest.approx(2 * 8 / 128)
    assert found["interval_95_points"][0] < 62.5 < found["interval_95_points"][1]


def point(coder: str, setting: str, decoded: list[int], size: float = 100.0) -> dict[str, Any]:
    from reading.coded import Coded

    empty = np.empty((0, 32, 32, 3), np.uint8)
    return describe(Coded(coder, setting, size, empty, np.empty(0), {"quality": 1, "lossless": 0}), read(decoded))


def test_targets_and_tables_say_what_is_met(tmp_path: Path) -> None:
    good, bad = [0] * 20, [1] * 10 + [0] * 10
    points = [point("seed-8x8x8", "", good), *(point("tsae", f"{size} bytes", good) for size in (256, 128))]
    points += [point("tsae", "80 bytes", bad), point("tsae", "quality 1", good), point("WebP", "quality 0", bad)]
    versus = {
        "ours": "tsae, 128 bytes",
        "our_bytes": 100.0,
        "rival": "WebP, quality 0",
        "their_bytes": 110.0,
        "is_smallest": True,
    }
    kept = {
        **point("tsae", "quality 1", good),
        "bytes_without": 90.0,
        "changed_without": 3,
        "changed": 0,
        "lost_without": 2,
        "lost_to_judge_without": 4,
        "lost_to_judge": 1,
    }
    compared = compare(read(good), read(bad))
    by_judge = compare(read(bad), read(good))
    comparisons = [{**versus, **compared, "by_judge": by_judge}]
    result: dict[str, Any] = {"points": points, "comparisons": comparisons, "kept": [kept]}
    rows = readability.targets(result)
    assert [row["is_met"] for row in rows] == [True, True, True, False, True, True]
    result |= {"targets": rows, "images": 20, "data": "drawn", "date": "", "commit": "", "machine": "", "python": ""}
    result |= {
        "packages": {},
        "libraries": {},
        "command": "",
        "accuracy_originals": 1.0,
        "classifier": {"name": "c", "sha256": "5" * 64},
    }
    text = report.markdown(result)
    for line in ("WebP, quality 0 (smallest)", "| better", "| -50.00", "| WORSE", "+11.11 %", "| NO "):
        assert line in text
    assert json.loads(report.to_json(result))["points"][3]["lost_keys"] == [f"{row}.png" for row in range(10)]
    report.draw(tmp_path / "plot.png", result)
    assert Image.open(tmp_path / "plot.png").size == (1170, 715)


def test_without_a_difference_nothing_is_claimed() -> None:
    same = compare(read([0] * 20), read([0] * 20))
    row = {"ours": "a", "our_bytes": 1.0, "rival": "b", "their_bytes": 1.0, "is_smallest": False, **same}
    assert "no difference shown" in report._comparisons([row])
