"""Image files to pixels and back. Owns the policy for formats, colour, size and hostile files; no paths, no torch.

The policy, which `docs/FORMAT.md` repeats for users:

* formats: PNG, JPEG, WebP, BMP and the PPM family, told by content, never by the ending; first frame of an animation;
* EXIF orientation is applied; width and height are those of the upright image; damaged EXIF counts as none;
* greyscale becomes three equal channels; palettes are looked up; CMYK is converted by Pillow's plain formula;
* 16-bit greyscale is scaled to 8 bits by 1/257 and rounded; so is 16-bit colour of PPM, that of PNG keeps its high byte;
* transparency, by alpha or by a transparent colour, is laid over white;
* more than 2^25 pixels, or a file of more than 256 MiB, is refused before anything is decoded.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from tsae import png
from tsae.config import IMAGE_SIZE_PX
from tsae.errors import ImageError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"})
"""Lower-case endings that mark a file in a folder as an image to compress."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
"""Pillow's names of the decoders that may run; all others (PDF, EPS, FITS ...) stay out of reach of hostile files."""

MAX_PIXELS = 2**25
"""33 million, 5792 x 5792: no sign crop comes near. Reading one took 0.14 GB, with transparency 0.4 GB."""

MAX_FILE_BYTES = 2**28
"""256 MiB: above any honest file of MAX_PIXELS, low enough to be read whole."""

GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of 16-bit greyscale; PGM files with a maximum above 255 arrive as "I"."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the turn that undoes it (EXIF 2.32, tag 0x0112); 1 and all other values need none."""

RGB = NDArray[np.uint8]

warnings.filterwarnings("ignore", module=r"PIL\.")
"""Pillow warns where we refuse, and of metadata that we drop. Once for all: `catch_warnings` is not safe in threads."""


def decode_image(data: bytes, extra_formats: tuple[str, ...] = ()) -> Image.Image:
    """Decodes an image file by the policy above.

    Args:
        data: The whole file.
        extra_formats: More Pillow decoders to allow, for trusted training data.

    Returns:
        An RGB image at its own size, upright.

    Raises:
        ImageError: if the file is empty, too large, of another format, damaged or cut short.
    """
    if not data:
        raise ImageError("0 bytes: an image file must not be empty; fetch or export it again")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{len(data)} bytes: at most {MAX_FILE_BYTES} are read; shrink the image first")
    plain = png.decode_plain(data, MAX_PIXELS)
    if plain is not None:
        return Image.fromarray(plain)
    try:
        return _to_rgb(_open(data, (*FORMATS, *(name for name in extra_formats if name in Image.OPEN))))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        raise ImageError(f"{len(data)} bytes, damaged or cut short ({_one_line(error)}); fetch or export it again") from error


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        start = f"{len(data)} bytes that start with {data[:8]!r}"
        raise ImageError(f"{start}: not an intact {', '.join(FORMATS)} image; convert it, or fetch it again") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS} pixels ({_one_line(error)}); shrink the image first") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels: at most {MAX_PIXELS} are read; shrink the image first")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    bit_depth = _bit_depth(image)  # Pillow forgets it once the pixels are decoded
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    image = _flatten(image, bit_depth)
    return image if turn is None else image.transpose(turn)


def _bit_depth(image: Image.Image) -> int:
    """Bits a channel in a PNG file, by Pillow's name of the raw pixels; 8 for all other formats."""
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    raw_mode = str(tiles[0].args) if tiles else ""
    return {"1": 1, "L;2": 2, "L;4": 4, "RGB;16B": 16}.get(raw_mode, 8)


def _orientation(image: Image.Image) -> int:
    if image.format in ("PNG", "BMP", "PPM") and png.HOMES_OF_EXIF.isdisjoint(image.info):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF is a format of its own, as easily damaged; the pixels are there all the same
        return 1


