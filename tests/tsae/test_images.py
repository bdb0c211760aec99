"""Image files to pixels: the policy for each kind of file, and what hostile files can and cannot do."""

import io
import random
import resource
import struct
import time
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tsae.errors import ImageError
from tsae.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    decode_image,
    decode_lossless,
    encode_image,
    encode_lossless,
    resize,
)
from tsae.signs import draw_sign

Array = NDArray[Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of metadata; `tsae.images` silences them, pytest wakes them up
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

SIGN: Array = draw_sign(3).image
FORMATS = ("PNG", "PPM", "BMP", "WEBP", "JPEG")
"""Pillow's names; all but the last keep every pixel as `file_of` saves them."""


def file_of(image: Image.Image | Array, file_format: str, **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    usual: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 95}}
    options = usual.get(file_format, {}) | options
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def pixels_of(data: bytes) -> Array:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand; `rows` have their filter byte, 0, before each."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def reason_of(data: bytes) -> str:
    """The message of the refusal: one line that ends in a remedy."""
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message
    return message


# What kinds of files become


@pytest.mark.parametrize("file_format", ["PNG", "PPM", "BMP", "WEBP"])
def test_lossless_formats_keep_every_pixel(file_format: str) -> None:
    np.testing.assert_array_equal(pixels_of(file_of(SIGN, file_format)), SIGN)


def test_jpeg_is_what_pillow_decodes() -> None:
    data = file_of(SIGN, "JPEG")
    np.testing.assert_array_equal(pixels_of(data), np.asarray(Image.open(io.BytesIO(data))))
    assert np.abs(pixels_of(data).astype(int) - SIGN).mean() < 8


@pytest.mark.parametrize("file_format", ["PNG", "PPM", "BMP", "WEBP", "JPEG"])
def test_greyscale_becomes_three_equal_channels(file_format: str) -> None:
    grey = Image.fromarray(SIGN).convert("L")
    pixels = pixels_of(file_of(grey, file_format))
    assert (pixels == pixels[..., :1]).all()
    np.testing.assert_allclose(pixels[..., 0], np.asarray(grey), atol=12 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("file_format", ["PNG", "PPM", "BMP"])
def test_one_bit_is_black_and_white(file_format: str) -> None:
    black_and_white = Image.fromarray(SIGN).convert("1")
    pixels = pixels_of(file_of(black_and_white, file_format))
    np.testing.assert_array_equal(pixels[..., 1], np.asarray(black_and_white) * np.uint8(255))


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_palettes_are_looked_up(file_format: str) -> None:
    palette = Image.fromarray(SIGN).quantize(16)
    np.testing.assert_array_equal(pixels_of(file_of(palette, file_format)), np.asarray(palette.convert("RGB")))


def test_a_transparent_palette_entry_is_white() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = pixels_of(file_of(palette, "PNG", transparency=1))
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]])


def test_palette_entries_of_several_opacities_are_blended_with_white() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = pixels_of(file_of(palette, "PNG", transparency=bytes([255, 0, 128])))
    np.testing.assert_allclose(pixels, [[[10, 20, 30], [255, 255, 255], [162, 167, 172]]], atol=1)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(file_format: str) -> None:
    alpha = np.zeros((*SIGN.shape[:2], 1), np.uint8)
    alpha[5:20] = 255
    alpha[20:25] = 100
    pixels = pixels_of(file_of(np.concatenate([SIGN, alpha], axis=-1), file_format))
    opacity = alpha / 255
    np.testing.assert_allclose(pixels, SIGN * opacity + 255 * (1 - opacity), atol=1)
    np.testing.assert_array_equal(pixels[5:20], SIGN[5:20])


def test_grey_with_alpha_is_laid_over_white() -> None:
    pixels = pixels_of(file_of(Image.fromarray(np.array([[[40, 255], [40, 0], [40, 51]]], np.uint8), "LA"), "PNG"))
    np.testing.assert_array_equal(pixels[0, :, 0], [40, 255, 212])


