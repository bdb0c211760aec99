"""Choosing a quality for a target: what is promised holds for the archive that comes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import tsae
from pipelines import compress
from pipelines.options import CompressOptions
from tsae.archive import Settings, stored_psnr_db
from tsae.codec import Codec
from tsae.errors import InputError
from tsae.images import decode_image, encode_lossless, resize
from tsae.inputs import Listing, list_inputs
from tsae.jobs import target as target_module
from tsae.jobs.target import Target, choose_quality, overhead_bytes, read_sample
from tsae.jobs.trial import Choice, try_qualities
from tsae.metrics import psnr_db
from tsae.zoo import read_model_file

SETTINGS = Settings("/in", "/in", True, None)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_bytes(read_model_file("tsae"), "tsae")


@pytest.fixture(scope="module")
def listing(signs_dir: Path) -> Listing:
    return list_inputs(str(signs_dir))


@pytest.fixture(scope="module")
def tried(listing: Listing, codec: Codec) -> list[tuple[float, float]]:
    """Bytes an image, overhead and all, and PSNR at each quality."""
    choices = [try_one(listing, codec, quality) for quality in range(1, 9)]
    return [(choice.bytes_per_image, choice.psnr_db) for choice in choices]


def try_one(listing: Listing, codec: Codec, quality: int, min_psnr_db: float | None = None) -> Choice:
    settings = dataclasses.replace(SETTINGS, min_psnr_db=min_psnr_db)
    trials = try_qualities(read_sample(listing), codec, settings, overhead_bytes(listing), len(listing.keys))
    return trials.choice(quality, None)


def test_a_target_is_told_as_the_manifest_has_it() -> None:
    assert str(Target(bytes_per_image=120.0)) == "120 bytes"
    assert str(Target(bytes_per_image=99.5)) == "99.5 bytes"
    assert str(Target(psnr_db=34.0)) == "34 dB"
    assert str(Target(psnr_db=33.25)) == "33.25 dB"


@pytest.mark.parametrize("quality", range(1, 9))
def test_the_lowest_quality_that_reaches_a_psnr(
    listing: Listing, codec: Codec, tried: list[tuple[float, float]], quality: int
) -> None:
    bytes_per_image, mean_db = tried[quality - 1]
    choice = choose_quality(listing, codec, Target(psnr_db=mean_db), SETTINGS)
    assert (choice.quality, choice.psnr_db, choice.images) == (quality, mean_db, 40)
    assert choice.bytes_per_image == bytes_per_image
    if quality < 8:
        assert choose_quality(listing, codec, Target(psnr_db=mean_db + 0.01), SETTINGS).quality == quality + 1


@pytest.mark.parametrize("quality", range(1, 9))
def test_the_best_quality_within_bytes(listing: Listing, codec: Codec, tried: list[tuple[float, float]], quality: int) -> None:
    """All images are in the sample, so nothing is kept in reserve."""
    bytes_per_image, _ = tried[quality - 1]
    assert choose_quality(listing, codec, Target(bytes_per_image=bytes_per_image + 0.01), SETTINGS).quality == quality
    if quality > 1:
        assert choose_quality(listing, codec, Target(bytes_per_image=bytes_per_image - 0.01), SETTINGS).quality == quality - 1


def test_more_than_enough_gives_the_best_and_little_asked_for_the_lowest(listing: Listing, codec: Codec) -> None:
    assert choose_quality(listing, codec, Target(bytes_per_image=1e9), SETTINGS).quality == 8
    assert choose_quality(listing, codec, Target(psnr_db=0.1), SETTINGS).quality == 1


def test_what_cannot_be_reached_is_refused_with_the_nearest(listing: Listing, codec: Codec) -> None:
    with pytest.raises(InputError, match=r"target of 10 bytes: not to be had here; the nearest is quality 1, about \d+ bytes"):
        choose_quality(listing, codec, Target(bytes_per_image=10), SETTINGS)
    with pytest.raises(InputError, match=r"target of 99 dB: not to be had here; the nearest is quality 8, .* dB") as caught:
        choose_quality(listing, codec, Target(psnr_db=99), SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [{"target_bytes": 100.0}, {"target_psnr_db": 20.0}])
def test_a_model_without_qualities_is_refused(signs_dir: Path, tmp_path: Path, target: dict[str, float]) -> None:
    options = CompressOptions(str(signs_dir), str(tmp_path / "archive"), model="seed-8x8x8", **target)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"target of \d+ (bytes|dB): model seed-8x8x8 has no qualities"):
        compress.run(options)
    assert not (tmp_path / "archive").exists()


# The sample


def test_the_sample_is_spread_evenly_over_the_input(signs_dir: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "SAMPLE_IMAGES", 7)
    expected = [resize(decode_image((signs_dir / listing.keys[i * 40 // 7]).read_bytes())) for i in range(7)]
    np.testing.assert_array_equal(read_sample(listing), np.stack(expected))


def test_a_part_of_the_input_keeps_bytes_and_decibels_in_reserve(
    listing: Listing, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "SAMPLE_IMAGES", 10)
    choice, images = try_one(listing, codec, 5), read_sample(listing)
    records = codec.encode(images, 5)
    sizes = [len(stream) for stream in records.streams]
    psnrs_db = stored_psnr_db(psnr_db(images, codec.decode_streams(records))).astype(float)
    errors = 2.5 / np.sqrt(10) * np.sqrt(30 / 40)
    assert choice.images == 10
    assert choice.bytes_per_image == pytest.approx(np.mean(sizes) + overhead_bytes(listing))
    assert choice.most_bytes == pytest.approx(choice.bytes_per_image + errors * np.std(sizes))
    assert choice.psnr_db == pytest.approx(psnrs_db.mean())
    assert choice.least_psnr_db == pytest.approx(choice.psnr_db - errors * psnrs_db.std())


def test_a_part_of_the_input_is_chosen_by_what_must_be_reckoned_with(
    listing: Listing, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "SAMPLE_IMAGES", 10)
    choice = try_one(listing, codec, 4)
    assert choice.bytes_per_image < choice.most_bytes
    assert choice.least_psnr_db < choice.psnr_db
    for target, quality in (
        (Target(psnr_db=choice.least_psnr_db), 4),
        (Target(psnr_db=choice.least_psnr_db + 0.01), 5),
        (Target(bytes_per_image=choice.most_bytes), 4),
        (Target(bytes_per_image=choice.most_bytes - 0.01), 3),
    ):
        assert choose_quality(listing, codec, target, SETTINGS).quality == quality


def test_all_of_the_input_needs_no_reserve(listing: Listing, codec: Codec) -> None:
    choice = try_one(listing, codec, 5)
    assert (choice.most_bytes, choice.least_psnr_db) == (choice.bytes_per_image, choice.psnr_db)


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, signs_dir: Path, codec: Codec) -> None:
    for i, image in enumerate(sorted(signs_dir.rglob("*.png"))[:4]):
        (tmp_path / f"{i}.png").write_bytes(image.read_bytes() if i % 2 else b"no image")
    assert len(read_sample(list_inputs(str(tmp_path)))) == 2
    assert choose_quality(list_inputs(str(tmp_path)), codec, Target(psnr_db=5), SETTINGS).images == 2


def test_an_input_of_which_nothing_can_be_read_is_refused(tmp_path: Path, codec: Codec) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of 1 images could be read.*give one with --quality"):
        choose_quality(list_inputs(str(tmp_path)), codec, Target(psnr_db=20), SETTINGS)
    with pytest.raises(InputError, match="none of 0 images could be read"):
        choose_quality(Listing.of("/nowhere", []), codec, Target(psnr_db=20), SETTINGS)


def test_lossless_images_count(tmp_path: Path, codec: Codec) -> None:
    """Checks of black and white are stored losslessly: the lossless file counts, and the PSNR is that of the stream."""
    from PIL import Image

    checks = np.where(np.indices((32, 32)).sum(0)[:, :, None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)
    Image.fromarray(checks).save(tmp_path / "checks.png")
    listing, records = list_inputs(str(tmp_path)), codec.encode(checks[None], 8)
    assert records.lossless[0] is not None
    choice = try_one(listing, codec, 8)
    assert choice.bytes_per_image == len(records.streams[0]) + len(records.lossless[0]) + overhead_bytes(listing)
    assert choice.psnr_db < 20


def test_a_floor_counts(listing: Listing, codec: Codec) -> None:
    """What is stored losslessly because of it, too, at every quality; the streams stay."""
    images = read_sample(listing)
    for quality in (1, 8):
        plain = try_one(listing, codec, quality)
        below = stored_psnr_db(psnr_db(images, codec.decode_streams(codec.encode(images, quality)))) < plain.psnr_db
        floored = try_one(listing, codec, quality, min_psnr_db=plain.psnr_db)
        files_bytes = sum(len(encode_lossless(image)) for image in images[below])
        assert 0 < below.sum() < len(images)
        assert floored.bytes_per_image == pytest.approx(plain.bytes_per_image + files_bytes / len(images))
        assert floored.psnr_db == plain.psnr_db
    settings = dataclasses.replace(SETTINGS, min_psnr_db=99.0)
    with pytest.raises(InputError, match="not to be had here"):
        choose_quality(listing, codec, Target(bytes_per_image=plain.bytes_per_image), settings)


# Archives


@pytest.mark.parametrize("quality", [2, 6])
def test_without_verification_the_archive_has_one_quality_within_the_bytes(
    signs_dir: Path, tmp_path: Path, tried: list[tuple[float, float]], quality: int, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = round(tried[quality - 1][0] + 1)
    compress.run(CompressOptions(str(signs_dir), str(tmp_path / "archive"), target_bytes=wanted, verify=False))
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        info = archive.info()
    labels_bytes = 40 * 12  # not reckoned with
    assert info["archive_bytes"] / 40 <= wanted + labels_bytes / 40
    assert (info["quality"], info["target"], info["doubt"]) == (quality, f"{wanted} bytes", None)
    assert f"target of {wanted} bytes: quality {quality}, about" in capfd.readouterr().err


def test_the_archive_stays_within_the_bytes_with_a_floor(
    signs_dir: Path, tmp_path: Path, listing: Listing, codec: Codec
) -> None:
    """The signs that a floor stores losslessly are in the archive's size, too."""
    floor_db = round(try_one(listing, codec, 3).psnr_db, 1)
    wanted = round(try_one(listing, codec, 3, floor_db).bytes_per_image + 1)
    options = CompressOptions(str(signs_dir), str(tmp_path / "archive"), target_bytes=wanted, min_psnr_db=floor_db)
    compress.run(options)
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        info = archive.info()
    assert info["quality"] >= 3
    assert info["archive_bytes"] / 40 <= wanted + 12
    assert try_one(listing, codec, info["quality"], floor_db).bytes_per_image <= wanted


