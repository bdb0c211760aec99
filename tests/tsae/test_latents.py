"""Stored latents without torch: one scale for all qualities, and damage that is named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tsae.archive import ENTROPY_CODED, Coding, Records, bare_records, concatenate
from tsae.codec import Codec
from tsae.entropy.coder import EntropyCoder
from tsae.errors import CorruptDataError, FormatError, InputError, ModelError
from tsae.images import resize
from tsae.latents import coding_of, decode_latents, is_entropy_coded, load_entropy_coder, stored_latents
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

MODEL_FILE = read_model_file("tsae")


@pytest.fixture(scope="module")
def coder() -> EntropyCoder:
    return load_entropy_coder(MODEL_FILE, "tsae")


@pytest.fixture(scope="module")
def shape(coder: EntropyCoder) -> tuple[int, int, int]:
    return (coder.prior.channels, 8, 8)


@pytest.fixture(scope="module")
def symbols(coder: EntropyCoder) -> np.ndarray:
    """Small made-up symbols, int16 `[6, C, 8, 8]`, in channels that every quality codes."""
    symbols = np.random.default_rng(0).integers(-3, 4, (6, coder.prior.channels, 8, 8), np.int16)
    return symbols * coder.prior.active.all(0)[:, None, None].astype(np.int16)


def coded(coder: EntropyCoder, symbols: np.ndarray, qualities: list[int]) -> Records:
    streams = [coder.encode(one[None], quality)[0] for one, quality in zip(symbols, qualities, strict=True)]
    codings = np.array([coding_of(quality) for quality in qualities], np.uint8)
    records = bare_records(streams, codings, [None] * len(streams))
    return dataclasses.replace(records, keys=[f"{i:03d}.png" for i in range(len(streams))])


def test_codings_and_qualities() -> None:
    assert coding_of(None) == Coding.LATENTS_INT8
    assert [coding_of(quality) for quality in (1, 2, 8, 32)] == [2, 3, 9, 33]
    assert (ENTROPY_CODED.start, ENTROPY_CODED[-1]) == (2, 33)


def test_latents_and_qualities_come_back(coder: EntropyCoder, symbols: np.ndarray) -> None:
    qualities = [1, 8, 3, 3, 5, 2]
    records = coded(coder, symbols, qualities)
    np.testing.assert_array_equal(coder.decode(records.streams, qualities), symbols)
    found, found_qualities = decode_latents(records, coder)
    np.testing.assert_array_equal(found, coder.decode_latents(records.streams, qualities))
    assert found_qualities.tolist() == qualities


def test_mixed_qualities_give_one_scale(coder: EntropyCoder, symbols: np.ndarray, shape: tuple[int, int, int]) -> None:
    """A symbol counts as many units as its quality's steps have: sixteenths of a unit, to the nearest."""
    qualities = [1, 8, 3, 3, 5, 2]
    latents = stored_latents(coded(coder, symbols, qualities), shape, lambda: coder)
    assert latents.dtype == np.int16
    for row, quality in enumerate(qualities):
        exact = symbols[row] * coder.prior.step[quality - 1][:, None, None] / 16
        assert np.abs(latents[row] - np.clip(exact, -4095, 4095)).max() <= 0.5


def test_the_same_image_has_about_the_same_latents_at_all_qualities(coder: EntropyCoder, shape: tuple[int, int, int]) -> None:
    codec = Codec.from_bytes(MODEL_FILE, "tsae")
    image = np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(1, seed=5)])
    parts = [codec.encode(image, quality) for quality in (5, 6, 7, 8)]
    latents = stored_latents(concatenate(parts), shape, lambda: coder).reshape(4, -1).astype(float)
    correlations = np.corrcoef(latents)
    assert correlations.min() > 0.8
    slopes = [latents[i] @ latents[3] / (latents[3] @ latents[3]) for i in range(3)]
    assert all(0.7 < slope < 1.3 for slope in slopes)


def test_plain_latents_need_no_entropy_coder() -> None:
    records = bare_records([bytes(range(8))], np.ones(1, np.uint8), [None])
    assert not is_entropy_coded(records)
    latents = stored_latents(records, (2, 2, 2), None)  # type: ignore[arg-type]
    assert latents.dtype == np.int8
    assert latents.ravel().tolist() == list(range(8))


