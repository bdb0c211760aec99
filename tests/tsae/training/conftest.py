"""A learned recipe small enough to be trained in a second, and drawn signs to train it on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.images import resize
from tsae.signs import draw_signs, write_signs
from tsae.training import TrainConfig
from tsae.training.images import ImageSet
from tsae.training.variable_rate import Sizes

SMALL = Sizes(channels=8, slices=(1, 1, 2, 4), owns=2, fields=8, analysis=(48, 24, 1), synthesis=(16, 24, 1))


@pytest.fixture(scope="session")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 drawn signs; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("training") / "signs"
    write_signs(folder, 60, seed=9)
    return folder


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """48 other signs, uint8 `[48, 32, 32, 3]`."""
    return np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(48, seed=5)])


@pytest.fixture(scope="session")
def picture_set(pictures: np.ndarray) -> ImageSet:
    """These signs as recipes take them."""
    return ImageSet([f"{number}.png" for number in range(len(pictures))], pictures)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    return TrainConfig("tsae", epochs=2, batch_size=16, learning_rate=4e-3, seed=4)


@pytest.fixture(scope="module")
def small_recipe() -> Iterator[None]:
    """Makes the recipe's network small, and its learning rate rise within two steps."""
    learned = importlib.import_module("tsae.training.learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "Sizes", lambda: SMALL)
        patch.setattr(learned, "WARM_STEPS", 2)
        yield