def _flatten(image: Image.Image, bit_depth: int) -> Image.Image:
    """The image as RGB of 8 bits, with what is transparent laid over white."""
    if image.mode == "F":
        raise ImageError("floating-point pixels: there is no agreed white; save the image with 8 or 16 bits")
    colour = image.info.get("transparency")
    if image.mode in GREY_16_BIT:
        return _scale_grey(np.asarray(image).astype(np.uint32), colour)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode in ("1", "L", "RGB") and bit_depth != 8:
        image.info["transparency"] = _scale_colour(colour, bit_depth)
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")


def _scale_grey(values: NDArray[np.uint32], transparent: object) -> Image.Image:
    grey = np.minimum((values * 2 + 257) // 514, 255)  # round(v / 257) in integers
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _scale_colour(colour: Any, bit_depth: int) -> Any:
    """The transparent colour of a PNG file as its pixels have it after Pillow scaled them, but not it, to 8 bits."""
    if isinstance(colour, tuple):
        return tuple(channel >> 8 for channel in colour)
    return int(colour) * 255 // (2**bit_depth - 1)


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:200] or type(error).__name__


def resize(image: Image.Image, size_px: int = IMAGE_SIZE_PX) -> RGB:
    """Scales the whole image to a square, whatever its proportions, with Pillow's bilinear filter.

    Args:
        image: An RGB image.
        size_px: Side of the square.

    Returns:
        uint8 `[size_px, size_px, 3]`.
    """
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(image)


PIL_FORMATS = {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG"}
"""What `encode_image` can write: our name to Pillow's."""

SAVE_OPTIONS: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "jpeg": {"quality": 95}}
"""Pillow's options for those that it writes."""


def encode_image(pixels: RGB, file_format: str = "png", size: tuple[int, int] | None = None, tag: str | None = None) -> bytes:
    """Pixels to the bytes of an image file; PNG and WebP keep every pixel, JPEG (quality 95) nearly.

    Args:
        pixels: uint8 `[H, W, 3]`.
        file_format: "png", "webp" or "jpeg".
        size: Width and height in px to scale to (bicubic), or None to leave the image as it is.
        tag: ASCII text that a PNG file tells of itself, for `png.read_head`; None is none.

    Returns:
        The whole file.

    Raises:
        ValueError: if the format is none of the three, or cannot hold a tag.
    """
    if file_format not in PIL_FORMATS:
        raise ValueError(f"format {file_format!r}: one of {', '.join(PIL_FORMATS)} is needed")
    if tag is not None and file_format != "png":
        raise ValueError(f"format {file_format!r}: only png files hold a tag")
    if size is not None and size != pixels.shape[1::-1]:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    if file_format == "png":
        return next(png.encode(pixels[None], [tag]))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, PIL_FORMATS[file_format], **SAVE_OPTIONS[file_format])
    return file.getvalue()


LOSSLESS_OPTIONS: dict[str, Any] = {"lossless": True, "quality": 100, "method": 6}
"""Pillow's options for the smallest lossless WebP; "quality" is effort there."""


def encode_lossless(pixels: RGB) -> bytes:
    """Pixels, uint8 `[size_px, size_px, 3]`, to a WebP file that holds them exactly."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", **LOSSLESS_OPTIONS)
    return file.getvalue()


def decode_lossless(data: bytes, size_px: int = IMAGE_SIZE_PX) -> RGB:
    """Reads `encode_lossless`' file.

    Args:
        data: The whole file.
        size_px: Side of the square that it must be.

    Returns:
        uint8 `[size_px, size_px, 3]`.

    Raises:
        ImageError: if it is no such file.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["WEBP"])
        if image.size != (size_px, size_px):
            raise ValueError(f"{image.width} x {image.height} pixels")
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # as in `decode_image`
        reason = f"not a WebP file of {size_px} x {size_px} pixels ({_one_line(error)})"
        raise ImageError(f"{len(data)} bytes, {reason}; restore the file") from error