def test_first_channels(coder: EntropyCoder, symbols: np.ndarray, shape: tuple[int, int, int]) -> None:
    records = coded(coder, symbols, [1, 8, 3, 3, 5, 2])
    whole = stored_latents(records, shape, lambda: coder)
    for channels in (1, 16, 17, 32):
        found = stored_latents(records, shape, lambda: coder, channels)
        np.testing.assert_array_equal(found, whole[:, :channels])
    plain = bare_records([bytes(range(8))], np.ones(1, np.uint8), [None])
    assert stored_latents(plain, (2, 2, 2), lambda: coder, 1).ravel().tolist() == [0, 1, 2, 3]
    for channels in (0, 33):
        with pytest.raises(InputError, match=rf"channels {channels}: this model's latents have 1 to 32"):
            stored_latents(records, shape, lambda: coder, channels)


def test_no_records_have_no_latents(coder: EntropyCoder, shape: tuple[int, int, int]) -> None:
    assert stored_latents(concatenate([]), shape, lambda: coder).shape == (0, *shape)


def test_an_unknown_coding_is_named(coder: EntropyCoder, symbols: np.ndarray, shape: tuple[int, int, int]) -> None:
    for coding in (0, 1, coder.prior.qualities + 2, 33, 34, 255):
        records = coded(coder, symbols, [1] * 6)
        records.codings[2] = coding
        with pytest.raises(CorruptDataError, match=rf"002\.png.*: coding {coding}, this model decodes 2 to 9; .*update tsae"):
            stored_latents(records, shape, lambda: coder)


def test_a_damaged_stream_is_named(coder: EntropyCoder, symbols: np.ndarray, shape: tuple[int, int, int]) -> None:
    records = coded(coder, symbols, [4] * 6)
    records.streams[3] = b"\xff" * 999
    with pytest.raises(CorruptDataError, match=r"003\.png.*: its stream is damaged or of another model; restore the file"):
        stored_latents(records, shape, lambda: coder)


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s + b"x", lambda s: b"", lambda s: bytes(len(s))])
def test_a_stream_of_another_length_does_no_harm(coder: EntropyCoder, symbols: np.ndarray, change: object) -> None:
    """Its record's checksum tells; the stream by itself may be one of other symbols."""
    records = coded(coder, symbols, [4] * 6)
    records.streams[3] = change(records.streams[3])  # type: ignore[operator]
    try:
        found, _ = decode_latents(records, coder)
    except CorruptDataError as error:
        assert "003.png" in str(error)  # noqa: PT017
    else:
        expected, _ = decode_latents(coded(coder, symbols, [4] * 6), coder)
        assert [i for i in range(6) if i != 3 and (found[i] != expected[i]).any()] == []


def test_a_stream_of_another_quality_is_noticed_or_other_symbols(coder: EntropyCoder, symbols: np.ndarray) -> None:
    records = coded(coder, symbols, [8] * 6)
    expected, _ = decode_latents(records, coder)
    records.codings[:] = coding_of(1)
    try:
        assert (decode_latents(records, coder)[0] != expected).any()
    except CorruptDataError as error:
        assert ".png" in str(error)  # noqa: PT017


@pytest.mark.parametrize("wrong", [(8, 8, 8), (32, 8, 9), (33, 8, 8), (2**19,) * 3, (32,), ()])
def test_another_shape_than_the_models_is_refused(coder: EntropyCoder, symbols: np.ndarray, wrong: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="latent_shape.*restore the manifest"):
        stored_latents(coded(coder, symbols, [1] * 6), wrong, lambda: coder)


def test_a_model_without_tables_has_no_entropy_coder() -> None:
    with pytest.raises(ModelError, match=r"seed\.safetensors: unusable tables \(no slices.*restore the file"):
        load_entropy_coder(read_model_file("seed-8x8x8"), "seed.safetensors")
    with pytest.raises(ModelError, match=r"^it: "):
        load_entropy_coder(b"nothing", "it")
    tensors = safetensors.numpy.load(MODEL_FILE)
    tensors["tables.step"] = tensors["tables.step"] * 0
    header = MODEL_FILE[8 : 8 + int.from_bytes(MODEL_FILE[:8], "little")]
    metadata = json.loads(header)["__metadata__"]
    with pytest.raises(ModelError, match="unusable tables"):
        load_entropy_coder(safetensors.numpy.save(tensors, metadata), "it")


NO_TORCH = """
import sys
from pathlib import Path
import numpy as np
from tsae.archive import bare_records
from tsae.latents import load_entropy_coder, stored_latents
coder = load_entropy_coder(Path(sys.argv[1]).read_bytes(), "it")
streams = coder.encode(np.zeros((1, coder.prior.channels, 8, 8), np.int16), 1)
records = bare_records(streams, np.array([2], np.uint8), [None])
assert not stored_latents(records, (coder.prior.channels, 8, 8), lambda: coder).any()
assert "torch" not in sys.modules
"""


def test_it_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(MODEL_FILE)
    subprocess.run([sys.executable, "-c", NO_TORCH, str(tmp_path / "model")], check=True)
