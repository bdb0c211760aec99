"""Operating points: what is measured of one setting of one coder, and how. Owns no coder and no curve."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from tsae.archive import EXACT_PSNR_DB
from tsae.metrics import mean_squared_error, psnr_db

Images = NDArray[np.uint8]
"""uint8 `[N, 32, 32, 3]`."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One operating point, averaged over the images.

    Attributes:
        curve: Name of the coder.
        setting: Quality, or what else was set.
        bytes_per_image: All that is stored, the model excepted.
        psnr_mean_db: Mean of the images' PSNRs; an exact image counts as 100 dB.
        psnr_of_mse_db: PSNR of the mean squared error of all images; None where all come back exactly.
        psnr_p1_db: First percentile of the images' PSNRs.
        ssim: Mean of scikit-image's structural similarity on RGB.
        stream_bytes: Of `bytes_per_image`, the coded images; None where that is all.
        model_bytes: Size of the model, once for all images.
        encode_us: Time an image, one thread; None where it was not measured.
        decode_us: Likewise.
        facts: What else is known, for a record of the run.
    """

    curve: str
    setting: str
    bytes_per_image: float
    psnr_mean_db: float
    psnr_of_mse_db: float | None
    psnr_p1_db: float
    ssim: float
    stream_bytes: float | None = None
    model_bytes: int | None = None
    encode_us: float | None = None
    decode_us: float | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether every image comes back as it was."""
        return self.psnr_of_mse_db is None


@dataclasses.dataclass(frozen=True)
class Coded:
    """What a coder made of all images; `None` and bytes as in `Point`."""

    bytes_per_image: float
    decoded: Images
    stream_bytes: float | None = None
    model_bytes: int | None = None


class Coder(Protocol):
    """One setting of one coder. `encode` and `decode` are what is timed."""

    curve: str
    setting: str

    def code(self, images: Images) -> Coded:
        """Encodes and decodes all images."""

    def encode(self, images: Images) -> Any:
        """The part that turns images to streams."""

    def decode(self, streams: Any) -> Images:
        """The part that turns what `encode` gave back to images."""


def select(count: int, limit: int | None) -> NDArray[np.intp]:
    """Positions of at most `limit` of `count` images, evenly spaced."""
    return np.asarray(np.linspace(0, count - 1, min(limit or count, count)).round(), np.intp)


def digest(images: Images) -> str:
    """Names a set of images: points of different sets must not be compared."""
    return hashlib.sha256(images.tobytes()).hexdigest()[:16]


def mean_ssim(images: Images, decoded: Images) -> float:
    """Mean structural similarity on RGB, windows of 7x7 px."""

    def one(pair: tuple[Images, Images]) -> float:
        return float(structural_similarity(*pair, channel_axis=-1, data_range=255))  # type: ignore[no-untyped-call]

    return statistics.fmean(map(one, zip(images, decoded, strict=True)))


def describe(curve: str, setting: str, images: Images, coded: Coded) -> Point:
    """Measures what came back."""
    psnrs = np.minimum(psnr_db(images, coded.decoded), EXACT_PSNR_DB)
    mse = float(mean_squared_error(images, coded.decoded).mean())
    return Point(
        curve,
        setting,
        coded.bytes_per_image,
        float(psnrs.mean()),
        float(10 * np.log10(255**2 / mse)) if mse else None,
        float(np.percentile(psnrs, 1)),
        mean_ssim(images, coded.decoded),
        coded.stream_bytes,
        coded.model_bytes,
    )


def measure(coder: Coder, images: Images) -> Point:
    """Rate and distortion of one coder, without times."""
    return describe(coder.curve, coder.setting, images, coder.code(images))


def time_coders(coders: Sequence[Coder], images: Images, rounds: int) -> list[tuple[float, float]]:
    """Encoding and decoding times of coders side by side: each round runs all of them, after one to warm up.

    Returns:
        For each coder, medians over the rounds, us an image.
    """
    taken: list[list[tuple[float, float]]] = [[] for _ in coders]
    for round_number in range(rounds + 1):
        for coder, times in zip(coders, taken, strict=True):
            streams, encode_us = _timed_us(lambda coder=coder: coder.encode(images), len(images))  # type: ignore[misc]
            _, decode_us = _timed_us(lambda coder=coder, streams=streams: coder.decode(streams), len(images))  # type: ignore[misc]
            times += [(encode_us, decode_us)] if round_number else []
    return [(statistics.median(e for e, _ in times), statistics.median(d for _, d in times)) for times in taken]


def _timed_us(action: Callable[[], Any], images: int) -> tuple[Any, float]:
    started_s = time.perf_counter()
    result = action()
    return result, (time.perf_counter() - started_s) * 1e6 / images
