"""What a sample is said to take is what its images take; and the limit of doubt that is chosen is the least that fits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tsae import archive as ar
from tsae.codec import Codec
from tsae.errors import InputError
from tsae.images import resize
from tsae.inputs import Listing
from tsae.jobs import target, trial
from tsae.jobs.encoding import MISREAD_ONLY, encode_chunk
from tsae.jobs.target import Target, choose_quality
from tsae.jobs.trial import Choice, Trials, rounded_up, try_qualities
from tsae.metrics import psnr_db
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

SHA256 = "1" * 64
SETTINGS = ar.Settings("/in", "/in", True, None, doubt=ar.Doubt(SHA256, MISREAD_ONLY))
BESIDE = 20.0

CHECKS = np.where(np.indices((32, 32)).sum(0)[:, :, None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)
"""An image that is stored losslessly at high qualities."""


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack([*(resize(Image.fromarray(sign.image)) for sign in draw_signs(23)), CHECKS])


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_bytes(read_model_file("tsae"), "tsae")


class Fading:
    """Is less sure of an image, the less near it is to the original, and reads something else below so many dB.

    Attributes:
        most_sure: It is of nothing surer than that.
    """

    most_sure = 1.0

    def __init__(self, originals: NDArray[np.uint8], floors_db: NDArray[np.float64]) -> None:
        self._originals, self._floors_db = originals, floors_db

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        near_db = np.stack([psnr_db(np.broadcast_to(original, images.shape), images) for original in self._originals])
        rows, nearest = np.arange(len(images)), near_db.argmax(0)
        sure = np.where(near_db.max(0) < self._floors_db[nearest], 0.4, np.clip(near_db.max(0) / 60, 0.51, self.most_sure))
        probabilities = np.zeros((len(images), len(self._originals) + 1), np.float32)
        probabilities[rows, nearest] = sure
        probabilities[:, -1] = 1 - sure
        return probabilities


def asked(images: NDArray[np.uint8], settings: ar.Settings) -> Fading | None:
    """The settings' classifier: misreads a third of the images below 30 dB, and one always."""
    floors_db = np.where(np.arange(len(images)) % 3, 0.0, 30.0)
    floors_db[5] = 90.0
    return None if settings.classifier is None else Fading(images, floors_db)


