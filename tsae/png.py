"""PNG files: plain ones are read by libspng, in half of Pillow's time, and written here, in a fifth; and the tags in them.

Written is what costs least: Paeth's filter for each row (PNG specification, 9.4), many images at once, then ISA-L's deflate.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyspng
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"

START = SIGNATURE + b"\0\0\0\rIHDR"

RGB_8_BIT = b"\x08\x02\0\0\0"
"""What follows width and height in the header of a file of RGB, 8 bits and no interlacing."""

PLAIN_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"bKGD", b"tIME", b"sBIT"})
"""Chunks that say nothing of transparency or orientation; a text may, unless its keyword is another."""

HOMES_OF_EXIF = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "Raw profile type xmp"})
"""Keywords of texts, and names in Pillow's `info`, of what may hold an orientation; most files have none."""

CHUNK_HEAD = struct.Struct(">I4s")

PAETH = 4
"""Number of the filter, before each row."""

LEVEL = 1
"""Of ISA-L's deflate, 0 to 3; more makes files no smaller. docs/PERFORMANCE.md has the bytes and times of others."""

FILTERED_BYTES = 2**15
"""Pixels' bytes that are filtered at once: a dozen temporary arrays of that size stay in cache."""

TAG_KEYWORD = "tsae"
"""Keyword of the text chunk that holds a tag, right after the header."""

HEAD_BYTES = 128
"""How much of a file `read_head` needs: signature and header are 33 bytes, a tag of N characters takes N + 17."""


def decode_plain(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decodes the plainest and most frequent of files.

    Args:
        data: The whole file.
        max_pixels: What it may have at most.

    Returns:
        uint8 `[H, W, 3]`; None if it is another kind of file, larger, or damaged.
    """
    if data[:16] != START or data[24:29] != RGB_8_BIT or not _has_plain_chunks(data):
        return None
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < width * height <= max_pixels:
        return None
    try:
        pixels: NDArray[np.uint8] = pyspng.load(data)
    except Exception:  # Pillow will say what is wrong with it
        return None
    return pixels


def _has_plain_chunks(data: bytes) -> bool:
    """Whether the chunks of a file are whole and of the plain kinds.

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


def encode(images: NDArray[np.uint8], tags: Sequence[str | None]) -> Iterator[bytes]:
    """Files of images of one size.

    Args:
        images: uint8 `[N, H, W, 3]`.
        tags: ASCII text that each file tells of itself, for `read_head`; None is none.

    Yields:
        The whole file of each image.
    """
    _, height, width, channels = images.shape
    head = SIGNATURE + _chunk(b"IHDR", struct.pack(">II", width, height) + RGB_8_BIT)
    step = max(1, FILTERED_BYTES // max(1, height * width * channels))
    for start in range(0, len(images), step):
        batch = slice(start, start + step)
        for data, tag in zip(_deflate(images[batch]), tags[batch], strict=True):
            text = b"" if tag is None else _chunk(b"tEXt", f"{TAG_KEYWORD}\0{tag}".encode("ascii"))
            yield b"".join((head, text, _chunk(b"IDAT", data), END))


def _deflate(images: NDArray[np.uint8]) -> list[bytes]:
    """The pixels of images, filtered and compressed; a large one a band of rows after the other."""
    count, height, width, channels = images.shape
    compressors = [isal_zlib.compressobj(LEVEL) for _ in range(count)]
    parts: list[list[bytes]] = [[] for _ in range(count)]
    step = max(1, FILTERED_BYTES // max(1, width * channels))
    for top in range(0, height, step):
        filtered = filter_rows(images[:, top : top + step], images[:, top - 1] if top else 0)
        for compressor, part, rows in zip(compressors, parts, filtered, strict=True):
            part.append(compressor.compress(rows))
    return [b"".join((*part, compressor.flush())) for compressor, part in zip(compressors, parts, strict=True)]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return b"".join((CHUNK_HEAD.pack(len(content), kind), content, zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big")))


END = _chunk(b"IEND", b"")


def filter_rows(images: NDArray[np.uint8], above: NDArray[np.uint8] | int = 0) -> NDArray[np.uint8]:
    """What Paeth's filter leaves of images.

    Of the pixels to the left (a), above (b), and above that (c), it predicts the one nearest to a + b - c; a wins a tie, then
    b. The distances are |b - c|, |a - c| and |(b - c) + (a - c)|. The last is the sum of the others where both differences
    have one sign, so it is never the least then, and else their difference: all fits in 8 bits.

    Args:
        images: uint8 `[N, H, W, 3]`.
        above: The row above the first of each, uint8 `[N, W, 3]`; zeros at the top of an image.

    Returns:
        uint8 `[N, H, 1 + 3 W]`: the number of the filter before each row.
    """
    count, height, width, channels = images.shape
    stride = (width + 1) * channels
    padded = np.zeros((count, height + 1, width + 1, channels), np.uint8)  # with the row above, and a zero before each row
    padded[:, 1:, 1:], padded[:, 0, 1:] = images, above
    flat = padded.reshape(-1)
    x, a, b, c = flat[stride + channels :], flat[stride:-channels], flat[channels:-stride], flat[: -stride - channels]
    to_a, to_b = _distances(b, c), _distances(a, c)
    to_c = _distances(to_a, to_b) | _mask((b >= c) == (a >= c))
    is_b = _mask(to_b <= to_c)
    is_a = _mask(to_a <= np.minimum(to_b, to_c, out=to_c))
    predicted = ((b ^ c) & is_b) ^ c
    predicted ^= (a ^ predicted) & is_a
    filtered = np.empty_like(padded)
    np.subtract(x, predicted, out=filtered.reshape(-1)[stride + channels :])
    rows = filtered.reshape(count, height + 1, stride)[:, 1:, channels - 1 :]
    rows[:, :, 0] = PAETH
    return np.ascontiguousarray(rows)


def _distances(p: NDArray[np.uint8], q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    distances = np.maximum(p, q)
    distances -= np.minimum(p, q)
    return distances


def _mask(condition: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """255 where it holds, else 0."""
    return np.negative(condition.view(np.uint8))


def read_head(head: bytes) -> tuple[tuple[int, int], str | None] | None:
    """What the first `HEAD_BYTES` of a file tell.

    Args:
        head: These bytes, or the whole file where it is shorter.

    Returns:
        Width and height in px, and the tag as `encode` wrote it, None if there is none; None if it is no PNG file.
    """
    if len(head) < 33 or head[:16] != START:
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
