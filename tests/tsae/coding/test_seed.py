"""The seed's coding: streams of 512 bytes, not depending on batches, order or threads, and what 8 bits cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tsae.archive import Coding
from tsae.checkpoint import Model, SeedWeights, model_from_bytes
from tsae.codec import Codec
from tsae.coding.seed import to_network_input
from tsae.errors import CorruptDataError
from tsae.metrics import psnr_db
from tsae.zoo import read_model_file


@pytest.fixture(scope="module")
def model() -> Model:
    return model_from_bytes(read_model_file("seed-8x8x8"), "seed-8x8x8")


@pytest.fixture(scope="module")
def weights(model: Model) -> SeedWeights:
    assert isinstance(model.weights, SeedWeights)
    return model.weights


@pytest.fixture(scope="module")
def codec(model: Model) -> Codec:
    return Codec(model, "0" * 64)


def test_every_stream_has_512_bytes_and_stands_alone(codec: Codec, images: np.ndarray) -> None:
    records = codec.encode(images)
    assert {len(stream) for stream in records.streams} == {512}
    assert set(records.codings.tolist()) == {Coding.LATENTS_INT8}
    assert records.lossless == [None] * len(images)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 64])
def test_streams_do_not_depend_on_how_many_images_come_together(codec: Codec, images: np.ndarray, size: int) -> None:
    whole = codec.encode(images).streams
    starts = range(0, len(images), size)
    assert [stream for start in starts for stream in codec.encode(images[start : start + size]).streams] == whole


def test_streams_do_not_depend_on_order(codec: Codec, images: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(len(images))
    whole, shuffled = codec.encode(images).streams, codec.encode(images[order]).streams
    assert shuffled == [whole[i] for i in order]


def test_streams_do_not_depend_on_threads(codec: Codec, images: np.ndarray) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codec.encode(images).streams
        torch.set_num_threads(2)
        assert codec.encode(images).streams == one
    finally:
        torch.set_num_threads(before)


def test_pixels_do_not_depend_on_how_many_images_come_together(codec: Codec, images: np.ndarray) -> None:
    records = codec.encode(images)
    whole = codec.decode(records)
    single = np.concatenate([codec.decode(records.take([row])) for row in range(len(images))])
    assert whole.shape == (70, 32, 32, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(single, whole)


def test_codec_does_what_model_and_quantizer_do(codec: Codec, weights: SeedWeights, images: np.ndarray) -> None:
    """The folded network in micro-batches against the plain one: levels at most one apart, mean PSNR within 0.01 dB."""
    network, quantizer = weights.to_network(), weights.quantizer
    with torch.no_grad():
        q = quantizer.quantize(network.analysis(torch.from_numpy(to_network_input(images))).numpy())
        x_hat = network.synthesis(torch.from_numpy(quantizer.dequantize(q))).numpy()
    direct = np.rint(x_hat.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    records = codec.encode(images)
    assert codec.latents(records).dtype == np.int8
    assert np.abs(codec.latents(records).astype(int) - q).max() <= 1
    assert (codec.latents(records) != q).mean() < 1e-3
    assert abs(psnr_db(images, codec.decode(records)).mean() - psnr_db(images, direct).mean()) < 0.01


def test_eight_bits_cost_at_most_a_tenth_of_a_decibel(images: np.ndarray, codec: Codec, weights: SeedWeights) -> None:
    with torch.no_grad():
        x_hat = torch.sigmoid(weights.to_network()(torch.from_numpy(to_network_input(images)))).numpy()
    unquantized = np.rint(x_hat.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    stored = codec.decode(codec.encode(images))
    assert psnr_db(images, unquantized).mean() - psnr_db(images, stored).mean() < 0.1


@pytest.mark.parametrize(("stream", "coding"), [(b"x" * 511, 1), (b"x" * 513, 1), (b"", 1), (b"x" * 512, 2)])
def test_a_stream_that_the_model_cannot_decode_is_named(codec: Codec, stream: bytes, coding: int) -> None:
    records = codec.encode(np.zeros((2, 32, 32, 3), np.uint8))
    records.keys[1], records.streams[1], records.codings[1] = "a.png", stream, coding
    with pytest.raises(CorruptDataError, match=r"a\.png.*coding"):
        codec.decode(records)
