"""Other image coders: Pillow's, in memory, one thread each, and plain zstd. Owns their settings."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
from PIL import AvifImagePlugin, Image, features
from pillow_jxl import JpegXLImagePlugin

from rd.points import Coded, Images

JpegXLImagePlugin.DECODE_THREADS = 0
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

RIVALS = ("JPEG", "WebP", "AVIF", "JPEG XL")
"""The curves among which the best rival is sought."""

QUALITIES = {
    "JPEG": (10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 97),
    "WebP": (3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 100),
    "AVIF": (10, 20, 30, 40, 50, 60, 70, 80, 90),
    "AVIF speed 6": (10, 20, 30, 40, 50, 60, 70, 80, 90),
    "JPEG XL": (15, 25, 40, 50, 60, 70, 80, 85, 90, 95, 98),
}
"""About 26 to 41 dB on signs, where a format gets there: WebP, 4:2:0 always, ends below 38 dB."""

OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "optimize": True, "subsampling": 0},
    "WebP": {"format": "WEBP", "method": 6},
    "AVIF": {"format": "AVIF", "speed": 2, "subsampling": "4:4:4", "max_threads": 1},
    "AVIF speed 6": {"format": "AVIF", "speed": 6, "subsampling": "4:4:4", "max_threads": 1},
    "JPEG XL": {"format": "JXL", "effort": 9, "num_threads": 0},
}
"""What is passed to Pillow. Chroma is not subsampled where there is a choice: at equal PSNR that is smaller here."""

LOSSLESS: dict[str, dict[str, Any]] = {
    "lossless WebP": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    "lossless JPEG XL": {"format": "JXL", "lossless": True, "effort": 9, "num_threads": 0},
}


class FileCoder:
    """Images to files of their own and back."""

    curve: str
    setting: str

    def code(self, images: Images) -> Coded:
        """Encodes and decodes all images; counts the files' bytes."""
        files = self.encode(images)
        return Coded(sum(map(len, files)) / len(files), self.decode(files))

    def encode(self, images: Images) -> list[bytes]:
        """A file of each image."""
        raise NotImplementedError

    def decode(self, streams: Sequence[bytes]) -> Images:
        """The images of the files."""
        raise NotImplementedError


@dataclasses.dataclass
class PillowCoder(FileCoder):
    """A format that Pillow writes.

    Attributes:
        options: Arguments of `Image.save`.
    """

    curve: str
    setting: str
    options: dict[str, Any]

    def encode(self, images: Images) -> list[bytes]:
        """A file of each image, in memory."""
        return [self._encode_one(image) for image in images]

    def _encode_one(self, image: Images) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, **self.options)
        return file.getvalue()

    def decode(self, streams: Sequence[bytes]) -> Images:
        """The images of the files, as one array."""
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in streams])


@dataclasses.dataclass
class ZstdCoder(FileCoder):
    """The raw pixels of each image, compressed."""

    curve: str = "raw + zstd"
    setting: str = "level 19"

    def __post_init__(self) -> None:
        self._codec = pa.Codec("zstd", compression_level=19)

    def encode(self, images: Images) -> list[bytes]:
        """A zstd frame of each image."""
        return [self._codec.compress(image.tobytes(), asbytes=True) for image in images]

    def decode(self, streams: Sequence[bytes]) -> Images:
        """The images of the frames."""
        size = 32 * 32 * 3
        pixels = b"".join(self._codec.decompress(file, decompressed_size=size, asbytes=True) for file in streams)
        return np.frombuffer(pixels, np.uint8).reshape(len(streams), 32, 32, 3)


def rivals(curves: Sequence[str] = tuple(QUALITIES)) -> list[FileCoder]:
    """Every setting of some lossy curves."""
    return [
        PillowCoder(curve, f"quality {quality}", {**OPTIONS[curve], "quality": quality})
        for curve in curves
        for quality in QUALITIES[curve]
    ]


def lossless() -> list[FileCoder]:
    """Coders that bring back every pixel."""
    return [ZstdCoder(), *(PillowCoder(curve, "", options) for curve, options in LOSSLESS.items())]


def versions() -> dict[str, str | None]:
    """Of everything that decides what a rival's file looks like."""
    names = {"libjpeg-turbo": "libjpeg_turbo", "libwebp": "webp", "libavif": "avif"}
    libraries = {name: features.version(feature) for name, feature in names.items()}
    return {
        "pillow": PIL.__version__,
        **libraries,
        "pillow-jxl-plugin": metadata.version("pillow-jxl-plugin"),
        "pyarrow": pa.__version__,
    }
