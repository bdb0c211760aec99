"""What a sample of images takes at each quality, and what it would take if what is hard to read were stored better."""

from __future__ import annotations

import dataclasses
import decimal
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.config import SURE
from tsae.images import encode_lossless
from tsae.jobs.encoding import MISREAD_ONLY, Classify, Doubter, encode_measured

if TYPE_CHECKING:
    from tsae.codec import Codec

SIGMAS = 2.5
"""Standard errors of the sample's mean that are kept in reserve."""

LIMIT_DIGITS = 2
"""Of the limit of doubt: more would not make the mean bytes better than the reserve."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A quality and perhaps a limit of doubt, and what they are expected to give.

    Attributes:
        quality: 1 to the model's number of qualities.
        limit: Above which doubt an image gets a higher quality; None where none does.
        better: Share of the images that are stored better than at the quality.
        bytes_per_image: Of the archive, all but the model.
        psnr_db: Mean.
        images: Size of the sample.
        most_bytes: The most bytes an image that must be reckoned with, since it is a sample.
        least_psnr_db: The least mean.
        unsure: How sure the classifier is of the originals, where that is too little to go by.
    """

    quality: int
    limit: float | None
    better: float
    bytes_per_image: float
    psnr_db: float
    images: int
    most_bytes: float
    least_psnr_db: float
    unsure: float | None = None

    def __str__(self) -> str:
        """For people."""
        better = f" and better for the {100 * self.better:.1f} % hardest to read" if self.better else ""
        expected = f"about {self.bytes_per_image:.0f} bytes an image and {self.psnr_db:.1f} dB"
        told = f"quality {self.quality}{better}, {expected} by a sample of {self.images} images"
        if self.unsure is not None:
            told += f"; the classifier's doubts do not count, as it is only {100 * self.unsure:.0f} % sure of the originals"
        return told

    def settings(self, settings: ar.Settings) -> ar.Settings:
        """Those of a job, with what was chosen; they name the classifier, if one may be asked."""
        doubt = None
        if settings.doubt is not None and self.limit is not None and self.unsure is None:
            doubt = dataclasses.replace(settings.doubt, most=self.limit)
        return dataclasses.replace(settings, quality=self.quality, doubt=doubt)


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """A sample of N images at each of Q qualities, lowest first.

    Attributes:
        codings: uint8 `[Q, N]`.
        stream_bytes: Lengths of streams, int64 `[Q, N]`.
        lossless_bytes: What is stored losslessly whatever the settings, int64 `[Q, N]`; else 0.
        psnrs_db: Of streams, float64 `[Q, N]`.
        doubts: As `Doubter.doubts`, float64 `[Q, N]`; None where no classifier is asked.
        sure: How sure the classifier is of the originals, mean probability; None likewise.
        whole_bytes: What an image takes losslessly that the settings may ask for, int64 `[N]`; else 0.
        settings: Of the job.
        beside: Bytes an image beside the coded ones.
        total: Images that the sample stands for.
    """

    codings: NDArray[np.uint8]
    stream_bytes: NDArray[np.int64]
    lossless_bytes: NDArray[np.int64]
    psnrs_db: NDArray[np.float64]
    doubts: NDArray[np.float64] | None
    sure: float | None
    whole_bytes: NDArray[np.int64]
    settings: ar.Settings
    beside: float
    total: int

    @property
    def qualities(self) -> int:
        """Q."""
        return len(self.codings)

    @property
    def spends_by_doubt(self) -> bool:
        """Whether bytes may go to images that the classifier doubts: not where it does not know such images."""
        return self.settings.doubt is not None and not self._is_unsure

    @property
    def _is_unsure(self) -> bool:
        return self.sure is not None and self.sure < SURE

    def choice(self, quality: int, limit: float | None) -> Choice:
        """What a base quality and a limit of doubt give; by arithmetic what `encode_chunk` does.

        Args:
            quality: 1 to Q.
            limit: 0 to 1; None for no climbing.
        """
        base, images = quality - 1, np.arange(self.codings.shape[1])
        rows = self._climbed(base, limit)
        is_whole = np.zeros(len(images), bool)
        if self.doubts is not None and self.settings.keep_readable is not None:
            is_whole = self.doubts[rows, images] > MISREAD_ONLY
            rows = np.where(is_whole, base, rows)
        psnrs_db, lossless_bytes = self.psnrs_db[rows, images], self.lossless_bytes[rows, images]
        better = is_whole | (self.codings[rows, images] != self.codings[base])
        if (floor_db := self.settings.min_psnr_db) is not None:
            is_whole |= (lossless_bytes == 0) & (psnrs_db < floor_db)
        sizes = self.stream_bytes[rows, images] + np.where(is_whole, self.whole_bytes, lossless_bytes)
        reserve = SIGMAS / np.sqrt(len(images)) * np.sqrt(max(0.0, 1 - len(images) / self.total))
        return Choice(
            quality=quality,
            limit=limit,
            better=float(better.mean()),
            bytes_per_image=float(sizes.mean()) + self.beside,
            psnr_db=float(psnrs_db.mean()),
            images=len(images),
            most_bytes=float(sizes.mean() + reserve * sizes.std()) + self.beside,
            least_psnr_db=float(psnrs_db.mean() - reserve * psnrs_db.std()),
            unsure=self.sure if self.settings.doubt is not None and self._is_unsure else None,
        )

    def _climbed(self, base: int, limit: float | None) -> NDArray[np.intp]:
        """The row of the quality that each image ends at, intp `[N]`."""
        if limit is None or self.doubts is None:
            return np.full(self.codings.shape[1], base, np.intp)
        is_enough = self.doubts[base:] <= limit
        is_enough[-1] = True
        return np.asarray(base + is_enough.argmax(0))

    def limits(self, quality: int) -> list[float]:
        """Limits of doubt that make a difference at a base quality, ascending; the last one is that of misread images only."""
        if self.doubts is None:
            return []
        found = self.doubts[quality - 1 :]
        return sorted({rounded_up(doubt) for doubt in found[np.isfinite(found)].tolist()} | {MISREAD_ONLY})


