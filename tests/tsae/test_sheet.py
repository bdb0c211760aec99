"""The contact sheet: every pixel shown as it is, each original above its decompressed image."""

import numpy as np
import pytest
from PIL import Image

from tsae.sheet import contact_sheet


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def sheet_of(
    originals: np.ndarray | None, decoded: np.ndarray, *, columns: int = 12, scale: int = 3, caption: str = "31.4 dB"
) -> Image.Image:
    captions = [[caption, "512 B"]] * len(decoded)
    return contact_sheet(originals, decoded, captions, title="A", subtitle="b", columns=columns, scale=scale)


def find(sheet: Image.Image, image: np.ndarray, scale: int = 3) -> tuple[int, int]:
    """Left and top of the only place where the enlarged image stands in the sheet, pixel for pixel."""
    pixels, block = np.asarray(sheet), np.kron(image, np.ones((scale, scale, 1), np.uint8))
    height, width = block.shape[:2]
    places = [
        (int(x), int(y))
        for y, x in np.argwhere((pixels == block[0, 0]).all(axis=-1))
        if np.array_equal(pixels[y : y + height, x : x + width], block)
    ]
    assert len(places) == 1
    return places[0]


def test_each_original_stands_straight_above_its_decoded_image() -> None:
    originals, decoded = random_images(5, 1), random_images(5, 2)
    sheet = sheet_of(originals, decoded, columns=3)
    for above, below in zip(originals, decoded, strict=True):
        (x0, y0), (x1, y1) = find(sheet, above), find(sheet, below)
        assert x0 == x1
        assert 96 <= y1 - y0 <= 96 + 10


def test_images_run_along_rows_and_do_not_overlap() -> None:
    decoded = random_images(5)
    places = [find(sheet := sheet_of(None, decoded, columns=3), image) for image in decoded]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3), (x4, y4) = places
    assert y0 == y1 == y2
    assert y3 == y4 >= y0 + 96
    assert x1 - x0 == x2 - x1 >= 96
    assert (x3, x4) == (x0, x1)
    assert x2 + 96 <= sheet.width
    assert y4 + 96 <= sheet.height


def test_another_column_or_row_costs_the_same_each_time() -> None:
    widths = [sheet_of(None, random_images(n), columns=n).width for n in (2, 3, 4)]
    heights = [sheet_of(random_images(n), random_images(n), columns=2).height for n in (2, 3, 4, 5)]
    assert widths[2] - widths[1] == widths[1] - widths[0] >= 96
    assert heights[1] == heights[2]
    assert heights[3] - heights[2] == heights[1] - heights[0] >= 2 * 96


def test_originals_add_one_picture_to_the_height_of_a_row() -> None:
    decoded = random_images(2)
    extra = sheet_of(decoded, decoded).height - sheet_of(None, decoded).height
    assert 96 <= extra <= 96 + 10


def test_fewer_images_than_columns_make_a_narrower_sheet() -> None:
    assert sheet_of(None, random_images(4), columns=12).size == sheet_of(None, random_images(4), columns=4).size


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_scale_enlarges_by_whole_pixels(scale: int) -> None:
    decoded = random_images(2)
    sheet = sheet_of(None, decoded, scale=scale)
    assert find(sheet, decoded[0], scale)[0] < find(sheet, decoded[1], scale)[0]


def test_one_image_with_a_long_title_is_wide_enough_for_it() -> None:
    one = random_images(1)
    short = contact_sheet(one, one, [["a"]], title="T", subtitle="")
    long = contact_sheet(one, one, [["a"]], title="T" * 60, subtitle="")
    assert long.width > short.width
    right_margin = np.asarray(long)[:, -30:]
    assert (right_margin == right_margin[0, 0]).all()


def test_long_captions_do_not_meet() -> None:
    decoded = random_images(2)
    caption = "a rather long caption of an image"
    wide, usual = (sheet_of(None, decoded, caption=words) for words in (caption, "x"))
    step = find(wide, decoded[1])[0] - find(wide, decoded[0])[0]
    assert step > find(usual, decoded[1])[0] - find(usual, decoded[0])[0]


def test_text_is_drawn_where_it_belongs() -> None:
    one = random_images(1)

    def differing_rows(**changes: object) -> np.ndarray:
        usual: dict[str, object] = {"captions": [["31.4 dB"]], "title": "Title", "subtitle": "Subtitle"}
        sheets = [contact_sheet(one, one, **arguments) for arguments in (usual, usual | changes)]  # type: ignore[arg-type]
        first, second = (np.asarray(sheet) for sheet in sheets)
        return np.flatnonzero((first != second).any(axis=(1, 2)))

    top = find(contact_sheet(None, one, [["31.4 dB"]], title="Title", subtitle="Subtitle"), one[0])[1]
    title, subtitle, caption = (
        differing_rows(**change) for change in ({"title": "Tilte"}, {"subtitle": "Subtilte"}, {"captions": [["31.5 dB"]]})
    )
    assert len(title) > 0
    assert len(subtitle) > 0
    assert len(caption) > 0
    assert title.max() < subtitle.min()
    assert subtitle.max() < top
    assert caption.min() >= top + 2 * 96


def test_the_legend_names_both_pictures() -> None:
    one = random_images(1)
    sheet = sheet_of(one, one[:, ::-1])
    x, y = find(sheet, one[0])
    ground = np.asarray(sheet)[0, 0]
    beside_original, beside_decoded = (np.asarray(sheet)[y + d : y + d + 96, : x - 2] for d in (0, 100))
    assert (beside_original != ground).any()
    assert (beside_decoded != ground).any()
    assert not np.array_equal(beside_original, beside_decoded)


def test_the_ground_is_light_and_the_arguments_are_left_alone() -> None:
    originals, decoded = random_images(3, 1), random_images(3, 2)
    kept = originals.copy(), decoded.copy()
    sheet = sheet_of(originals, decoded)
    assert sheet.mode == "RGB"
    assert np.asarray(sheet)[0, 0].min() > 230
    np.testing.assert_array_equal(originals, kept[0])
    np.testing.assert_array_equal(decoded, kept[1])


@pytest.mark.parametrize(
    ("originals", "decoded", "message"),
    [
        (None, np.zeros((2, 32, 32), np.uint8), r"\[2, 32, 32\]"),
        (None, np.zeros((2, 32, 31, 3), np.uint8), r"\[2, 32, 31, 3\]"),
        (None, np.zeros((2, 3, 32, 32), np.uint8), r"\[2, 3, 32, 32\]"),
        (None, np.zeros((2, 32, 32, 3), np.float32), "float32"),
        (None, np.zeros((0, 32, 32, 3), np.uint8), "at least 1"),
        (np.zeros((3, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8), r"\[3, 2\]"),
        (np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8), "original images"),
    ],
)
def test_wrong_images_are_refused(originals: np.ndarray | None, decoded: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sheet_of(originals, decoded)


@pytest.mark.parametrize("captions", [[["a"]], [["a"]] * 3, [["a"], []], [["a"], ["b", "c", "d"]], [["a"], "bc"]])
def test_wrong_captions_are_refused(captions: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="caption"):
        contact_sheet(None, random_images(2), captions, title="", subtitle="")


@pytest.mark.parametrize(("columns", "scale"), [(0, 3), (12, 0), (-1, 3)])
def test_wrong_columns_and_scale_are_refused(columns: int, scale: int) -> None:
    with pytest.raises(ValueError, match=f"columns {columns}, scale {scale}"):
        sheet_of(None, random_images(1), columns=columns, scale=scale)
