"""The decoder in JavaScript, written from docs/FORMAT.md alone, gives the very same pixels."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.archive import ENTROPY_CODED
from tsae.codec import Codec
from tsae.images import resize
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

DECODER = Path(__file__).parents[2] / "js" / "decoder.mjs"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def decode(model: bytes, streams: list[tuple[int, str]], folder: Path) -> subprocess.CompletedProcess[bytes]:
    (folder / "model.safetensors").write_bytes(model)
    command = ["node", str(DECODER), str(folder / "model.safetensors")]
    return subprocess.run(command, input=json.dumps(streams).encode(), capture_output=True, timeout=120)


def test_pixels_are_equal(tmp_path: Path) -> None:
    model = read_model_file("tsae")
    codec = Codec.from_bytes(model, "tsae")
    images = np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(6, seed=21)])
    images[-1] = np.random.default_rng(0).integers(0, 256, images[-1].shape)  # escapes, and sums at their limits
    for quality in (1, 4, 8):
        records = codec.encode(images, quality)
        streams = [(int(c) - ENTROPY_CODED.start + 1, s.hex()) for c, s in zip(records.codings, records.streams, strict=True)]
        done = decode(model, streams, tmp_path)
        assert done.returncode == 0, done.stderr.decode()
        pixels = np.frombuffer(done.stdout, np.uint8).reshape(-1, 32, 32, 3)
        np.testing.assert_array_equal(pixels, codec.decode_streams(records))


def test_bytes_beyond_the_end_are_refused(tmp_path: Path) -> None:
    model = read_model_file("tsae")
    image = resize(Image.fromarray(next(iter(draw_signs(1, seed=22))).image))
    records = Codec.from_bytes(model, "tsae").encode(image[None], 2)
    quality = int(records.codings[0]) - ENTROPY_CODED.start + 1
    done = decode(model, [(quality, (records.streams[0] + b"x" * 9).hex())], tmp_path)
    assert done.returncode != 0
    assert b"damaged stream" in done.stderr
