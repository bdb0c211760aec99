"""Images kept readable: at the lowest quality that will do, or losslessly; and what that costs."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tsae import archive as ar
from tsae.classifier import load_classifier
from tsae.codec import Codec
from tsae.images import resize
from tsae.jobs.encoding import NONE_KEPT, Doubter, encode_chunk
from tsae.metrics import psnr_db
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

SETTINGS = ar.Settings(source="", root="", verify=True, min_psnr_db=None, quality=2, keep_readable="1" * 64)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(24)])


@pytest.fixture(scope="module")
def learned() -> Codec:
    return Codec.from_bytes(read_model_file("tsae"), "tsae")


@pytest.fixture(scope="module")
def seed() -> Codec:
    return Codec.from_bytes(read_model_file("seed-8x8x8"), "seed")


class Near:
    """Is sure of the number of the nearest original, if an image is within so many dB of it, else of one number more."""

    def __init__(self, originals: NDArray[np.uint8], floors_db: NDArray[np.float64]) -> None:
        self._originals, self._floors_db = originals, floors_db

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        near_db = np.stack([psnr_db(np.broadcast_to(original, images.shape), images) for original in self._originals])
        nearest = near_db.argmax(0)
        read = np.where(near_db.max(0) >= self._floors_db[nearest], nearest, len(self._originals))
        return np.eye(len(self._originals) + 1, dtype=np.float32)[read]


def plain(images: NDArray[np.uint8], codec: Codec, quality: int | None) -> ar.Records:
    return encode_chunk(images, codec, dataclasses.replace(SETTINGS, quality=quality, keep_readable=None))[0]


def rows(records: ar.Records) -> list[tuple[int, bytes, bytes | None, float]]:
    columns = (records.codings.tolist(), records.streams, records.lossless, records.psnrs_db.tolist())
    return list(zip(*columns, strict=True))


def test_each_image_gets_the_lowest_quality_that_will_do(images: NDArray[np.uint8], learned: Codec) -> None:
    by_quality = {quality: plain(images, learned, quality) for quality in range(2, 9)}
    floors_db = np.where(np.arange(len(images)) % 2, 33.0, 10.0)
    classify = Near(images, floors_db)
    records, kept = encode_chunk(images, learned, SETTINGS, classify)
    expected = []
    for row, floor_db in enumerate(floors_db):
        good = [q for q, found in by_quality.items() if found.psnrs_db[row] >= floor_db or found.lossless[row] is not None]
        expected.append(rows(by_quality[good[0]])[row])
    assert rows(records) == expected
    before = rows(by_quality[2])
    changed = [row for row in range(len(images)) if rows(records)[row] != before[row]]
    assert changed
    size = {row: len(found[1]) + len(found[2] or b"") for row, found in enumerate(rows(records))}
    more = sum(size[row] - len(before[row][1]) - len(before[row][2] or b"") for row in changed)
    assert kept[:3] == (len(changed), more, len(images))


def test_what_no_quality_keeps_is_stored_losslessly_beside_its_stream(images: NDArray[np.uint8], learned: Codec) -> None:
    classify = Near(images, np.full(len(images), 90.0))  # nothing but the same pixels
    records, kept = encode_chunk(images, learned, SETTINGS, classify)
    assert all(file is not None for file in records.lossless)
    np.testing.assert_array_equal(learned.decode(records), images)
    assert records.streams == plain(images, learned, 2).streams
    assert kept.images == len(images)


def test_a_model_without_qualities_stores_losslessly_at_once(images: NDArray[np.uint8], seed: Codec) -> None:
    before = plain(images, seed, None)
    floor_db = float(np.median(before.psnrs_db))
    classify = Near(images, np.full(len(images), floor_db))
    settings = dataclasses.replace(SETTINGS, quality=None)
    records, kept = encode_chunk(images, seed, settings, classify)
    is_low = before.psnrs_db < floor_db
    assert [file is not None for file in records.lossless] == is_low.tolist()
    assert records.streams == before.streams
    assert kept[:2] == (int(is_low.sum()), sum(len(file) for file in records.lossless if file is not None))


def test_where_all_is_readable_nothing_changes(images: NDArray[np.uint8], learned: Codec) -> None:
    classify = Near(images, np.zeros(len(images)))
    records, kept = encode_chunk(images, learned, SETTINGS, classify)
    assert (rows(records), kept[:2]) == (rows(plain(images, learned, 2)), (0, 0))


def test_it_is_known_how_sure_the_classifier_is_of_the_originals(images: NDArray[np.uint8], learned: Codec) -> None:
    def classify(some: NDArray[np.uint8], sure: float) -> NDArray[np.float32]:
        return np.tile(np.array([sure, 1 - sure], np.float32), (len(some), 1))

    half, most = (
        encode_chunk(images, learned, SETTINGS, functools.partial(classify, sure=sure))[1] for sure in (0.5625, 0.9375)
    )
    assert (half.unsure, most.unsure, NONE_KEPT.unsure) == (0.5625, None, None)
    assert half.plus(half).unsure == 0.5625
    assert half.plus(most).unsure is None  # 0.75 on the whole


def test_a_floor_of_psnr_holds_as_well(images: NDArray[np.uint8], learned: Codec) -> None:
    classify = Near(images, np.full(len(images), 27.0))
    records, _ = encode_chunk(images, learned, dataclasses.replace(SETTINGS, min_psnr_db=35.0), classify)
    assert all(file is not None for file, psnr in zip(records.lossless, records.psnrs_db, strict=True) if psnr < 35)


def test_doubt_is_the_share_of_certainty_that_is_gone() -> None:
    """Without end where something else is read, and none where the image comes back exactly."""
    before = np.array([[0.8, 0.2]] * 6, np.float32)
    after = np.array([[0.8, 0.2], [0.6, 0.1], [0.9, 0.1], [0.3, 0.5], [0.3, 0.5], [0.4, 0.3]], np.float32)
    images, decoded = np.zeros((6, 32, 32, 3), np.uint8), np.ones((6, 32, 32, 3), np.uint8)
    doubter = Doubter.of(images, lambda asked: after[: len(asked)] if asked.any() else before)
    records = ar.bare_records([b""] * 6, np.zeros(6, np.uint8), [None] * 4 + [b"exact", None])
    expected = [0, 0.25, 0, np.inf, 0, 0.5]
    np.testing.assert_allclose(doubter.doubts(records, decoded), expected, atol=1e-6)
    rows = np.array([0, 1])
    np.testing.assert_allclose(doubter.doubts(records.take([0, 1]), decoded[:2], rows), expected[:2], atol=1e-6)


def test_what_is_doubted_too_much_climbs_and_at_the_top_it_stays(images: NDArray[np.uint8], learned: Codec) -> None:
    """Unlike what is kept readable, which is stored losslessly then."""
    classify = Near(images, np.where(np.arange(len(images)) % 2, 90.0, 10.0))
    settings = dataclasses.replace(SETTINGS, keep_readable=None, doubt=ar.Doubt("1" * 64, 0.5))
    records, kept = encode_chunk(images, learned, settings, classify)
    low, high = (rows(plain(images, learned, quality)) for quality in (2, 8))
    assert rows(records) == [(high if row % 2 else low)[row] for row in range(len(images))]
    assert kept.images == sum(row % 2 and low[row] != high[row] for row in range(len(images)))
    assert kept.bytes == sum(len(a[1]) - len(b[1]) for a, b in zip(rows(records), low, strict=True))


@pytest.mark.parametrize("keeps", [False, True])
def test_an_image_is_stored_alike_whatever_it_comes_with(images: NDArray[np.uint8], learned: Codec, keeps: bool) -> None:
    settings = dataclasses.replace(SETTINGS, keep_readable="1" * 64 if keeps else None, doubt=ar.Doubt("1" * 64, 0.02))
    classify = load_classifier().probabilities
    together, kept = encode_chunk(images, learned, settings, classify)
    assert kept.images
    for size in (1, 5):
        starts = range(0, len(images), size)
        parts = [encode_chunk(images[start : start + size], learned, settings, classify) for start in starts]
        assert [row for records, _ in parts for row in rows(records)] == rows(together)
        assert sum(part.images for _, part in parts) == kept.images
