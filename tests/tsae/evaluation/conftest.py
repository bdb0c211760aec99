"""A classifier of drawn signs that needs no training run, and archives of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tsae.cli import main
from tsae.images import resize
from tsae.signs import LABELS, draw_signs

TRAINED_SIGNS = 600


class NearestMean:
    """Compares thumbnails with the mean thumbnail of each kind of sign: wrong at times, as a classifier should be here."""

    name = "nearest-mean"
    classes = LABELS
    input = "pixels"
    multiply_adds = 192 * len(LABELS)
    sha256 = "5" * 64

    def __init__(self) -> None:
        from PIL import Image

        signs = list(draw_signs(TRAINED_SIGNS, seed=1))
        thumbnails = self.thumbnails(np.stack([resize(Image.fromarray(sign.image)) for sign in signs]))
        labels = np.array([sign.label for sign in signs])
        self._means = np.stack([thumbnails[labels == label].mean(0) for label in LABELS])

    @staticmethod
    def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        small = images.reshape(len(images), 8, 4, 8, 4, 3).mean((2, 4)).reshape(len(images), -1)
        return (small - small.mean(1, keepdims=True)) / (small.std(1, keepdims=True) + 1)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        distances = ((self.thumbnails(images)[:, None] - self._means) ** 2).mean(2)
        weights = np.exp(-20 * (distances - distances.min(1, keepdims=True, initial=np.inf)))
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def classifier() -> NearestMean:
    return NearestMean()


@pytest.fixture(scope="session")
def low_archive(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn signs in the fewest bytes; not to be changed by a test."""
    archive = tmp_path_factory.mktemp("archives") / "low"
    assert main(["compress", str(signs_dir), str(archive), "--quality=1"]) == 0
    return archive
