"""The drawn signs: the same from the same seed, varied, and written as a labelled tree."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.signs import LABELS, DrawnSign, draw_sign, draw_signs, write_signs


@pytest.fixture(scope="module")
def series() -> list[DrawnSign]:
    return list(draw_signs(400, seed=3))


def test_same_seed_gives_the_same_pixels(series: list[DrawnSign]) -> None:
    for index in (0, 7, 399):
        again = draw_sign(index, seed=3)
        assert (again.key, again.label) == (series[index].key, series[index].label)
        np.testing.assert_array_equal(again.image, series[index].image)


def test_a_sign_does_not_depend_on_how_many_are_drawn(series: list[DrawnSign]) -> None:
    for short, long in zip(draw_signs(3, seed=3), series, strict=False):
        np.testing.assert_array_equal(short.image, long.image)


def test_no_two_images_of_a_series_are_equal(series: list[DrawnSign]) -> None:
    assert len({sign.image.tobytes() for sign in series}) == len(series)


def test_other_seed_gives_another_series(series: list[DrawnSign]) -> None:
    other = list(draw_signs(20, seed=4))
    assert [sign.label for sign in other] != [sign.label for sign in series[:20]]
    # Seed and index must not be added up: neighbours in one series would come again in the next.
    assert not {sign.image.tobytes() for sign in other} & {sign.image.tobytes() for sign in series}


def test_drawing_leaves_numpys_global_generator_alone() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    draw_sign(0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_images_are_uint8_rgb_of_native_sizes(series: list[DrawnSign]) -> None:
    sides = np.array([sign.image.shape[:2] for sign in series])
    assert all(sign.image.dtype == np.uint8 and sign.image.shape[2:] == (3,) for sign in series)
    assert 25 <= sides.min() < 32
    assert 90 < sides.max() <= 130
    assert 40 <= np.median(sides) <= 50
    assert 0.2 < np.mean(sides[:, 0] != sides[:, 1]) <= 1.0


def test_every_label_appears_about_as_often_as_any_other(series: list[DrawnSign]) -> None:
    counts = {label: sum(sign.label == label for sign in series) for label in LABELS}
    assert len(LABELS) >= 25
    assert len(set(LABELS)) == len(LABELS)
    assert min(counts.values()) >= 1
    assert max(counts.values()) < 400 / len(LABELS) * 3
    assert {"speed-50", "stop", "yield"} <= set(LABELS)


def test_labels_are_slugs_and_keys_are_made_of_them(series: list[DrawnSign]) -> None:
    assert all(label == label.lower() and label.replace("-", "").isalnum() for label in LABELS)
    assert [sign.key for sign in series] == [f"{sign.label}/{index:05d}.png" for index, sign in enumerate(series)]


def test_light_runs_from_dusk_to_glare_and_contrast_from_flat_to_full(series: list[DrawnSign]) -> None:
    means = np.array([sign.image.mean() for sign in series])
    spreads = np.array([sign.image.std() for sign in series])
    assert 0.12 < np.mean(means < 40) < 0.35
    assert np.mean(means > 150) > 0.05
    assert 0.05 < np.mean((spreads < 20) & (means > 50)) < 0.25
    assert np.mean(spreads > 50) > 0.15


def test_no_image_is_empty(series: list[DrawnSign]) -> None:
    assert min(sign.image.std() for sign in series) > 1


def test_signs_of_a_kind_share_their_colour(series: list[DrawnSign]) -> None:
    def blueness(*labels: str) -> float:
        """Mean of (blue - red) in the middle of the images, over their brightness."""
        middles = [middle(sign.image) for sign in series if sign.label in labels and sign.image.mean() > 60]
        return float(np.mean([(m[..., 2].mean() - m[..., 0].mean()) / m.mean() for m in middles]))

    def middle(image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        return image[h // 4 : -h // 4, w // 4 : -w // 4].astype(float)

    assert blueness("ahead", "turn-left", "turn-right", "roundabout") > 0.2
    assert blueness("stop", "no-entry", "priority-road") < -0.2


@pytest.mark.parametrize(("index", "seed"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(index: int, seed: int) -> None:
    with pytest.raises(ValueError, match=f"index {index}, seed {seed}"):
        draw_sign(index, seed)


def test_a_negative_count_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="count -1"):
        draw_signs(-1)
    with pytest.raises(ValueError, match="seed -2"):
        draw_signs(1, seed=-2)


def test_the_tree_holds_the_drawn_pixels(tmp_path: Path) -> None:
    keys = write_signs(tmp_path / "new" / "signs", 12, seed=5)
    drawn = list(draw_signs(12, seed=5))
    assert keys == [sign.key for sign in drawn]
    found = {path.relative_to(tmp_path / "new" / "signs").as_posix() for path in tmp_path.rglob("*.png")}
    assert found == set(keys)
    for sign in drawn:
        with Image.open(tmp_path / "new" / "signs" / sign.key) as file:
            assert file.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(file), sign.image)


def test_labels_csv_names_every_image(tmp_path: Path) -> None:
    keys = write_signs(tmp_path, 5)
    assert (tmp_path / "labels.csv").read_bytes().startswith(b"path,label\n")
    with open(tmp_path / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == keys
    assert all(row["label"] == row["path"].split("/")[0] for row in rows)


def test_writing_nothing_still_writes_the_header(tmp_path: Path) -> None:
    assert write_signs(tmp_path / "none", 0) == []
    assert (tmp_path / "none" / "labels.csv").read_bytes() == b"path,label\n"
