"""Draws a contact sheet: small images beside what came back of them, with captions.

Owns the look of the sheet only. Does not read images, measure them or choose their captions.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

_TILE_SIDE = 32  # pixels of an image, each way
_PAPER: Colour = (250, 249, 246)
_INK: Colour = (33, 36, 42)
_SOFT_INK: Colour = (118, 121, 128)
_RULE: Colour = (222, 219, 212)
_MARGIN_PX = 40
_TITLE_PX, _SUBTITLE_PX, _LABEL_PX, _CAPTION_PX = 30, 16, 13, 13  # type sizes
_LINE_PX = 18  # from one caption line to the next
_COLUMN_GAP_PX = 14
_ROW_GAP_PX = 26  # from the captions of one row to the images of the next: wider than any gap inside a row
_PAIR_GAP_PX = 4  # original to decompressed: narrow, so that a pair reads as one thing
_CAPTION_GAP_PX = 7
_HEADER_GAP_PX = 28  # from the rule below the header to the first row
_LABELS = ("original", "decompressed")


@dataclass(frozen=True)
class _Layout:
    """Where things go, in px from the top left corner of the sheet."""

    count: int
    columns: int
    pictures: int  # pictures a cell holds, one above the other: 2 with originals, else 1
    lines: int  # caption lines a cell holds
    tile: int  # side of an enlarged picture
    caption_width: int  # widest caption
    header_width: int
    header_height: int
    label_width: int

    @property
    def cell_width(self) -> int:
        return max(self.tile, self.caption_width)

    @property
    def cell_height(self) -> int:
        pictures = self.pictures * self.tile + (self.pictures - 1) * _PAIR_GAP_PX
        return pictures + _CAPTION_GAP_PX + self.lines * _LINE_PX

    @property
    def rows(self) -> int:
        return -(-self.count // self.columns)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        cells = self.columns * (self.cell_width + _COLUMN_GAP_PX) - _COLUMN_GAP_PX
        width = 2 * _MARGIN_PX + max(self.header_width, self.label_width + cells)
        height = 2 * _MARGIN_PX + self.header_height + self.rows * (self.cell_height + _ROW_GAP_PX) - _ROW_GAP_PX
        return width, height

    def cell(self, index: int) -> tuple[int, int]:
        """Left and top of a cell's first picture."""
        row, column = divmod(index, self.columns)
        left = _MARGIN_PX + self.label_width + column * (self.cell_width + _COLUMN_GAP_PX)
        top = _MARGIN_PX + self.header_height + row * (self.cell_height + _ROW_GAP_PX)
        return left + (self.cell_width - self.tile) // 2, top

    def picture_top(self, which: int) -> int:
        """From the top of a cell to its picture `which`."""
        return which * (self.tile + _PAIR_GAP_PX)


def contact_sheet(
    originals: np.ndarray | None,
    decoded: np.ndarray,
    captions: Sequence[Sequence[str]],
    *,
    title: str,
    subtitle: str,
    columns: int = 12,
    scale: int = 3,
) -> Image.Image:
    """Draws each original above its decompressed image, enlarged pixel by pixel, with captions beneath.

    Args:
        originals: uint8 `[N, 32, 32, 3]`, RGB; None shows the decompressed images alone.
        decoded: uint8 `[N, 32, 32, 3]`, RGB, N at least 1.
        captions: N sequences of one or two short strings, such as `["31.4 dB", "512 B"]`.
        title: one line, set large.
        subtitle: one line below it; may be empty.
        columns: most images side by side, 1 or more; fewer images make a narrower sheet.
        scale: sheet pixels for a pixel of an image, each way, 1 or more.

    Returns:
        The sheet, mode RGB, on a light ground.

    Raises:
        ValueError: if an array, the captions, `columns` or `scale` is not as described.
    """
    stacks = [decoded] if originals is None else [originals, decoded]
    _check_images(stacks)
    _check_captions(captions, len(decoded))
    if columns < 1 or scale < 1:
        raise ValueError(f"columns {columns}, scale {scale}: both must be 1 or more")
    layout = _lay_out(len(stacks), captions, title, subtitle, columns, scale)
    sheet = Image.new("RGB", layout.size, _PAPER)
    _draw_header(sheet, title, subtitle)
    _draw_row_labels(sheet, layout)
    for index, lines in enumerate(captions):
        _draw_cell(sheet, layout, index, [stack[index] for stack in stacks], lines, scale)
    return sheet