@pytest.mark.parametrize(
    ("bits", "colour_type", "row", "colour", "expected"),
    [
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3), [[255, 255, 255], [4, 5, 6]]),
        (8, 0, bytes([7, 9]), struct.pack(">H", 7), [[255] * 3, [9] * 3]),
        (4, 0, bytes([0x12]), struct.pack(">H", 1), [[255] * 3, [34] * 3]),
        (2, 0, bytes([0b01_10_0000]), struct.pack(">H", 1), [[255] * 3, [170] * 3]),
        (1, 0, bytes([0b01_000000]), struct.pack(">H", 0), [[255] * 3, [255] * 3]),
        (16, 0, struct.pack(">2H", 1000, 2000), struct.pack(">H", 1000), [[255] * 3, [8] * 3]),
        (16, 2, struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 256, 512, 768), struct.pack(">3H", 0x1234, 0x5678, 0x9ABC),
         [[255] * 3, [1, 2, 3]]),
    ],
    ids=["rgb8", "grey8", "grey4", "grey2", "grey1", "grey16", "rgb16"],
)  # fmt: skip
def test_a_transparent_colour_of_png_is_white(
    bits: int, colour_type: int, row: bytes, colour: bytes, expected: list[list[int]]
) -> None:
    data = png(2, 1, bits, colour_type, b"\0" + row, chunk(b"tRNS", colour))
    np.testing.assert_array_equal(pixels_of(data), [expected])


def values_16_bit() -> Array:
    """All that matters for rounding: both ends, and both sides of each step of v / 257."""
    steps = np.arange(256)[:, None] * 257 + np.array([-129, -128, 0, 128, 129])
    values: Array = np.clip(steps.ravel(), 0, 65535).astype(np.uint16)
    return values


def test_16_bit_grey_png_is_rounded() -> None:
    values = values_16_bit()
    data = png(len(values), 1, 16, 0, b"\0" + values.astype(">u2").tobytes())
    pixels = pixels_of(data)
    assert (pixels == pixels[..., :1]).all()
    np.testing.assert_array_equal(pixels[0, :, 0], np.floor(values / 257 + 0.5))


def test_16_bit_pgm_is_rounded() -> None:
    values = values_16_bit()
    data = f"P5 {len(values)} 1 65535\n".encode() + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], np.floor(values / 257 + 0.5))


def test_pgm_of_an_odd_maximum_is_scaled_to_it() -> None:
    data = b"P5 3 1 1000\n" + struct.pack(">3H", 0, 250, 1000)
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], [0, 64, 255])


def test_16_bit_rgb_png_keeps_the_high_byte() -> None:
    values = np.array([0x0000, 0x00FF, 0x1234, 0x7FFF, 0x8000, 0xFFFF], np.uint16)
    data = png(2, 1, 16, 2, b"\0" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels_of(data).ravel(), values >> 8)


def test_16_bit_rgba_png_is_laid_over_white() -> None:
    values = np.array([0x1234, 0x5678, 0x9ABC, 0xFFFF, 0x1234, 0x5678, 0x9ABC, 0], np.uint16)
    data = png(2, 1, 16, 6, b"\0" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels_of(data), [[[0x12, 0x56, 0x9A], [255, 255, 255]]])


def test_16_bit_ppm_is_rounded() -> None:
    data = b"P6 1 1 65535\n" + struct.pack(">3H", 128, 129, 65535)
    np.testing.assert_array_equal(pixels_of(data), [[[0, 1, 255]]])


def test_plain_text_ppm_is_read() -> None:
    np.testing.assert_array_equal(pixels_of(b"P3\n# a comment\n1 2 255\n1 2 3 4 5 6\n"), [[[1, 2, 3]], [[4, 5, 6]]])


def test_cmyk_jpeg_is_converted() -> None:
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    pixels = pixels_of(file_of(Image.fromarray(flat).convert("CMYK"), "JPEG"))
    np.testing.assert_allclose(pixels, flat, atol=12)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (250, 10, 10), (10, 250, 10), (10, 10, 250)
    # How a camera that was turned stores the upright picture: EXIF 2.32, tag 0x0112, says where row 0 and column 0 are.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1], 8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(file_of(np.ascontiguousarray(stored), file_format, exif=exif, **jpeg_without_blur(file_format)))
    assert image.size == (24, 16)
    np.testing.assert_allclose(np.asarray(image), upright, atol=20)


def jpeg_without_blur(file_format: str) -> dict[str, Any]:
    return {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}


