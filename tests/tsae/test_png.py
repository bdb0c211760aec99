"""PNG files: the short way for plain ones, how they are written, and the tags in them."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tsae import png
from tsae.errors import ImageError
from tsae.images import MAX_PIXELS, decode_image, encode_image
from tsae.png import HEAD_BYTES, read_head
from tsae.signs import draw_sign

Array = NDArray[Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of metadata; `tsae.images` silences them, pytest wakes them up
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

SIGN: Array = draw_sign(3).image


def file_of(image: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def by_pillow(data: bytes) -> Array:
    """Pixels, once Pillow has looked at every checksum as well."""
    Image.open(io.BytesIO(data)).verify()
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


# Writing


@st.composite
def batches(draw: st.DrawFn) -> Array:
    """Images of one size, some of few colours, so that the filter meets ties."""
    shape = [draw(st.integers(1, most)) for most in (4, 40, 40)]
    levels = draw(st.sampled_from([1, 2, 3, 256]))
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, levels, (*shape, 3), np.uint8)


@given(batches(), st.sampled_from([1, 100, 5000, png.FILTERED_BYTES]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_pixel_comes_back(batch: Array, filtered_bytes: int) -> None:
    """However many images, or few rows of one, are filtered at once."""
    tags = [None if i % 2 else f"tag {i}" for i in range(len(batch))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "FILTERED_BYTES", filtered_bytes)
        files = list(png.encode(batch, tags))
    for file, image, tag in zip(files, batch, tags, strict=True):
        np.testing.assert_array_equal(by_pillow(file), image)
        assert read_head(file[:HEAD_BYTES]) == (image.shape[1::-1], tag)


@given(batches())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rows_are_filtered_as_paeth_says(batch: Array) -> None:
    np.testing.assert_array_equal(png.filter_rows(batch), np.stack([filter_plainly(image) for image in batch]))


def filter_plainly(image: Array) -> Array:
    """The text of PNG's specification, pixel by pixel."""
    height, width, channels = image.shape
    values = np.zeros((height + 1, width + 1, channels), int)
    values[1:, 1:] = image
    left = np.empty((height, width, channels), np.uint8)
    for y, x, channel in np.ndindex(left.shape):
        a, b, c = values[y + 1, x, channel], values[y, x + 1, channel], values[y, x, channel]
        estimate = a + b - c
        nearest = min((a, b, c), key=lambda value: abs(estimate - value))  # the first of equals
        left[y, x, channel] = (values[y + 1, x + 1, channel] - nearest) % 256
    return np.concatenate([np.full((height, 1), 4, np.uint8), left.reshape(height, -1)], axis=1)


def test_photographs_and_plain_colours_become_small() -> None:
    """At most 5 % above what Pillow makes of a photograph with all its effort, and next to nothing of one colour."""
    assert len(encode_image(SIGN)) < 1.05 * len(file_of(SIGN, optimize=True))
    assert len(encode_image(np.full((200, 200, 3), 90, np.uint8))) < 1000


# Tags


TAG = "1a2b3c4d 290e7f15eb2d409c"


def test_a_tag_changes_nothing_but_one_chunk_after_the_header() -> None:
    plain, tagged = encode_image(SIGN), encode_image(SIGN, tag=TAG)
    assert tagged == plain[:33] + chunk(b"tEXt", b"tsae\0" + TAG.encode()) + plain[33:]
    assert Image.open(io.BytesIO(tagged)).info == {"tsae": TAG}
    np.testing.assert_array_equal(by_pillow(tagged), SIGN)


def test_the_head_of_a_png_file_tells_size_and_tag() -> None:
    height, width = SIGN.shape[:2]
    assert read_head(encode_image(SIGN, tag=TAG)[:HEAD_BYTES]) == ((width, height), TAG)
    assert read_head(encode_image(SIGN, size=(40, 23), tag=TAG)[:HEAD_BYTES]) == ((40, 23), TAG)
    assert read_head(encode_image(SIGN)[:HEAD_BYTES]) == ((width, height), None)


