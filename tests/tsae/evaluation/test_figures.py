"""Figures and verdicts of made-up facts, worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tsae.evaluation.facts import Facts, Readings
from tsae.evaluation.figures import describe_images, round_width
from tsae.evaluation.verdict import judge

CLASSES = ("stop", "yield", "10", "9")


def make_facts(original: list[int], decoded: list[int], labels: list[str | None], **columns: Any) -> Facts:
    count = len(original)
    given: dict[str, Any] = {
        "keys": [f"{i}.png" for i in range(count)],
        "labels": labels,
        "sizes_px": np.full(count, 45),
        "sizes_bytes": np.arange(count) + 100,
        "is_exact": np.zeros(count, bool),
        "psnrs_db": np.linspace(20, 40, count),
        "ssims": np.linspace(0.5, 1, count),
        "lumas": np.full(count, 100.0),
        "sharpness": np.arange(count, dtype=float),
        "read_original": np.array(original),
        "read_decoded": np.array(decoded),
        "sure_original": np.full(count, 0.9),
        "sure_decoded": np.full(count, 0.8),
    }
    return Facts(**(given | columns))


def describe(original: list[int], decoded: list[int], labels: list[str | None], **columns: Any) -> dict[str, Any]:
    return describe_images(Readings(make_facts(original, decoded, labels, **columns), CLASSES))


def test_what_is_lost_gained_and_agreed() -> None:
    labels: list[str | None] = ["stop", "stop", "stop", "yield", "yield", "9"]
    figures = describe([0, 0, 1, 1, 1, 2], [0, 1, 0, 1, 0, 3], labels)
    assert [row["key"] for row in figures["lost"]] == ["1.png", "4.png"]
    assert [row["key"] for row in figures["gained"]] == ["2.png", "5.png"]
    assert figures["agreement"] == pytest.approx(2 / 6)
    accuracy = figures["accuracy"]
    assert (accuracy["originals"], accuracy["decoded"], accuracy["images"]) == (4 / 6, 4 / 6, 6)
    assert (accuracy["lost"], accuracy["gained"], accuracy["drop_points"], accuracy["mcnemar_p"]) == (2, 2, 0, 1)
    assert figures["confusions"] == [
        {"from": "stop", "to": "yield", "images": 1, "keys": ["1.png"]},
        {"from": "yield", "to": "stop", "images": 1, "keys": ["4.png"]},
    ]


def test_the_most_frequent_confusion_comes_first() -> None:
    figures = describe([0, 1, 1], [1, 0, 0], ["stop", "yield", "yield"])
    assert [(row["from"], row["images"]) for row in figures["confusions"]] == [("yield", 2), ("stop", 1)]


def test_without_a_known_label_the_original_is_what_counts() -> None:
    figures = describe([0, 1, 2], [0, 2, 2], [None, "unheard of", None])
    assert "accuracy" not in figures
    assert [(row["key"], row["read_original"], row["read_decoded"]) for row in figures["lost"]] == [("1.png", "yield", "10")]
    assert [row["label"] for row in figures["labels"]] == ["(none)", "unheard of"]


def test_accuracy_is_of_those_with_labels_only() -> None:
    figures = describe([0, 0, 0, 0], [0, 1, 1, 1], ["stop", "stop", None, None])
    assert (figures["accuracy"]["images"], figures["accuracy"]["decoded"]) == (2, 0.5)
    assert len(figures["lost"]) == 3


def test_percentiles_are_numpys_and_the_worst_come_first() -> None:
    psnrs_db = np.random.default_rng(0).normal(33, 3, 100)
    figures = describe([0] * 100, [0] * 100, ["stop"] * 100, psnrs_db=psnrs_db)
    assert figures["psnr_db"]["mean"] == pytest.approx(psnrs_db.mean())
    assert figures["psnr_db"]["p1"] == pytest.approx(np.percentile(psnrs_db, 1))
    assert [row["psnr_db"] for row in figures["worst"]] == sorted(psnrs_db)[:32]
    assert sum(figures["distributions"]["psnr_db"]["counts"]) == 100


def test_exact_images_are_in_no_histogram_of_psnr() -> None:
    figures = describe([0] * 3, [0] * 3, [None] * 3, psnrs_db=np.array([30.0, 100.0, 100.0]))
    assert (figures["exact"], sum(figures["distributions"]["psnr_db"]["counts"])) == (2, 1)
    assert describe([0], [0], [None], psnrs_db=np.array([100.0]))["distributions"]["psnr_db"] == {"edges": [], "counts": []}


def test_labels_are_in_the_order_of_numbers_before_names() -> None:
    figures = describe([0] * 4, [0] * 4, ["10", "stop", "9", "yield"])
    assert [row["label"] for row in figures["labels"]] == ["9", "10", "stop", "yield"]
    assert figures["labels"][0]["accuracy"] == {"originals": 0, "decoded": 0}


def test_bands_hold_every_image_once() -> None:
    count = 50
    figures = describe(
        [0] * count,
        [0] * 25 + [1] * 25,
        ["stop"] * count,
        lumas=np.linspace(0, 255, count),
        sizes_px=np.linspace(20, 250, count).astype(int),
        sharpness=np.linspace(0, 5000, count),
    )
    for name in ("darkness", "blur", "size"):
        rows = figures[name]
        assert sum(row["images"] for row in rows) == count
        assert sum(row["lost"] for row in rows) == 25
        assert [row["to"] for row in rows[:-1]] == [row["from"] for row in rows[1:]]
        assert rows[-1]["to"] is None
    assert [row["images"] for row in figures["blur"]] == [10] * 5
    assert figures["darkness"][0]["accuracy"]["decoded"] == 1
    assert figures["darkness"][-1]["accuracy"]["decoded"] == pytest.approx(1 / 26)


def test_flat_images_have_one_band_of_blur() -> None:
    figures = describe([0] * 9, [0] * 9, [None] * 9, sharpness=np.zeros(9))
    assert [row["images"] for row in figures["blur"]] == [9]


@pytest.mark.parametrize(("width", "rounded"), [(0, 1), (0.03, 0.05), (1, 1), (1.2, 2), (7, 10), (500, 500)])
def test_bins_have_round_widths(width: float, rounded: float) -> None:
    assert round_width(width) == pytest.approx(rounded)


def verdict(figures: dict[str, Any], **problems: int) -> dict[str, Any]:
    counts = {name.replace("_", " "): images for name, images in problems.items()}
    total = figures["images"] + sum(counts.values())
    beside = {"archive_images": total, "problems": {"counts": counts, "first": []}, "classifier": {"was_asked": False}}
    return judge(beside | figures)


def levels(found: dict[str, Any]) -> list[str]:
    return [reason["level"] for reason in found["reasons"]]


@pytest.mark.parametrize(
    ("lost", "level"),
    [(0, "good"), (5, "good"), (6, "fair"), (20, "fair"), (21, "poor")],
)
def test_readability_is_judged_by_the_drop_of_accuracy(lost: int, level: str) -> None:
    count = 1000
    found = verdict(describe([0] * count, [1] * lost + [0] * (count - lost), ["stop"] * count, psnrs_db=np.full(count, 33.0)))
    assert (found["level"], levels(found)) == (level, [level, "good", "good"])
    assert found["line"].lower().startswith(level)


def test_what_may_be_chance_is_not_poor() -> None:
    found = verdict(describe([0] * 20, [1] + [0] * 19, ["stop"] * 20, psnrs_db=np.full(20, 33.0)))
    assert levels(found) == ["fair", "good", "good", "note"]
    assert "one is 5.0 points" in found["reasons"][3]["text"]


def test_without_labels_changed_readings_count_unless_the_classifier_is_lost_itself() -> None:
    count = 300
    changed = ([0] * count, [1] * 60 + [0] * 240, [None] * count)
    steady = {"psnrs_db": np.full(count, 33.0)}
    assert verdict(describe(*changed, **steady))["level"] == "poor"
    unsure = verdict(describe(*changed, **steady, sure_original=np.full(count, 0.4)))
    assert (unsure["level"], levels(unsure)[0]) == ("good", "note")
    assert "40.0 % sure of the originals" in unsure["reasons"][0]["text"]
    assert "says little" in unsure["reasons"][0]["text"]


NOT_BY_READING = "not judged by reading: the classifier is not sure of these originals."


@pytest.mark.parametrize(
    ("psnr_db", "problems", "line"),
    [
        (33.0, {}, f"Good by PSNR; {NOT_BY_READING}"),
        (22.0, {}, f"Fair: some images come back coarse; {NOT_BY_READING}"),
        (33.0, {"damaged_records": 1}, f"Poor: records of the archive are damaged; {NOT_BY_READING}"),
    ],
)
def test_a_verdict_that_does_not_rest_on_reading_says_so_in_its_line(
    psnr_db: float, problems: dict[str, int], line: str
) -> None:
    columns = {"psnrs_db": np.full(300, psnr_db), "sure_original": np.full(300, 0.4)}
    found = verdict(describe([0] * 300, [0] * 300, [None] * 300, **columns), **problems)
    assert (found["line"], found["by_reading"]) == (line, False)


def test_labels_count_even_where_the_classifier_is_not_sure_which_is_said() -> None:
    columns = {"psnrs_db": np.full(300, 33.0), "sure_original": np.full(300, 0.4)}
    found = verdict(describe([0] * 300, [0] * 300, ["stop"] * 300, **columns))
    assert found["line"] == "Good: the signs stay readable; the classifier is not sure of these originals."
    assert found["by_reading"]
    assert levels(found) == ["good", "good", "good", "note"]


def test_that_compression_has_asked_the_same_classifier_is_told() -> None:
    figures = describe([0] * 300, [0] * 300, ["stop"] * 300, psnrs_db=np.full(300, 33.0))
    found = verdict(figures | {"classifier": {"was_asked": True}})
    assert levels(found) == ["good", "good", "good", "note"]
    assert "another may lose more" in found["reasons"][-1]["text"]


def test_coarse_images_and_missing_ones_are_told_even_if_signs_are_read() -> None:
    fine = ([0] * 300, [0] * 300, ["stop"] * 300)
    coarse = verdict(describe(*fine, psnrs_db=np.full(300, 18.0)))
    assert (coarse["level"], levels(coarse)) == ("poor", ["good", "poor", "good"])
    assert coarse["line"] == "Poor: some images come back very coarse."
    steady = describe(*fine, psnrs_db=np.full(300, 33.0))
    assert verdict(steady, missing_originals=3)["line"] == "Fair: not all images could be measured."
    damaged = verdict(steady, damaged_records=1)
    assert (damaged["level"], damaged["line"]) == ("poor", "Poor: records of the archive are damaged.")