@pytest.fixture
def listing(images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> Listing:
    """Of the images, without files."""
    monkeypatch.setattr(target, "read_sample", lambda listing: images)
    monkeypatch.setattr(target, "try_qualities", lambda images, codec, settings, *_: tried(images, codec, settings))
    monkeypatch.setattr(target, "overhead_bytes", lambda listing: BESIDE)
    return Listing.of("/in", [f"{row:02d}.png" for row in range(len(images))])


_tried: dict[ar.Settings, Trials] = {}


def tried(images: NDArray[np.uint8], codec: Codec, settings: ar.Settings = SETTINGS) -> Trials:
    """Tries each setting once."""
    if settings not in _tried:
        _tried[settings] = try_qualities(images, codec, settings, BESIDE, len(images), asked(images, settings))
    return _tried[settings]


@pytest.mark.parametrize(("quality", "limit"), [(1, None), (1, 1.0), (4, 0.45), (4, 0.0), (8, 0.3)])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("floor_db", [None, 31.0])
def test_arithmetic_says_what_encoding_does(
    images: NDArray[np.uint8], codec: Codec, quality: int, limit: float | None, keeps: bool, floor_db: float | None
) -> None:
    settings = dataclasses.replace(SETTINGS, keep_readable=SHA256 if keeps else None, min_psnr_db=floor_db)
    choice = tried(images, codec, settings).choice(quality, MISREAD_ONLY if keeps and limit is None else limit)
    doubt = None if limit is None else ar.Doubt(SHA256, limit)
    settings = dataclasses.replace(settings, quality=quality, doubt=doubt)
    records, kept = encode_chunk(images, codec, settings, asked(images, settings))
    sizes = [len(stream) + len(file or b"") for stream, file in zip(records.streams, records.lossless, strict=True)]
    assert choice.bytes_per_image == choice.most_bytes == pytest.approx(np.mean(sizes) + BESIDE)
    assert choice.psnr_db == pytest.approx(records.psnrs_db.astype(float).mean())
    assert choice.better == kept.images / len(images)


def test_a_part_keeps_bytes_in_reserve_for_what_climbs(images: NDArray[np.uint8], codec: Codec) -> None:
    choice = try_qualities(images, codec, SETTINGS, BESIDE, 4 * len(images), asked(images, SETTINGS)).choice(2, 0.4)
    settings = dataclasses.replace(SETTINGS, quality=2, doubt=ar.Doubt(SHA256, 0.4))
    records, _ = encode_chunk(images, codec, settings, asked(images, settings))
    sizes = [len(stream) + len(file or b"") for stream, file in zip(records.streams, records.lossless, strict=True)]
    errors = trial.SIGMAS / np.sqrt(len(images)) * np.sqrt(3 / 4)
    assert choice.most_bytes == pytest.approx(np.mean(sizes) + BESIDE + errors * np.std(sizes))


@given(st.floats(0, 1))
def test_a_limit_has_few_digits_and_is_not_below_the_doubt(doubt: float) -> None:
    limit = rounded_up(doubt)
    assert doubt <= limit <= 1
    assert limit == float(f"{limit:.1e}")
    assert limit <= doubt * 1.1 or doubt < 1e-300


# The choice


def least_limits(trials: Trials, wanted: float) -> list[Choice]:
    """By quality, the choice of the least limit that fits; a search of all."""
    found = []
    for quality in range(1, 8):
        choices = [trials.choice(quality, limit) for limit in trials.limits(quality)]
        if choices[-1].most_bytes <= wanted:
            found.append(next(choice for choice in choices if choice.most_bytes <= wanted))
    return found


@pytest.mark.parametrize("loose", [0.01, 0.3, 0.45, 1.0])
def test_the_highest_quality_with_a_limit_that_is_not_loose(
    images: NDArray[np.uint8], codec: Codec, listing: Listing, monkeypatch: pytest.MonkeyPatch, loose: float
) -> None:
    """Or if there is none, the one with the least limit."""
    monkeypatch.setattr(target, "LOOSE", loose)
    trials, chosen = tried(images, codec), set()
    for wanted in np.linspace(trials.choice(1, MISREAD_ONLY).most_bytes, trials.choice(7, MISREAD_ONLY).most_bytes, 12):
        choice = choose_quality(listing, codec, Target(bytes_per_image=float(wanted)), SETTINGS)
        found = least_limits(trials, float(wanted))
        strict = [other for other in found if other.limit is not None and other.limit <= loose]
        assert choice == (strict[-1] if strict else min(found[::-1], key=lambda other: other.limit or 0))
        chosen.add(choice.quality == found[-1].quality)
    assert chosen == ({True} if loose == 1 else {True, False})


def test_where_what_is_misread_takes_too_much_nothing_climbs(images: NDArray[np.uint8], codec: Codec, listing: Listing) -> None:
    trials = tried(images, codec)
    wanted = trials.choice(1, MISREAD_ONLY).most_bytes - 0.01
    assert trials.choice(1, None).most_bytes < wanted
    choice = choose_quality(listing, codec, Target(bytes_per_image=wanted), SETTINGS)
    assert (choice.limit, choice.better) == (None, 0)
    assert choice.settings(SETTINGS).doubt is None
    assert "better" not in str(choice)
    kept = dataclasses.replace(SETTINGS, keep_readable=SHA256)
    with pytest.raises(InputError, match="not to be had here; the nearest is quality 1 and better for the"):
        choose_quality(listing, codec, Target(bytes_per_image=wanted), kept)


def test_at_the_highest_quality_nothing_climbs(codec: Codec, listing: Listing) -> None:
    choice = choose_quality(listing, codec, Target(bytes_per_image=1e9), SETTINGS)
    assert (choice.quality, choice.limit, choice.settings(SETTINGS).doubt) == (8, None, None)


def test_what_is_chosen_becomes_settings(images: NDArray[np.uint8], codec: Codec, listing: Listing) -> None:
    wanted = tried(images, codec).choice(3, MISREAD_ONLY).most_bytes + 5
    choice = choose_quality(listing, codec, Target(bytes_per_image=wanted), SETTINGS)
    assert choice.limit is not None
    doubt = ar.Doubt(SHA256, choice.limit)
    assert choice.settings(SETTINGS) == dataclasses.replace(SETTINGS, quality=3, doubt=doubt)
    assert f"quality 3 and better for the {100 * choice.better:.1f} % hardest to read, about" in str(choice)


def test_a_psnr_has_one_quality(images: NDArray[np.uint8], codec: Codec, listing: Listing) -> None:
    """But for what is kept readable, which counts."""
    settings = dataclasses.replace(SETTINGS, doubt=None, keep_readable=SHA256)
    choice = choose_quality(listing, codec, Target(psnr_db=28), settings)
    assert choice == tried(images, codec, settings).choice(choice.quality, MISREAD_ONLY)
    assert choice.settings(settings) == dataclasses.replace(settings, quality=choice.quality)
    assert choose_quality(listing, codec, Target(psnr_db=28), dataclasses.replace(settings, keep_readable=None)).better == 0


def test_where_the_classifier_knows_no_such_images_one_quality_serves_all(
    images: NDArray[np.uint8], codec: Codec, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its doubts say nothing then; what it reads is kept all the same, if it is asked to."""
    monkeypatch.setattr(Fading, "most_sure", 0.68)
    monkeypatch.setattr(f"{__name__}._tried", {})
    wanted = tried(images, codec).choice(3, None).most_bytes + 5
    choice = choose_quality(listing, codec, Target(bytes_per_image=wanted), SETTINGS)
    assert (choice.quality, choice.limit, choice.better) == (3, None, 0)
    assert choice.settings(SETTINGS) == dataclasses.replace(SETTINGS, quality=3, doubt=None)
    assert str(choice).endswith("; the classifier's doubts do not count, as it is only 68 % sure of the originals")
    keeps = dataclasses.replace(SETTINGS, keep_readable=SHA256)
    wanted = tried(images, codec, keeps).choice(3, MISREAD_ONLY).most_bytes + 5
    choice = choose_quality(listing, codec, Target(bytes_per_image=wanted), keeps)
    assert (choice.quality, choice.limit) == (3, MISREAD_ONLY)
    assert choice.settings(keeps) == dataclasses.replace(keeps, quality=3, doubt=None)
    monkeypatch.setattr(Fading, "most_sure", 0.72)
    monkeypatch.setattr(f"{__name__}._tried", {})
    wanted = tried(images, codec).choice(3, MISREAD_ONLY).most_bytes + 5
    choice = choose_quality(listing, codec, Target(bytes_per_image=wanted), SETTINGS)
    assert choice.settings(SETTINGS).doubt is not None
    assert "sure" not in str(choice)