def test_a_tag_counts_only_if_it_is_ours_and_intact() -> None:
    """What does not count as ours is never overwritten."""
    header, end = encode_image(SIGN)[:33], chunk(b"IEND", b"")
    foreign = [b"tsae2\0" + TAG.encode(), b"Software\0tsae", b"tsae", b"tsae\0" + b"x" * HEAD_BYTES]
    for text in foreign:
        assert read_head((header + chunk(b"tEXt", text) + end)[:HEAD_BYTES]) == (SIGN.shape[1::-1], None)
    assert read_head(header + chunk(b"zTXt", b"tsae\0" + TAG.encode())) == (SIGN.shape[1::-1], None)
    tagged = encode_image(SIGN, tag=TAG)[:75]
    for place in range(33, 75):
        damaged = bytearray(tagged)
        damaged[place] ^= 1
        assert read_head(bytes(damaged)) == (SIGN.shape[1::-1], None)
        assert read_head(tagged[:place]) == (SIGN.shape[1::-1], None)


@pytest.mark.parametrize(
    "head", [b"", b"edited", encode_image(SIGN)[:32], encode_image(SIGN, "jpeg"), encode_image(SIGN, "webp")]
)
def test_the_head_of_another_file_tells_nothing(head: bytes) -> None:
    assert read_head(head[:HEAD_BYTES]) is None


# The short way for plain PNG files


def decode_plain(data: bytes) -> Array | None:
    return png.decode_plain(data, MAX_PIXELS)


@contextlib.contextmanager
def only_pillow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "decode_plain", lambda data, max_pixels: None)
        yield


def decode_by_pillow(data: bytes) -> Array | None:
    with only_pillow():
        return decode_or_none(data)


def decode_or_none(data: bytes) -> Array | None:
    try:
        return np.asarray(decode_image(data))
    except ImageError:
        return None


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (32, 32), (57, 43), (200, 180)])
def test_plain_png_files_take_the_short_way_to_the_same_pixels(shape: tuple[int, int], level: int) -> None:
    rng = np.random.default_rng(0)
    for pixels in (rng.integers(0, 256, (*shape, 3), np.uint8), np.full((*shape, 3), 200, np.uint8)):
        data = file_of(pixels, compress_level=level)
        short = decode_plain(data)
        assert short is not None
        assert (short.shape, short.dtype) == (pixels.shape, np.uint8)
        np.testing.assert_array_equal(short, pixels)


def with_chunk(kind: bytes, content: bytes) -> bytes:
    data = file_of(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    return data[:33] + chunk(kind, content) + data[33:]


@pytest.mark.parametrize(
    ("kind", "content", "is_plain"),
    [
        (b"gAMA", struct.pack(">I", 45455), True),
        (b"pHYs", struct.pack(">IIB", 72, 72, 1), True),
        (b"tEXt", b"date:create\0yesterday", True),
        (b"tEXt", b"exif\0anything", False),
        (b"tEXt", b"Raw profile type exif\0anything", False),
        (b"tEXt", b"XML:com.adobe.xmp\0anything", False),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"hello"), False),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>", False),
        (b"tRNS", struct.pack(">HHH", 1, 2, 3), False),
        (b"acTL", struct.pack(">II", 1, 0), False),
        (b"eXIf", b"II*\0\x08\0\0\0\0\0", False),
        (b"teSt", b"", False),
    ],
)
def test_what_may_need_more_is_left_to_pillow(kind: bytes, content: bytes, is_plain: bool) -> None:
    data = with_chunk(kind, content)
    assert (decode_plain(data) is not None) == is_plain
    np.testing.assert_array_equal(decode_or_none(data), decode_by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_other_kinds_of_pixels_are_left_to_pillow(mode: str) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8))
    file = io.BytesIO()
    grey.convert(mode).save(file, "PNG")
    assert decode_plain(file.getvalue()) is None


def test_damage_never_gives_other_pixels_than_pillow_gives() -> None:
    """Every byte changed, and every cut: what the short way takes, Pillow takes as well, to the same pixels."""
    data = file_of(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8))
    damaged = [data[:length] for length in range(len(data))]
    for position in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            damaged.append(data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :])
    taken = 0
    for file in damaged:
        found = decode_or_none(file)
        if decode_plain(file) is not None:
            taken += 1
            np.testing.assert_array_equal(found, decode_by_pillow(file))
    assert taken < len(damaged) / 10


def test_the_short_way_refuses_bombs_unread() -> None:
    data = bytearray(file_of(np.zeros((2, 2, 3), np.uint8)))
    data[16:24] = struct.pack(">II", 2**16, 2**16)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    assert decode_plain(bytes(data)) is None
    with pytest.raises(ImageError, match="pixels"):
        decode_image(bytes(data))
