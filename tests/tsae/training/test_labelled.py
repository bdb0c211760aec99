"""Images with labels, from files and from archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae.classifier import Input
from tsae.cli import main
from tsae.errors import InputError
from tsae.reader import open_archive
from tsae.training.images import load_images, split_images
from tsae.training.labelled import LabelledSet, load_labelled


@pytest.fixture(scope="module", params=["seed-8x8x8", "tsae"])
def archive(request: pytest.FixtureRequest, signs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("archive") / "a")
    assert main(["compress", str(signs), path, "--model", request.param]) == 0
    return path


def labels_by_key(found: LabelledSet) -> dict[str, str]:
    return {key: found.classes[number] for key, number in zip(found.keys, found.labels, strict=True)}


def test_files_have_the_labels_that_compress_would_find(signs: Path) -> None:
    found = load_labelled(signs, "pixels")
    assert found.keys == load_images(signs).keys
    assert labels_by_key(found) == {key: key.split("/")[0] for key in found.keys}
    assert list(found.classes) == sorted(found.classes)
    assert found.examples[1] is found.labels


def test_an_archive_gives_what_it_decodes_to(signs: Path, archive: str) -> None:
    found, of_files = load_labelled(archive, "pixels"), load_labelled(signs, "pixels")
    np.testing.assert_array_equal(found.images, open_archive(archive).decode(found.keys))
    assert labels_by_key(found) == labels_by_key(of_files)
    assert found.archive is None


def test_an_archive_gives_its_latents_as_they_are(archive: str) -> None:
    found, reader = load_labelled(archive, "latents"), open_archive(archive)
    np.testing.assert_array_equal(found.images, reader.latents(found.keys)[:, :16])
    assert found.images.shape[1] == (8 if reader.manifest.model == "seed-8x8x8" else 16)
    assert found.images.dtype == (np.int8 if reader.manifest.model == "seed-8x8x8" else np.int16)
    assert found.archive is not None
    assert found.archive.state == reader.state


def test_files_have_no_latents(signs: Path) -> None:
    with pytest.raises(InputError, match="is no archive, and only archives hold latents; make one with tsae compress"):
        load_labelled(signs, "latents")


def test_a_parquet_file_gives_its_labels_and_images_without_one_are_left_out(signs: Path, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in sorted(signs.rglob("*.png"))[:5]]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": files, "path": list("edcba"), "label": [10, 9, None, 10, 9]}), path)
    found = load_labelled(path, "pixels")
    assert labels_by_key(found) == {"a": "9", "b": "10", "d": "9", "e": "10"}
    assert found.classes == ("9", "10")
    assert len(found.images) == 4


def test_images_of_one_class_teach_nothing(signs: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [next(signs.rglob("*.png")).read_bytes()], "label": ["a"]}), path)
    with pytest.raises(InputError, match=r"1 classes; give them labels, in a labels\.csv"):
        load_labelled(path, "pixels")


def test_both_sides_of_a_split_number_classes_alike(signs: Path) -> None:
    whole = load_labelled(signs, "pixels")
    for part in split_images(whole, signs):
        assert part.classes == whole.classes
        assert len(part.labels) == len(part.images) == len(part)
        assert labels_by_key(part).items() <= labels_by_key(whole).items()


def test_tracks_to_validate_may_be_listed_beside_an_archive(tmp_path: Path) -> None:
    """Copies of an image are frames of its track, too."""
    from tsae.images import encode_image
    from tsae.signs import draw_signs

    for number, sign in enumerate(draw_signs(8, seed=3)):
        path = tmp_path / f"in/copy-{number % 2}/{number // 4:05d}/{number // 4:05d}_{number // 2 % 2:05d}_00000.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(sign.image))
    assert main(["compress", str(tmp_path / "in"), str(tmp_path / "archive"), "--model", "seed-8x8x8"]) == 0
    (tmp_path / "valid_tracks.json").write_text("[0, 1001]")
    found = load_labelled(tmp_path / "archive", "latents")
    assert found.classes == ("00000", "00001")
    _, valid = split_images(found, tmp_path / "archive")
    assert {key[7:] for key in valid.keys} == {"00000/00000_00000_00000.png", "00001/00001_00001_00000.png"}
    assert len(valid) == 4


# Several archives


@pytest.fixture(scope="module")
def several(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two halves of the folders at two qualities, one of which has a class that the other lacks, and one of another model."""
    folder = tmp_path_factory.mktemp("several")
    folders = sorted(path for path in signs.iterdir() if path.is_dir())
    found = []
    for name, chosen, flag in (
        ("low", folders[:-1], "--quality=3"),
        ("high", folders[1:], "--quality=7"),
        ("seed", folders, "--model=seed-8x8x8"),
    ):
        for path in (image for label in chosen for image in label.glob("*.png")):
            copy = folder / f"in-{name}" / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        assert main(["compress", str(folder / f"in-{name}"), str(folder / name), flag]) == 0
        found.append(str(folder / name))
    return found


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_several_archives_follow_each_other(several: list[str], kind: Input) -> None:
    parts, found = [load_labelled(path, kind) for path in several[:2]], load_labelled(several[:2], kind)
    assert found.keys == parts[0].keys + parts[1].keys
    np.testing.assert_array_equal(found.images, np.concatenate([part.images for part in parts]))
    assert found.classes == tuple(sorted({*parts[0].classes, *parts[1].classes}))
    assert parts[0].classes != found.classes != parts[1].classes
    expected = [part.classes[number] for part in parts for number in part.labels]
    assert [found.classes[number] for number in found.labels] == expected
    assert (found.archive is None) == (kind == "pixels")


def test_several_archives_must_be_of_one_model_for_latents_only(several: list[str], signs: Path) -> None:
    with pytest.raises(InputError, match=r"seed: holds latents of another model than .*low; give archives of one model"):
        load_labelled([several[0], several[2]], "latents")
    assert len(load_labelled([several[0], several[2]], "pixels")) == sum(
        len(load_labelled(several[i], "pixels")) for i in (0, 2)
    )
    with pytest.raises(InputError, match=r"is no archive, and only archives can be given several at once"):
        load_labelled([several[0], signs], "pixels")
