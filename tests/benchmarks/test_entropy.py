"""benchmarks/entropy.py: a decoder in NumPy, written a second time, that must give the same symbols."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.checkpoint import LearnedWeights, model_from_bytes
from tsae.config import DEFAULT_MODEL
from tsae.entropy.coder import EntropyCoder
from tsae.images import resize
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from entropy import NumpyDecoder, encode


@pytest.mark.parametrize("quality", [1, 8])
def test_a_decoder_in_numpy_gives_the_same_symbols(quality: int) -> None:
    weights = model_from_bytes(read_model_file(DEFAULT_MODEL), DEFAULT_MODEL).weights
    assert isinstance(weights, LearnedWeights)
    images = [resize(Image.fromarray(sign.image)) for sign in draw_signs(12, seed=5)]
    images += list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    coder = EntropyCoder(weights.prior)
    streams = encode(weights, coder, np.stack(images), quality)
    far = np.zeros((1, *coder.latent_shape), np.int16)
    far[0, np.flatnonzero(weights.prior.active[quality - 1])[::3], ::3, ::3] = [900, -700, 3]  # no table reaches so far
    streams += coder.encode(far, quality)
    expected = coder.decode(streams, [quality] * len(streams))
    np.testing.assert_array_equal(NumpyDecoder(weights.prior).decode(streams, quality), expected)