def test_unknown_orientation_and_damaged_exif_leave_the_image_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "Maker", {0x9003: "2020:01:01 00:00:00"}
    data = file_of(SIGN, "JPEG", exif=exif)
    start, end = data.index(b"Exif\0\0") + 6, data.index(b"Exif\0\0") + len(exif.tobytes())
    generator = random.Random(0)
    sizes = set()
    for _ in range(300):
        damaged = bytearray(data)
        damaged[generator.randrange(start, end)] = generator.randrange(256)
        sizes.add(decode_image(bytes(damaged)).size)
    height, width = SIGN.shape[:2]
    assert sizes == {(width, height), (height, width)}


@pytest.mark.parametrize(
    "entry",
    [struct.pack("<HHI4s", 0x0112, 2, 4, b"abc")] + [struct.pack("<HHIHxx", 0x0112, 3, 1, value) for value in (0, 9, 65535)],
    ids=["text", "0", "9", "65535"],
)
def test_an_orientation_that_is_none_counts_as_upright(entry: bytes) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)  # a TIFF with one entry
    np.testing.assert_array_equal(pixels_of(file_of(SIGN, "PNG", exif=exif)), SIGN)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (40, 90, 200)]
    for file_format in ("PNG", "WEBP"):
        data = file_of(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50)
        assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
        np.testing.assert_array_equal(pixels_of(data), frames[0])


def test_a_multi_picture_jpeg_gives_its_first_picture() -> None:
    first, second = np.full((16, 16, 3), 60, np.uint8), np.full((16, 16, 3), 190, np.uint8)
    data = file_of(first, "MPO", save_all=True, append_images=[Image.fromarray(second)])
    np.testing.assert_allclose(pixels_of(data), first, atol=3)


def test_the_ending_says_nothing() -> None:
    """Content tells the format: bytes carry no name at all, so a JPEG that is called .png is a JPEG."""
    data = file_of(SIGN, "JPEG")
    assert data.startswith(b"\xff\xd8")
    assert pixels_of(data).shape == SIGN.shape


# Resizing


@pytest.mark.parametrize("shape", [(32, 32), (25, 130), (130, 25), (1, 1), (1, 300), (61, 47)])
def test_resize_is_pillows_bilinear_to_the_pixel(shape: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    pixels = resize(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 32, 3)
    np.testing.assert_array_equal(pixels, expected)


def test_resize_takes_another_side() -> None:
    assert resize(Image.fromarray(SIGN), 48).shape == (48, 48, 3)


# Refusals


def test_an_empty_file_is_refused() -> None:
    assert "0 bytes" in reason_of(b"")


@pytest.mark.parametrize("data", [b"hello, I am no image\n", b"\0" * 100, b"%PDF-1.7 not here", b"P6", b"\xff\xd8"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert str(len(data)) in reason_of(data)


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "ICO", "TGA", "PCX", "JPEG2000"])
def test_other_formats_are_refused(file_format: str) -> None:
    data = file_of(Image.fromarray(SIGN).resize((32, 32)), file_format)
    assert "PNG, JPEG, WEBP, BMP, PPM" in reason_of(data)


@pytest.mark.parametrize("header", [b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.2, 0.8), b"PF\n1 1\n-1.0\n" + bytes(12)])
def test_floating_point_pixels_are_refused(header: bytes) -> None:
    reason_of(header)


@pytest.mark.parametrize("data", [b"P6 0 5 255\n", b"P5 5 0 255\n", png(0, 1, 8, 2, b"\0"), png(1, 0, 8, 2, b"")])
def test_an_image_without_pixels_is_refused(data: bytes) -> None:
    reason_of(data)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_cut_short_is_refused_wherever_the_cut(file_format: str) -> None:
    data = file_of(SIGN, file_format)
    whole = pixels_of(data)
    lengths = sorted({0, 1, 2, 3, 8, *range(0, len(data), max(len(data) // 60, 1)), *range(len(data) - 40, len(data))})
    refused = 0
    for length in lengths:
        try:
            pixels = pixels_of(data[:length])
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
        else:  # only what comes after the last pixel was cut off: PNG's end mark, a padding of BMP
            assert length > len(data) - 40
            np.testing.assert_array_equal(pixels, whole)
    assert refused >= len(lengths) - (24 if file_format == "PNG" else 4)


@pytest.mark.parametrize("file_format", FORMATS)
def test_damage_gives_an_image_or_an_image_error_and_nothing_else(file_format: str) -> None:
    data = file_of(SIGN[:24, :24], file_format)
    generator = random.Random(file_format)
    outcomes = set()
    for _ in range(250):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 3, 20))):
            damaged[generator.randrange(min(len(data), generator.choice((40, len(data)))))] = generator.randrange(256)
        try:
            image = decode_image(bytes(damaged))
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
            outcomes.add("refused")
        else:
            assert image.mode == "RGB"
            assert resize(image).shape == (32, 32, 3)
            outcomes.add("decoded")
    assert "refused" in outcomes


@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBP", b"BM", b"P5 ", b"P6 ", b"P1\n"]),
       st.binary(max_size=120))  # fmt: skip
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_bytes_give_an_image_or_an_image_error(magic: bytes, rest: bytes) -> None:
    try:
        assert decode_image(magic + rest).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_bomb_is_refused_fast_and_in_bounded_memory() -> None:
    row = chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    start, before_kb = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = reason_of(b"\x89PNG\r\n\x1a\n" + header + row + chunk(b"IEND", b""))
    assert "pixels" in message
    assert time.perf_counter() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000


