"""The codec: streams of the promised size, not depending on batches, order or threads; damage is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tsae.archive import Records
from tsae.checkpoint import model_from_bytes
from tsae.codec import Codec
from tsae.errors import CorruptDataError
from tsae.images import encode_image, encode_lossless, resize
from tsae.metrics import psnr_db
from tsae.model import to_network_input
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

MODEL_FILE = read_model_file("seed-8x8x8")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_bytes(MODEL_FILE, "seed-8x8x8")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    from PIL import Image

    return np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(70, seed=5)])


def records_of(streams: list[bytes], coding: int = 1) -> Records:
    n = len(streams)
    sizes = np.full(n, 32, np.uint32)
    keys, psnrs_db = [f"{i:03d}.png" for i in range(n)], np.full(n, np.nan, np.float32)
    return Records(keys, sizes, sizes, [None] * n, psnrs_db, np.full(n, coding, np.uint8), streams, [None] * n)


def test_every_stream_has_512_bytes(codec: Codec, images: np.ndarray) -> None:
    assert {len(stream) for stream in codec.encode(images)} == {512}


@pytest.mark.parametrize("size", [1, 3, 16, 17, 64])
def test_streams_do_not_depend_on_how_many_images_come_together(codec: Codec, images: np.ndarray, size: int) -> None:
    whole = codec.encode(images)
    parts = [stream for start in range(0, len(images), size) for stream in codec.encode(images[start : start + size])]
    assert parts == whole


def test_streams_do_not_depend_on_order(codec: Codec, images: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(len(images))
    whole, shuffled = codec.encode(images), codec.encode(images[order])
    assert shuffled == [whole[i] for i in order]


def test_streams_do_not_depend_on_threads(codec: Codec, images: np.ndarray) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codec.encode(images)
        torch.set_num_threads(2)
        assert codec.encode(images) == one
    finally:
        torch.set_num_threads(before)


def test_pixels_do_not_depend_on_how_many_images_come_together(codec: Codec, images: np.ndarray) -> None:
    records = records_of(codec.encode(images))
    whole = codec.decode(records)
    single = np.concatenate([codec.decode(records.take([row])) for row in range(len(images))])
    assert whole.shape == (70, 32, 32, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(single, whole)


def test_codec_does_what_model_and_quantizer_do(codec: Codec, images: np.ndarray) -> None:
    """The folded network in micro-batches against the plain one: levels at most one apart, mean PSNR within 0.01 dB."""
    model = model_from_bytes(MODEL_FILE, "seed-8x8x8")
    with torch.no_grad():
        q = model.quantizer.quantize(model.network.analysis(torch.from_numpy(to_network_input(images))).numpy())
        x_hat = model.network.synthesis(torch.from_numpy(model.quantizer.dequantize(q))).numpy()
    direct = np.rint(x_hat.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    records = records_of(codec.encode(images))
    assert np.abs(codec.latents(records).astype(int) - q).max() <= 1
    assert (codec.latents(records) != q).mean() < 1e-3
    assert abs(psnr_db(images, codec.decode(records)).mean() - psnr_db(images, direct).mean()) < 0.01


def test_eight_bits_cost_at_most_a_tenth_of_a_decibel(images: np.ndarray, codec: Codec) -> None:
    model = model_from_bytes(MODEL_FILE, "seed-8x8x8")
    with torch.no_grad():
        x_hat = torch.sigmoid(model.network(torch.from_numpy(to_network_input(images)))).numpy()
    unquantized = np.rint(x_hat.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    stored = codec.decode(records_of(codec.encode(images)))
    assert psnr_db(images, unquantized).mean() - psnr_db(images, stored).mean() < 0.1


def test_no_images_give_no_streams_and_back(codec: Codec) -> None:
    assert codec.encode(np.empty((0, 32, 32, 3), np.uint8)) == []
    assert codec.decode(records_of([])).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(("stream", "coding"), [(b"x" * 511, 1), (b"x" * 513, 1), (b"", 1), (b"x" * 512, 2)])
def test_a_stream_that_the_model_cannot_decode_is_named(codec: Codec, stream: bytes, coding: int) -> None:
    good = codec.encode(np.zeros((1, 32, 32, 3), np.uint8))
    records = dataclasses.replace(records_of([*good, stream]), codings=np.array([1, coding], np.uint8))
    with pytest.raises(CorruptDataError, match=r"001\.png.*coding"):
        codec.decode(records)


def test_images_that_are_stored_losslessly_come_back_exactly(codec: Codec, images: np.ndarray) -> None:
    records = records_of(codec.encode(images[:20]))
    lossy = codec.decode(records)
    mixed = dataclasses.replace(records, lossless=[encode_lossless(x) if i % 3 else None for i, x in enumerate(images[:20])])
    decoded = codec.decode(mixed)
    for row in range(20):
        np.testing.assert_array_equal(decoded[row], images[row] if row % 3 else lossy[row])
    assert (lossy != images[:20]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(codec.latents(mixed), codec.latents(records))


@pytest.mark.parametrize("file", [b"", b"RIFF", b"x" * 200, encode_image(np.zeros((31, 32, 3), np.uint8), "webp")])
def test_a_lossless_image_that_is_none_is_named(codec: Codec, file: bytes) -> None:
    good = codec.encode(np.zeros((2, 32, 32, 3), np.uint8))
    records = dataclasses.replace(records_of(good), lossless=[None, file])
    with pytest.raises(CorruptDataError, match=r"001\.png: its lossless image: .*restore the file") as caught:
        codec.decode(records)
    assert "\n" not in str(caught.value)
