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
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pyspng
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

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
    plain = _decode_plain_png(data)
    if plain is not None:
        return plain
    try:
        return _to_rgb(_open(data, (*FORMATS, *(name for name in extra_formats if name in Image.OPEN))))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        raise ImageError(f"{len(data)} bytes, damaged or cut short ({_one_line(error)}); fetch or export it again") from error


PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"

PNG_RGB = b"\x08\x02\0\0\0"
"""What follows width and height in the header of a PNG file of RGB, 8 bits and no interlacing."""

PLAIN_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"bKGD", b"tIME", b"sBIT"})
"""Chunks of a PNG file that say nothing of transparency or orientation; a text may, unless its keyword is another."""

CHUNK_HEAD = struct.Struct(">I4s")


def _decode_plain_png(data: bytes) -> Image.Image | None:
    """Decodes the plainest and most frequent of PNG files, in half of Pillow's time; None if it is another, or damaged."""
    if data[:16] != PNG_START or data[24:29] != PNG_RGB or not _has_plain_chunks(data):
        return None
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < width * height <= MAX_PIXELS:
        return None
    try:
        return Image.fromarray(pyspng.load(data))
    except Exception:  # Pillow will say what is wrong with it
        return None


def _has_plain_chunks(data: bytes) -> bool:
    """Whether the chunks of a PNG file are whole and of the plain kinds.

    pyspng looks at no checksum but that of the pixels, Pillow at those of the chunks before them.
    """
    start, kind = 8, b""
    while kind != b"IEND" and start + CHUNK_HEAD.size <= len(data):
        length, kind = CHUNK_HEAD.unpack_from(data, start)
        if kind not in PLAIN_CHUNKS and (kind != b"tEXt" or _keyword(data, start + 8) in HOMES_OF_EXIF):
            return False
        end = start + length + 12
        if kind not in (b"IDAT", b"IEND") and zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            return False
        start = end
    return kind == b"IEND" and start <= len(data)


def _keyword(data: bytes, start: int) -> str:
    """Of a text chunk."""
    return data[start : start + 80].split(b"\0", 1)[0].decode("latin-1")


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


HOMES_OF_EXIF = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "Raw profile type xmp"})
"""Names in Pillow's `info` of what may hold an orientation; most files have none, and asking takes a tenth of decoding."""


def _orientation(image: Image.Image) -> int:
    if image.format in ("PNG", "BMP", "PPM") and HOMES_OF_EXIF.isdisjoint(image.info):
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

PNG_LEVEL = 1
"""Level of deflate: a decoded image of 32x32 takes 1,881 bytes and 94 us, at level 6 1,883 and 139; Pillow's level 6 gives
1,887 in 189. Restored to their sizes they take 5,249 bytes and 471 us, by Pillow 5,160 and 898."""

TAG_KEYWORD = "tsae"
"""Keyword of the PNG text chunk that holds a tag, right after the header."""


def encode_image(pixels: RGB, file_format: str = "png", size: tuple[int, int] | None = None, tag: str | None = None) -> bytes:
    """Pixels to the bytes of an image file; PNG and WebP keep every pixel, JPEG (quality 95) nearly.

    Args:
        pixels: uint8 `[H, W, 3]`.
        file_format: "png", "webp" or "jpeg".
        size: Width and height in px to scale to (bicubic), or None to leave the image as it is.
        tag: ASCII text that a PNG file tells of itself, for `read_png_head`; None is none.

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
        return _add_tag(pyspng.encode(pixels, compress_level=PNG_LEVEL), tag)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, PIL_FORMATS[file_format], **SAVE_OPTIONS[file_format])
    return file.getvalue()


def _add_tag(file: bytes, tag: str | None) -> bytes:
    """A PNG file with a text chunk after its header."""
    if tag is None:
        return file
    content = b"tEXt" + f"{TAG_KEYWORD}\0{tag}".encode("ascii")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return file[:33] + chunk + file[33:]


PNG_HEAD_BYTES = 128
"""How much of a PNG file `read_png_head` needs: signature and header are 33 bytes, a tag of N characters takes N + 17."""


def read_png_head(head: bytes) -> tuple[tuple[int, int], str | None] | None:
    """What the first `PNG_HEAD_BYTES` of a file tell.

    Args:
        head: These bytes, or the whole file where it is shorter.

    Returns:
        Width and height in px, and the tag as `encode_image` wrote it, None if there is none; None if it is no PNG file.
    """
    if len(head) < 33 or head[:16] != PNG_START:
        return None
    width, height = struct.unpack_from(">II", head, 16)
    return (width, height), _read_tag(head[33:])


def _read_tag(chunk: bytes) -> str | None:
    """The tag, if a chunk holds one and is intact."""
    length_bytes, start = int.from_bytes(chunk[:4], "big"), b"tEXt" + TAG_KEYWORD.encode() + b"\0"
    body, crc32 = chunk[4 : 8 + length_bytes], chunk[8 + length_bytes : 12 + length_bytes]
    if not body.startswith(start) or zlib.crc32(body).to_bytes(4, "big") != crc32:
        return None
    return body[len(start) :].decode("latin-1")


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