def test_the_limit_of_pixels_is_exact() -> None:
    width, height = 4096, MAX_PIXELS // 4096
    assert width * height == MAX_PIXELS
    assert "damaged" in reason_of(f"P5 {width} {height} 255\n".encode())  # within the limit, but with no pixels in it
    assert f"{width} x {height + 1}" in reason_of(f"P5 {width} {height + 1} 255\n".encode())


def test_a_huge_file_is_refused_unread() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_FILE_BYTES + 1

    assert str(MAX_FILE_BYTES) in reason_of(Huge(b"P5 1 1 255\n\0"))


def test_decoding_touches_no_warning_filters() -> None:
    """`warnings.catch_warnings` is not safe in threads, and decoding happens in threads."""
    before = list(warnings.filters)
    decode_image(file_of(SIGN, "PNG"))
    assert list(warnings.filters) == before


# Writing


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_encode_keeps_every_pixel(file_format: str) -> None:
    np.testing.assert_array_equal(pixels_of(encode_image(SIGN, file_format)), SIGN)


def test_jpeg_stays_close() -> None:
    pixels = pixels_of(encode_image(SIGN, "jpeg"))
    assert 0 < np.abs(pixels.astype(int) - SIGN).mean() < 8


def test_encode_scales_to_the_size() -> None:
    data = encode_image(SIGN, "png", (40, 23))
    expected = np.asarray(Image.fromarray(SIGN).resize((40, 23), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels_of(data), expected)


def test_encode_writes_the_format_that_is_asked_for() -> None:
    names = {name: Image.open(io.BytesIO(encode_image(SIGN, name))).format for name in ("png", "webp", "jpeg")}
    assert names == {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG"}
    with pytest.raises(ValueError, match="'gif'"):
        encode_image(SIGN, "gif")


@pytest.mark.parametrize("file_format", ["webp", "jpeg"])
def test_only_png_files_hold_a_tag(file_format: str) -> None:
    with pytest.raises(ValueError, match=f"'{file_format}': only png"):
        encode_image(SIGN, file_format, tag="one")


# Lossless, as archives keep it


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 16, 256]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_lossless_images_are_exact(seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (32, 32, 3), np.uint8) * (255 // max(1, levels - 1) or 1)
    pixels = pixels.astype(np.uint8)
    data = encode_lossless(pixels)
    assert encode_lossless(pixels) == data
    back = decode_lossless(data)
    assert (back.shape, back.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_array_equal(back, pixels)


def test_lossless_images_of_signs_are_smaller_than_their_pixels() -> None:
    small = resize(Image.fromarray(SIGN))
    assert len(encode_lossless(small)) < 0.9 * small.size
    np.testing.assert_array_equal(decode_lossless(encode_lossless(small)), small)
    np.testing.assert_array_equal(pixels_of(encode_lossless(small)), small)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"x" * 500,
        file_of(SIGN[:32, :32], "PNG"),
        file_of(np.zeros((32, 31, 3), np.uint8), "WEBP"),
        file_of(np.zeros((64, 64, 3), np.uint8), "WEBP"),
        encode_lossless(resize(Image.fromarray(SIGN)))[:-50],
    ],
)
def test_what_is_no_lossless_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"^{len(data)} bytes, .*32 x 32.*restore the file") as caught:
        decode_lossless(data)
    assert "\n" not in str(caught.value)


def test_a_lossless_image_of_another_size_is_read_if_asked_for() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode_lossless(encode_lossless(pixels), 7), pixels)