def _check_images(stacks: Sequence[np.ndarray]) -> None:
    for name, images in zip(_LABELS[-len(stacks) :], stacks, strict=True):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (_TILE_SIDE, _TILE_SIDE, 3):
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"{name} images are {found}: they must be uint8 [N, 32, 32, 3]; resize or cast them first")
    counts = [len(images) for images in stacks]
    if 0 in counts or len(set(counts)) > 1:
        raise ValueError(f"images: {counts}: every stack must hold the same number of them, at least 1")


def _check_captions(captions: Sequence[Sequence[str]], count: int) -> None:
    if len(captions) != count:
        raise ValueError(f"{len(captions)} captions for {count} images: there must be one list of strings an image")
    for index, lines in enumerate(captions):
        if isinstance(lines, str) or not 1 <= len(lines) <= 2:
            raise ValueError(f"caption {index} is {lines!r}: it must be a list of one or two strings")


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _text_width(text: str, size_px: int) -> int:
    return -int(-_font(size_px).getlength(text) // 1)


def _header_height(subtitle: str) -> int:
    return _TITLE_PX + (_SUBTITLE_PX + 12 if subtitle else 0) + 20 + _HEADER_GAP_PX


def _lay_out(pictures: int, captions: Sequence[Sequence[str]], title: str, subtitle: str, columns: int, scale: int) -> _Layout:
    labels = max(_text_width(label, _LABEL_PX) for label in _LABELS[-pictures:])
    return _Layout(
        count=len(captions),
        columns=min(columns, len(captions)),
        pictures=pictures,
        lines=max(map(len, captions)),
        tile=_TILE_SIDE * scale,
        caption_width=max(_text_width(line, _CAPTION_PX) for lines in captions for line in lines),
        header_width=max(_text_width(title, _TITLE_PX), _text_width(subtitle, _SUBTITLE_PX)),
        header_height=_header_height(subtitle),
        label_width=labels + _COLUMN_GAP_PX,
    )


def _draw_header(sheet: Image.Image, title: str, subtitle: str) -> None:
    draw = ImageDraw.Draw(sheet)
    # The embedded face has one weight; a hairline around each letter makes the title a little bolder.
    draw.text((_MARGIN_PX, _MARGIN_PX + _TITLE_PX), title, _INK, _font(_TITLE_PX), anchor="ls", stroke_width=0.4)
    if subtitle:
        baseline = _MARGIN_PX + _TITLE_PX + 12 + _SUBTITLE_PX
        draw.text((_MARGIN_PX, baseline), subtitle, _SOFT_INK, _font(_SUBTITLE_PX), anchor="ls")
    y = _MARGIN_PX + _header_height(subtitle) - _HEADER_GAP_PX
    draw.line((_MARGIN_PX, y, sheet.width - _MARGIN_PX - 1, y), fill=_RULE)


def _draw_row_labels(sheet: Image.Image, layout: _Layout) -> None:
    """The legend: left of each row, each picture's word at its height; said once where there is one picture a cell."""
    draw = ImageDraw.Draw(sheet)
    right = _MARGIN_PX + layout.label_width - _COLUMN_GAP_PX
    for row in range(layout.rows if layout.pictures > 1 else 1):
        _, top = layout.cell(row * layout.columns)
        for which, label in enumerate(_LABELS[-layout.pictures :]):
            y = top + layout.picture_top(which) + layout.tile // 2
            draw.text((right, y), label, _SOFT_INK, _font(_LABEL_PX), anchor="rm")


def _draw_cell(
    sheet: Image.Image, layout: _Layout, index: int, images: Sequence[np.ndarray], lines: Sequence[str], scale: int
) -> None:
    left, top = layout.cell(index)
    draw = ImageDraw.Draw(sheet)
    for which, image in enumerate(images):
        # Whole copies of each pixel: any smoothing would flatter or blame the codec.
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        x, y = left, top + layout.picture_top(which)
        sheet.paste(Image.fromarray(enlarged), (x, y))
        draw.rectangle((x - 1, y - 1, x + layout.tile, y + layout.tile), outline=_RULE)  # outside: keeps white apart
    baseline = top + layout.cell_height - layout.lines * _LINE_PX + _CAPTION_PX
    for line, colour in zip(lines, (_INK, _SOFT_INK), strict=False):
        draw.text((left + layout.tile / 2, baseline), line, colour, _font(_CAPTION_PX), anchor="ms")
        baseline += _LINE_PX
