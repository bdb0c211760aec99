"""The page's decoder in JavaScript, written from docs/FORMAT.md alone, gives the pixels of the one in Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.archive import Records
from tsae.codec import Codec
from tsae.images import resize
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

DECODE = Path(__file__).parents[2] / "js" / "decode.mjs"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def decode(model: str, records: Records, folder: Path) -> np.ndarray:
    """What the decoder in JavaScript makes of the streams of some records."""
    file = folder / "model.safetensors"
    file.write_bytes(read_model_file(model))
    streams = [(int(c), s.hex()) for c, s in zip(records.codings, records.streams, strict=True)]
    command = ["node", str(DECODE), str(file)]
    done = subprocess.run(command, input=json.dumps(streams).encode(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, 32, 32, 3)


def draw(count: int) -> np.ndarray:
    images = np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(count, seed=21)])
    images[-1] = np.random.default_rng(0).integers(0, 256, images[-1].shape)  # escapes, and sums at their limits
    return images


@pytest.mark.parametrize("quality", range(1, 9))
def test_pixels_are_equal(quality: int, tmp_path: Path) -> None:
    codec = Codec.from_bytes(read_model_file("tsae"), "tsae")
    records = codec.encode(draw(8), quality)
    np.testing.assert_array_equal(decode("tsae", records, tmp_path), codec.decode_streams(records))


def test_pixels_of_the_seed_are_equal_to_a_grey_level(tmp_path: Path) -> None:
    codec = Codec.from_bytes(read_model_file("seed-8x8x8"), "seed-8x8x8")
    records = codec.encode(draw(12))
    difference = np.abs(decode("seed-8x8x8", records, tmp_path).astype(int) - codec.decode_streams(records))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.999


def test_bytes_beyond_the_end_are_refused(tmp_path: Path) -> None:
    records = Codec.from_bytes(read_model_file("tsae"), "tsae").encode(draw(1), 2)
    records.streams[0] += b"x" * 9
    with pytest.raises(AssertionError, match="damaged stream"):
        decode("tsae", records, tmp_path)