def test_the_archive_has_the_psnr(signs_dir: Path, tmp_path: Path, tried: list[tuple[float, float]]) -> None:
    wanted = round(tried[3][1] - 0.2, 1)
    compress.run(CompressOptions(str(signs_dir), str(tmp_path / "archive"), target_psnr_db=wanted))
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        info = archive.info()
    assert info["psnr_mean_db"] >= wanted
    assert (info["quality"], info["target"]) == (4, f"{wanted:g} dB")


def test_another_run_with_the_same_target_keeps_the_quality(
    signs_dir: Path, tmp_path: Path, tried: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what was added would have another one chosen; no image is tried."""
    wanted = round(tried[3][1] - 0.2, 1)
    source, archive = tmp_path / "in", tmp_path / "archive"
    source.mkdir()
    images = sorted(signs_dir.rglob("*.png"))
    for i, image in enumerate(images[:20]):
        (source / f"{i:02d}.png").write_bytes(image.read_bytes())
    options = CompressOptions(str(source), str(archive), target_psnr_db=wanted)
    compress.run(options)
    with tsae.open_archive(str(archive)) as opened:
        quality = opened.manifest.settings.quality
    monkeypatch.setattr("pipelines.request.choose_quality", None)
    for i, image in enumerate(images[20:]):
        (source / f"{20 + i:02d}.png").write_bytes(image.read_bytes())
    compress.run(options)
    with tsae.open_archive(str(archive)) as opened:
        assert len(opened) == 40
        assert opened.manifest.settings == dataclasses.replace(
            opened.manifest.settings, quality=quality, target=f"{wanted:g} dB"
        )
    for other in ({"target_psnr_db": None, "quality": quality}, {"target_psnr_db": None}):
        with pytest.raises(InputError, match="--target-bytes or --target-psnr: None, but the archive was made with"):
            compress.run(dataclasses.replace(options, **other))


def test_overhead_is_an_upper_figure(signs_dir: Path, archive_dir: Path, listing: Listing) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        info = archive.info()
    assert info["archive_bytes"] - info["stream_bytes"] <= 40 * (overhead_bytes(listing) + 12)
    assert overhead_bytes(Listing.of("/", [str(i) for i in range(100_000)])) < 16
