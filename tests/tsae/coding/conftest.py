"""Drawn signs at the size of the networks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tsae.images import resize
from tsae.signs import draw_signs


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """70 drawn signs, uint8 `[70, 32, 32, 3]`; not to be changed by a test."""
    images = np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(70, seed=5)])
    images.flags.writeable = False
    return images
