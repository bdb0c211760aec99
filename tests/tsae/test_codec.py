"""The codec, whatever its model: what a record needs to come back, which qualities there are, and damage that is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from tsae import codec as codec_module
from tsae.archive import Records
from tsae.codec import Codec, choose_device, shared_codec
from tsae.errors import CorruptDataError, InputError, ModelError
from tsae.images import encode_image, encode_lossless, resize
from tsae.signs import draw_signs
from tsae.zoo import names, read_model_file


@pytest.fixture(scope="module", params=names("codec"))
def codec(request: pytest.FixtureRequest) -> Codec:
    return Codec.from_bytes(read_model_file(request.param), request.param)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(20, seed=5)])


def blank(count: int) -> np.ndarray:
    return np.zeros((count, 32, 32, 3), np.uint8)


def named(records: Records) -> Records:
    return dataclasses.replace(records, keys=[f"{i:03d}.png" for i in range(len(records))])


def test_records_have_what_the_model_knows_and_nothing_else(codec: Codec, images: np.ndarray) -> None:
    records = codec.encode(images)
    assert records.keys == [str(i) for i in range(20)]
    assert records.labels == [None] * 20
    assert np.isnan(records.psnrs_db).all()
    assert len(records.streams) == len(records.codings) == len(records.lossless) == 20
    assert codec.latents(records).shape == (20, *codec.latent_shape)
    assert codec.decode(records).shape == (20, 32, 32, 3)
    assert codec.decode(records).dtype == np.uint8


def test_no_images_give_no_streams_and_back(codec: Codec) -> None:
    records = codec.encode(blank(0))
    assert records.streams == []
    assert codec.decode(records).shape == codec.decode_streams(records).shape == (0, 32, 32, 3)
    assert codec.latents(records).shape == (0, *codec.latent_shape)


@pytest.mark.parametrize("coding", [0, 34, 77, 255])
def test_an_unknown_coding_is_named(codec: Codec, coding: int) -> None:
    records = named(codec.encode(blank(2)))
    records.codings[1] = coding
    for decode in (codec.decode, codec.decode_streams, codec.latents):
        with pytest.raises(CorruptDataError, match=rf"001\.png.*coding {coding}\b"):
            decode(records)


def test_a_stream_that_cannot_be_one_is_named(codec: Codec) -> None:
    records = named(codec.encode(blank(2)))
    records.streams[1] = b"\xff" * 999
    for decode in (codec.decode, codec.decode_streams, codec.latents):
        with pytest.raises(CorruptDataError, match=r"001\.png"):
            decode(records)


def test_images_that_are_stored_losslessly_come_back_exactly(codec: Codec, images: np.ndarray) -> None:
    records = codec.encode(images)
    lossy = codec.decode(records)
    mixed = dataclasses.replace(records, lossless=[encode_lossless(x) if i % 3 else None for i, x in enumerate(images)])
    decoded = codec.decode(mixed)
    for row in range(20):
        np.testing.assert_array_equal(decoded[row], images[row] if row % 3 else lossy[row])
    assert (lossy != images).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(codec.decode_streams(mixed), lossy)
    np.testing.assert_array_equal(codec.latents(mixed), codec.latents(records))


@pytest.mark.parametrize("file", [b"", b"RIFF", b"x" * 200, encode_image(np.zeros((31, 32, 3), np.uint8), "webp")])
def test_a_lossless_image_that_is_none_is_named(codec: Codec, file: bytes) -> None:
    records = dataclasses.replace(named(codec.encode(blank(2))), lossless=[None, file])
    with pytest.raises(CorruptDataError, match=r"001\.png: its lossless image: .*restore the file") as caught:
        codec.decode(records)
    assert "\n" not in str(caught.value)


def test_a_codec_checks_the_quality(codec: Codec) -> None:
    with pytest.raises(InputError, match=f"quality {codec.qualities + 1}: model {codec.name}"):
        codec.encode(blank(1), codec.qualities + 1)


def test_codecs_are_shared_by_model_and_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def from_bytes(model_file: bytes, source: str, device: str) -> object:
        made.append(model_file)
        return object()

    monkeypatch.setattr(codec_module, "_shared", {})
    monkeypatch.setattr(codec_module.Codec, "from_bytes", from_bytes)
    names = [b"a", b"b", b"a", b"c", b"d", b"e", b"e"]
    codecs = [shared_codec(name, "it") for name in names]
    assert made == [b"a", b"b", b"c", b"d", b"e"]
    assert codecs[0] is codecs[2]
    assert codecs[5] is codecs[6]
    assert len(codec_module._shared) == codec_module.SHARED_CODECS
    assert shared_codec(b"a", "it") is not codecs[0]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^mine: "):
        Codec.from_bytes(b"no model", "mine")


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="cuda"):
        choose_device("cuda")
