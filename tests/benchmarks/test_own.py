"""Our models in benchmarks/rate_distortion.py: what is timed is what the archive holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.archive import ArchiveFiles
from tsae.images import resize
from tsae.signs import draw_signs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rd.own import OwnCoder, OwnModel, default_models, parse_model, write_pngs


@pytest.fixture(scope="module")
def signs() -> np.ndarray:
    return np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(6, seed=2)])


@pytest.mark.parametrize("spec", ["seed-8x8x8", "tsae:3"])
def test_the_codec_gives_the_streams_of_the_archive(tmp_path: Path, signs: np.ndarray, spec: str) -> None:
    (model,) = parse_model(spec)
    names = write_pngs(tmp_path / "png", [f"{i}.ppm" for i in range(6)], signs)
    timed = [1, 4, 5]
    coder = OwnCoder(model, tmp_path / "png", names, [names[i] for i in timed], tmp_path / "archive")
    coded = coder.code(signs)
    assert coded.decoded.shape == signs.shape
    assert (np.abs(coded.decoded.astype(float) - signs).mean((1, 2, 3)) < 40).all()
    assert coded.stream_bytes is not None
    assert 0 < coded.stream_bytes < coded.bytes_per_image
    streams = coder.encode(signs[timed])
    assert streams == ArchiveFiles(str(tmp_path / "archive")).records([names[i] for i in timed]).streams
    np.testing.assert_array_equal(coder.decode(streams), coded.decoded[timed])
    with pytest.raises(AssertionError, match="not those of its archive"):
        coder.decode(streams[::-1])


def test_models_are_named_with_their_qualities() -> None:
    assert parse_model("tsae:2-4") == [OwnModel("tsae", "tsae", quality) for quality in (2, 3, 4)]
    assert parse_model("new=a/b.safetensors:8") == [OwnModel("new", "a/b.safetensors", 8)]
    assert parse_model("a/b.safetensors") == [OwnModel("b", "a/b.safetensors")]
    assert {"seed-8x8x8", "tsae:1-8"} <= set(default_models())


def test_keys_that_cannot_be_files_are_numbered(tmp_path: Path, signs: np.ndarray) -> None:
    assert write_pngs(tmp_path / "a", [f"{i}/x.ppm" for i in range(6)], signs) == [f"{i}/x.png" for i in range(6)]
    for keys in (["x.ppm"] * 6, [f"x.{i}" for i in range(6)], ["../x", *"abcde"]):
        assert write_pngs(tmp_path / "b", keys, signs) == [f"00000{i}.png" for i in range(6)]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b" / "000005.png")), signs[5])
