"""The learned coding: the same bytes whatever comes with an image, and no image that costs too much or is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import ENTROPY_CODED, Records
from tsae.checkpoint import LearnedWeights, Model, model_from_bytes
from tsae.codec import Codec
from tsae.coding import learned
from tsae.coding.learned import (
    FAINT_DEVIATIONS,
    FLAT_DEVIATION,
    MAX_STREAM_BYTES,
    PATTERN_PIXELS,
    count_new_pixels,
    faintness,
    from_patches,
    is_better_lossless,
    to_patches,
)
from tsae.entropy.coder import EntropyCoder
from tsae.errors import CorruptDataError
from tsae.images import encode_lossless
from tsae.metrics import psnr_db
from tsae.zoo import read_model_file

QUALITIES = range(1, 9)
MOST_LOSSLESS_BYTES = 4096
"""Noise of 3,072 bytes as lossless WebP."""

SIMPLE = ("colour", "grey", "checks", "the other checks", "rows", "columns", "a point", "stripes")
"""How the names of odd images begin that must come back exactly at every quality."""


@pytest.fixture(scope="module")
def model() -> Model:
    return model_from_bytes(read_model_file("tsae"), "tsae")


@pytest.fixture(scope="module")
def weights(model: Model) -> LearnedWeights:
    assert isinstance(model.weights, LearnedWeights)
    return model.weights


@pytest.fixture(scope="module")
def codec(model: Model) -> Codec:
    return Codec(model, "0" * 64)


def filled(*rgb: int) -> np.ndarray:
    return np.full((32, 32, 3), rgb, np.uint8)


def codings(images: np.ndarray, quality: int) -> list[int]:
    """Those of images of which none is stored losslessly."""
    return (ENTROPY_CODED.start - 1 + np.minimum(quality + faintness(images), 8)).tolist()


def odd_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """What is no photograph of a sign."""
    rng = np.random.default_rng(0)
    checks = np.where(np.indices((32, 32)).sum(0)[:, :, None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)
    rows = np.where(np.indices((32, 32))[0][:, :, None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)
    point = filled(0, 0, 0)
    point[13, 17] = 255
    return {
        "noise": rng.integers(0, 256, (32, 32, 3), np.uint8),
        "other noise": rng.integers(0, 256, (32, 32, 3), np.uint8),
        "noise of greys": rng.integers(0, 256, (32, 32, 1), np.uint8).repeat(3, 2),
        "noise of black and white": (rng.integers(0, 2, (32, 32, 1), np.uint8) * np.uint8(255)).repeat(3, 2),
        "noise of all colours": rng.integers(0, 2, (32, 32, 3), np.uint8) * np.uint8(255),
        **{f"colour {r}, {g}, {b}": filled(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)},
        "grey": filled(128, 128, 128),
        "checks of a pixel": checks,
        "the other checks": 255 - checks,
        "checks of two colours": np.where(checks, np.uint8([255, 0, 255]), np.uint8([0, 255, 0])),
        "rows": rows,
        "columns": rows.transpose(1, 0, 2).copy(),
        "larger checks": np.kron(checks[:16, :16, 0], np.ones((2, 2), np.uint8))[:, :, None].repeat(3, 2),
        "stripes of 4 pixels": np.where(np.indices((32, 32))[1][:, :, None] // 4 % 2, np.uint8([200, 30, 30]), np.uint8(240)),
        "a point": point,
        **{f"inverted sign {i}": 255 - images[i] for i in range(12)},
    }


# The same bytes whatever else there is


@pytest.mark.parametrize("size", [1, 3, 16, 17, 64])
def test_streams_do_not_depend_on_how_many_images_come_together(codec: Codec, images: np.ndarray, size: int) -> None:
    whole = codec.encode(images, 5)
    parts = [codec.encode(images[start : start + size], 5) for start in range(0, len(images), size)]
    assert [stream for part in parts for stream in part.streams] == whole.streams
    assert [file for part in parts for file in part.lossless] == whole.lossless


@pytest.mark.parametrize("quality", [1, 8])
def test_streams_do_not_depend_on_order(codec: Codec, images: np.ndarray, quality: int) -> None:
    order = np.random.default_rng(3).permutation(len(images))
    whole, shuffled = codec.encode(images, quality).streams, codec.encode(images[order], quality).streams
    assert shuffled == [whole[i] for i in order]


def test_neither_streams_nor_pixels_depend_on_threads(codec: Codec, images: np.ndarray) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            records = codec.encode(images, 6)
            found.append((records.streams, codec.decode(records).tobytes()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def mixed(codec: Codec, images: np.ndarray) -> Records:
    """Each image at another quality, and one that is stored losslessly."""
    parts = [codec.encode(images[i : i + 1], 1 + i % 8) for i in range(len(images))]
    columns = zip(*(part.columns() for part in parts), strict=True)
    joined = Records(*(np.concatenate(c) if isinstance(c[0], np.ndarray) else [v for part in c for v in part] for c in columns))
    return dataclasses.replace(joined, lossless=[encode_lossless(x) if i == 7 else None for i, x in enumerate(images)])


def test_pixels_depend_neither_on_neighbours_nor_on_their_qualities(codec: Codec, images: np.ndarray) -> None:
    records = mixed(codec, images)
    whole = codec.decode(records)
    for row in range(len(images)):
        np.testing.assert_array_equal(codec.decode(records.take([row]))[0], whole[row])
    order = np.random.default_rng(1).permutation(len(images))
    np.testing.assert_array_equal(codec.decode(records.take(order.tolist())), whole[order])
    np.testing.assert_array_equal(codec.latents(records.take(order.tolist())), codec.latents(records)[order])


def test_images_come_back_as_the_integers_say(codec: Codec, weights: LearnedWeights, images: np.ndarray) -> None:
    """The whole way in 64-bit integers, without torch."""
    coder, x = EntropyCoder(weights.prior), images[faintness(images) == 0][:6]
    for quality in (1, 4, 8):
        patches = to_patches(x).transpose(0, 3, 1, 2)
        symbols = coder.quantize(weights.analysis.run(patches.astype(np.int64), quality).astype(np.int32), quality)
        records = codec.encode(x, quality)
        assert records.streams == coder.encode(symbols, quality)
        steps = weights.prior.step[quality - 1][:, None, None].astype(np.int64)
        latents = np.clip((symbols * steps + 8) >> 4, -4095, 4095)
        np.testing.assert_array_equal(codec.latents(records), latents)
        x_hat = np.clip(weights.synthesis.run(latents.astype(np.int64), quality) + 128, 0, 255)
        np.testing.assert_array_equal(codec.decode_streams(records), from_patches((x_hat - 128).astype(np.float32)))


# Rate and distortion


def test_each_quality_takes_more_bytes_and_gives_more_than_the_one_below(codec: Codec, images: np.ndarray) -> None:
    sizes, psnrs = [], []
    for quality in QUALITIES:
        records = codec.encode(images, quality)
        assert records.codings.tolist() == codings(images, quality)
        sizes.append(np.mean([len(stream) for stream in records.streams]))
        psnrs.append(psnr_db(images, codec.decode_streams(records)).mean())
    assert sizes == sorted(sizes)
    assert psnrs == sorted(psnrs)
    assert psnrs[4] > 24
    assert sizes[4] < 300
    assert sizes[7] > 2 * sizes[0]
    assert psnrs[7] - psnrs[0] > 6


def test_quality_5_is_the_default(codec: Codec, images: np.ndarray) -> None:
    assert codec.encode(images[:3]).streams == codec.encode(images[:3], 5).streams


# What is no sign


@pytest.mark.parametrize("quality", QUALITIES)
def test_odd_images_cost_no_more_than_their_pixels_and_come_back(codec: Codec, images: np.ndarray, quality: int) -> None:
    """Plain colours and simple patterns exactly; noise at no less than grey would give, and never much worse than a sign."""
    odd = odd_images(images)
    x = np.stack(list(odd.values()))
    records = codec.encode(x, quality)
    decoded, psnrs = codec.decode(records), psnr_db(x, codec.decode(records))
    assert codec.latents(records).shape == (len(odd), *codec.latent_shape)
    for i, name in enumerate(odd):
        assert psnrs[i] > (15 if "inverted" in name else 5), name
        file, stream = records.lossless[i], records.streams[i]
        assert len(stream) <= MAX_STREAM_BYTES, name
        assert 0 < len(stream) + len(file or b"") <= MAX_STREAM_BYTES + MOST_LOSSLESS_BYTES, name
        if name.startswith(SIMPLE):
            assert file is not None, name
            assert len(file) <= 100, name
        if file is not None:
            assert records.codings[i] == ENTROPY_CODED.start, name
            np.testing.assert_array_equal(decoded[i], x[i], name)
        else:
            assert records.codings[i] == codings(x, quality)[i], name


@pytest.mark.parametrize("quality", [1, 5, 8])
def test_plain_colours_come_back_exactly_and_cost_little(codec: Codec, quality: int) -> None:
    """Also dark ones, and those between the corners of the cube of colours."""
    rng = np.random.default_rng(0)
    x = np.stack([filled(*rgb) for rgb in [(0, 0, 0), (255, 255, 255), (3, 3, 3), *rng.integers(0, 256, (40, 3)).tolist()]])
    records = codec.encode(x, quality)
    np.testing.assert_array_equal(codec.decode(records), x)
    files = [file or b"" for file in records.lossless]
    assert all(0 < len(file) <= 50 for file in files)
    assert max(len(file) + len(stream) for file, stream in zip(files, records.streams, strict=True)) <= 200


@pytest.mark.parametrize("quality", QUALITIES)
def test_drawings_are_exact_where_that_is_smaller(codec: Codec, quality: int) -> None:
    """Wide stripes and large checks always, as those of one pixel; others where their stream would be longer."""
    rows, columns = np.indices((32, 32))
    stripes = [axis // width % 2 for width in (1, 4, 8, 16, 2, 3) for axis in (rows, columns)]
    checks = [(rows // width + columns // width) % 2 for width in (1, 16, 2, 3, 4, 8)]
    x = (np.stack(stripes + checks)[..., None] * np.array([255, 220, 20])).astype(np.uint8)
    simple = [*range(8), 12, 13]
    new_pixels, qualities = count_new_pixels(x).tolist(), np.minimum(quality + faintness(x), 8)
    streams = codec._coding._streams(x, qualities)  # type: ignore[attr-defined]
    assert [i for i, count in enumerate(new_pixels) if count <= PATTERN_PIXELS] == simple
    records = codec.encode(x, quality)
    exact = [i for i, file in enumerate(records.lossless) if file]
    assert exact == [i for i in range(len(x)) if is_better_lossless(new_pixels[i], len(streams[i]))]
    assert set(simple) <= set(exact)
    assert max(len(records.lossless[i] or b"") for i in exact) <= 100
    np.testing.assert_array_equal(codec.decode(records)[exact], x[exact])


def test_a_pattern_does_not_change_what_comes_with_it(codec: Codec, images: np.ndarray) -> None:
    odd = odd_images(images)
    records = codec.encode(np.stack([odd["checks of a pixel"], images[0]]), 8)
    assert [file is not None for file in records.lossless] == [True, False]
    assert records.streams[1] == codec.encode(images[:1], 8).streams[0]


def test_of_signs_none_is_stored_losslessly(codec: Codec, images: np.ndarray) -> None:
    for quality in QUALITIES:
        assert not any(codec.encode(images, quality).lossless)


def test_a_lossless_image_whose_stream_is_still_too_long_has_blank_latents(
    codec: Codec, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "MAX_STREAM_BYTES", 20)
    records = codec.encode(images[:4], 5)
    assert all(len(stream) <= 20 for stream in records.streams)
    assert not codec.latents(records).any()
    np.testing.assert_array_equal(codec.decode(records), images[:4])


def test_a_pattern_is_stored_losslessly_and_a_picture_where_its_stream_is_longer() -> None:
    assert is_better_lossless(PATTERN_PIXELS, 1)
    assert not is_better_lossless(PATTERN_PIXELS + 1, 1)
    assert not is_better_lossless(100, 30 + 2 * 100 + 64)
    assert is_better_lossless(100, 30 + 2 * 100 + 64 + 1)
    assert not is_better_lossless(1024, MAX_STREAM_BYTES)
    assert is_better_lossless(1024, MAX_STREAM_BYTES + 1)


def slow_new_pixels(image: np.ndarray) -> int:
    pixels = image.tolist()
    count = 0
    for row in range(32):
        for column in range(32):
            left = [pixels[row][column - d] for d in (1, 2) if column >= d]
            above = [pixels[row - d][column] for d in (1, 2) if row >= d]
            count += pixels[row][column] not in left + above
    return count


def test_new_pixels_are_those_unlike_all_near_them(images: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    few = rng.choice(np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.uint8), (6, 32, 32))
    x = np.concatenate([np.stack(list(odd_images(images).values())), images[:10], few])
    found = count_new_pixels(x)
    assert (found.dtype, found.shape) == (np.int64, (len(x),))
    assert found.tolist() == [slow_new_pixels(image) for image in x]
    assert found.tolist() == [int(count_new_pixels(image[None])[0]) for image in x]
    assert count_new_pixels(x[:0]).shape == (0,)


def test_new_pixels_tell_patterns_from_pictures(images: np.ndarray) -> None:
    odd = odd_images(images)
    for name, image in odd.items():
        assert (count_new_pixels(image[None])[0] <= PATTERN_PIXELS) == name.startswith(SIMPLE), name
    assert count_new_pixels(images).min() > 10 * PATTERN_PIXELS
    assert count_new_pixels(filled(1, 2, 3)[None]).tolist() == [1]


def test_lossless_webp_of_noise_stays_within_its_bound() -> None:
    rng = np.random.default_rng(1)
    assert max(len(encode_lossless(rng.integers(0, 256, (32, 32, 3), np.uint8))) for _ in range(50)) <= MOST_LOSSLESS_BYTES


# Patches


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_patches_come_back(seed: int, count: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)
    patches = to_patches(x)
    assert (patches.dtype, patches.shape) == (np.int16, (count, 8, 8, 48))
    np.testing.assert_array_equal(from_patches(patches.transpose(0, 3, 1, 2).astype(np.float32)), x)


def test_a_patch_is_row_then_column_then_colour() -> None:
    x = np.zeros((1, 32, 32, 3), np.uint8)
    x[0, 4 * 5 + 2, 4 * 3 + 1, 2] = 228
    patches = to_patches(x)
    assert patches[0, 5, 3, (2 * 4 + 1) * 3 + 2] == 100
    assert (patches == -128).sum() == patches.size - 1


def test_pixels_out_of_range_are_cut() -> None:
    assert (from_patches(np.full((1, 48, 8, 8), 4000, np.float32)) == 255).all()
    assert (from_patches(np.full((1, 48, 8, 8), -4000, np.float32)) == 0).all()


# Damage


def test_a_damaged_stream_is_noticed_or_gives_some_picture(codec: Codec, images: np.ndarray) -> None:
    """A stream has no checksum of its own, since its record has one; but it must do no harm."""
    records = codec.encode(images[:1], 5)
    stream, noticed = records.streams[0], 0
    flips = [bytes([*stream[:i], stream[i] ^ (1 << i % 8), *stream[i + 1 :]]) for i in range(len(stream))]
    for damaged in [*flips, stream[:-1], stream[: len(stream) // 2], stream + b"x", b"", bytes(len(stream)), b"\xff" * 999]:
        records.streams[0] = damaged
        try:
            assert codec.decode(records).shape == (1, 32, 32, 3)
        except CorruptDataError as error:
            assert "0: its stream is damaged" in str(error)  # noqa: PT017
            noticed += 1
    assert noticed > len(stream) / 4


# Faint images


def test_faint_images_are_those_that_vary_little() -> None:
    rng = np.random.default_rng(0)
    shape, limits = rng.normal(0, 1, (32, 32, 3)), [*FAINT_DEVIATIONS, FLAT_DEVIATION]
    assert limits == sorted(limits, reverse=True)
    images, expected = [], []
    for deviation in np.geomspace(0.3, 60, 60):
        image = np.clip(np.rint(128 + deviation * shape), 0, 255).astype(np.uint8)
        found = float(np.sqrt(image.reshape(-1, 3).astype(float).var(0).mean()))
        assert min(abs(found - limit) for limit in limits) > 1e-6
        images.append(image)
        expected.append(0 if found < FLAT_DEVIATION else sum(found < limit for limit in FAINT_DEVIATIONS))
    assert set(expected) == {0, 1, 2, 3, 4}
    assert faintness(np.stack(images)).tolist() == expected
    assert [faintness(image[None])[0] for image in images] == expected


def test_colours_do_not_count_as_variation() -> None:
    assert faintness(np.stack([filled(0, 128, 255), filled(7, 7, 7)])).tolist() == [0, 0]
    stripes = filled(0, 128, 250)
    stripes[::2] += np.uint8(5)
    assert faintness(stripes[None]).tolist() == [4]


def test_a_faint_image_gets_more_of_the_qualities(codec: Codec, images: np.ndarray) -> None:
    faint = np.concatenate([np.rint(100 + images[:4] / divisor).astype(np.uint8) for divisor in (2, 10)])
    steps = faintness(faint)
    assert len(set(steps.tolist())) > 2
    for quality in (1, 5, 8):
        expected = np.minimum(quality + steps, 8)
        records = codec.encode(faint, quality)
        assert (records.codings - ENTROPY_CODED.start + 1).tolist() == expected.tolist()
        single = [codec._coding._streams(faint[i : i + 1], expected[i : i + 1])[0] for i in range(8)]  # type: ignore[attr-defined]
        assert records.streams == single