def rounded_up(doubt: float) -> float:
    """A doubt of 0 to 1 to a few digits, so that a manifest tells it shortly; up, as that takes fewer bytes."""
    context = decimal.Context(prec=LIMIT_DIGITS, rounding=decimal.ROUND_CEILING)
    return float(context.create_decimal_from_float(doubt))


def try_qualities(
    images: NDArray[np.uint8], codec: Codec, settings: ar.Settings, beside: float, total: int, classify: Classify | None = None
) -> Trials:
    """Encodes and decodes a sample at each quality.

    Args:
        images: The sample, uint8 `[N, 32, 32, 3]`.
        codec: A model with qualities.
        settings: Of the job, but for the quality and the limit of doubt.
        beside: Bytes an image beside the coded ones.
        total: Images that the sample stands for.
        classify: The settings' classifier; None if they have none.
    """
    doubter = None if classify is None else Doubter.of(images, classify)
    parts = [encode_measured(images, codec, quality) for quality in range(1, codec.qualities + 1)]
    records = [part for part, _ in parts]
    psnrs_db = np.stack([part.psnrs_db.astype(np.float64) for part in records])
    doubts = None if doubter is None else np.stack([doubter.doubts(*part) for part in parts])
    may_be_whole = np.zeros(len(images), bool)
    if settings.min_psnr_db is not None:
        may_be_whole |= (psnrs_db < settings.min_psnr_db).any(0)
    if settings.keep_readable is not None and doubts is not None:
        may_be_whole |= doubts[-1] > MISREAD_ONLY
    return Trials(
        codings=np.stack([part.codings for part in records]),
        stream_bytes=np.array([[len(stream) for stream in part.streams] for part in records]),
        lossless_bytes=np.array([[len(file or b"") for file in part.lossless] for part in records]),
        psnrs_db=psnrs_db,
        doubts=doubts,
        sure=None if doubter is None else float(doubter.sure.mean()),
        whole_bytes=np.array([len(encode_lossless(image)) if may_be_whole[row] else 0 for row, image in enumerate(images)]),
        settings=settings,
        beside=beside,
        total=total,
    )
