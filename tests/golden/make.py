"""Makes the golden archives of format version 1 anew: `python tests/golden/make.py`.

They are what every later tsae must read, so this is for the time before the format is frozen only; each run needs a line in the
changelog, and the digest that it prints belongs into `tests/tsae/test_golden.py`. All images are drawn.

Each archive carries its own model, and is made anew with it, whatever is packaged now: `seed-8x8x8` was trained further.
(Git keeps one copy of equal files.)

Limits of shards, lists and row groups are made small here, as the format allows, so that a few images fill several of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tsae import archive as ar
from tsae.codec import Codec
from tsae.images import decode_image, encode_image, resize
from tsae.jobs.encoding import encode_chunk
from tsae.signs import draw_sign

PLACE = Path(__file__).parent / "v1"
PLAIN_MODEL, CODED_MODEL = ((PLACE / name / ar.MODEL_FILE).read_bytes() for name in ("plain", "learned"))
SEED = 11
FLOOR_DB = 27.0

PATTERN = -1
"""In place of a sign's number: lines of black and white, which are shorter losslessly than coded at quality 5."""

FAILURES = (
    ar.Failure("broken.png", "decode", "ImageError", "7 bytes that are no image", 7, "1700000000000000000"),
    ar.Failure("gone.png", "read", "ImageError", "cannot be read (No such file or directory)"),
    ar.Failure("t%FCr.png", "list", "ImageError", "the name is not UTF-8; rename the file"),
)


def small_limits() -> None:
    """Makes a few images enough for several row groups, shards and lists."""
    importlib.import_module("tsae.archive.shards").ROW_GROUP_BYTES = 1500
    importlib.import_module("tsae.archive.lists").GROUP_SHARDS = 1
    importlib.import_module("tsae.archive.commit").LIST_SHARDS = 2


def draw(index: int) -> np.ndarray:
    """The sign of a number, or the pattern, uint8 `[H, W, 3]`."""
    if index != PATTERN:
        return draw_sign(index, SEED).image
    return np.where(np.indices((32, 32)).sum(0)[:, :, None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)


def make_records(codec: Codec, indexes: Mapping[str, int], labels: Mapping[str, str], settings: ar.Settings) -> ar.Records:
    """Records of drawings, as `compress` makes them; `indexes` has the number of the drawing by key, sorted."""
    drawn = [draw(index) for index in indexes.values()]
    x = np.stack([resize(Image.fromarray(image)) for image in drawn])
    heights, widths = np.array([image.shape[:2] for image in drawn], np.uint32).T
    coded, names = encode_chunk(x, codec, settings)[0], [labels.get(key) for key in indexes]
    return dataclasses.replace(coded, keys=list(indexes), widths=widths, heights=heights, labels=names)


def origins_of(indexes: Mapping[str, int]) -> dict[str, ar.Origin]:
    """States of made-up files."""
    return {key: ar.Origin.of(draw(i).tobytes(), str(1700000000000000000 + i)) for key, i in indexes.items()}


def commit(
    folder: ar.Folder,
    model: bytes,
    added: Sequence[ar.ShardEntry],
    replaced: Mapping[int, ar.ShardEntry],
    failures: Sequence[ar.Failure],
    settings: ar.Settings,
) -> None:
    """Commits a state that adds to the one that is there."""
    base = ar.ArchiveFiles(folder.path) if folder.exists(ar.MANIFEST_FILE) else None
    lists = ar.write_lists(folder, base, replaced, added)
    tables = [ar.write_digested(folder, "failures", 0, ar.failures_to_bytes(failures), len(failures))] if failures else []
    ar.write(folder, ar.MODEL_FILE, model)
    codec = Codec.from_bytes(model, "golden")
    manifest = ar.Manifest(
        requires=(),
        model=codec.name,
        model_file=ar.MODEL_FILE,
        model_bytes=len(model),
        model_sha256=ar.digest(model),
        latent_shape=codec.latent_shape,
        preprocessing=codec.preprocessing.to_json(),
        settings=settings,
        created_by="tests/golden/make.py",
        counts=ar.count(folder, lists, len(failures), 2),
        lists=lists,
        failures=tuple(tables),
    )
    ar.commit(folder, manifest, base.manifest_text if base else None)
    ar.clean_up(folder, manifest, base.manifest if base else None)


def make_signs(folder: ar.Folder) -> None:
    """Two commits: three shards, then one of them with a changed image, and two more. Labels, failures, lossless images."""
    model = PLAIN_MODEL
    codec, settings = Codec.from_bytes(model, "golden"), ar.Settings("/signs", "/signs", True, FLOOR_DB)
    keys = [f"stop/{i:02d}.png" for i in range(6)] + ["straße/grün 1.png", "yield/a.b.png", "yield/c"]
    labels = {key: key.partition("/")[0] for key in keys[:7]} | {"yield/c": ""}
    shards = [{key: keys.index(key) for key in part} for part in (keys[:3], keys[3:6], keys[6:])]

    def write(number: int, indexes: Mapping[str, int]) -> ar.ShardEntry:
        records = make_records(codec, indexes, labels, settings)
        return ar.write_shard(folder, number, records, origins_of(indexes), ar.digest(model))

    entries = [write(number, indexes) for number, indexes in enumerate(shards)]
    commit(folder, model, entries, {}, FAILURES[:1], settings)
    changed = {**shards[1], "stop/04.png": 30}
    added = [{"a.png": 31, "stop/03a.png": 32}, {"zebra.png": 33}]
    commit(
        folder, model, [write(3 + i, indexes) for i, indexes in enumerate(added)], {1: write(1, changed)}, FAILURES, settings
    )


def make_plain(folder: ar.Folder) -> None:
    """One shard as `compress --no-verify` makes it: PSNR null; no labels, no failures, and provenance left out."""
    model, settings = PLAIN_MODEL, ar.Settings("/plain", "/plain", False, None)
    indexes = {f"{i:05d}.ppm": 50 + i for i in range(3)}
    records = make_records(Codec.from_bytes(model, "golden"), indexes, {}, settings)
    entry = ar.write_shard(folder, 0, records, {}, ar.digest(model))
    commit(folder, model, [entry], {}, (), settings)


def make_learned(folder: ar.Folder) -> None:
    """Entropy-coded: a shard at quality 3, then one at quality 5 with an image that is stored losslessly instead.

    `compress` keeps to one quality in an archive; the format does not.
    """
    model = CODED_MODEL
    codec = Codec.from_bytes(model, "golden")
    parts = {3: {f"a{i}.png": 60 + i for i in range(6)}, 5: {**{f"b{i}.png": 70 + i for i in range(6)}, "pattern.png": PATTERN}}
    for number, (quality, indexes) in enumerate(parts.items()):
        settings = ar.Settings("/learned", "/learned", True, None, quality, "33 dB")
        records = make_records(codec, indexes, {"a0.png": "stop"}, settings)
        if [key for key, file in zip(records.keys, records.lossless, strict=True) if file] != ["pattern.png"][:number]:
            raise SystemExit("another image than the pattern is stored losslessly, or none is: choose another pattern")
        entry = ar.write_shard(folder, number, records, origins_of(indexes), ar.digest(model))
        commit(folder, model, [entry], {}, (), settings)


def write_expected(folder: ar.Folder, place: Path) -> None:
    """What must come out: facts of each record and SHA-256 of its latents as JSON, all pixels in one lossless WebP file."""
    files = ar.ArchiveFiles(folder.path)
    records = ar.concatenate([files.shard_records(shard) for shard in range(files.shards)])
    codec = Codec.from_bytes(files.model_file(), "golden")
    latents = codec.latents(records)
    rows = [
        {
            "key": key,
            "width": int(records.widths[i]),
            "height": int(records.heights[i]),
            "label": records.labels[i],
            "psnr_db": None if np.isnan(records.psnrs_db[i]) else float(records.psnrs_db[i]),
            "is_lossless": records.lossless[i] is not None,
            "latents_sha256": hashlib.sha256(latents[i].tobytes()).hexdigest(),
        }
        for i, key in enumerate(records.keys)
    ]
    expected = {
        "records": rows,
        "failures": [dataclasses.asdict(failure) for failure in files.failures()],
        "origins": {key: [o.size_bytes, o.version, o.sha256.hex()] for key, o in all_origins(files)},
    }
    place.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n")
    place.with_suffix(".webp").write_bytes(encode_image(np.concatenate(codec.decode(records)), "webp"))


def all_origins(files: ar.ArchiveFiles) -> Iterator[tuple[str, ar.Origin]]:
    """Keys and origins of all shards."""
    for shard in range(files.shards):
        yield from files.origins(shard).items()


def read_pixels(place: Path) -> np.ndarray:
    """Images of `write_expected`, uint8 `[N, 32, 32, 3]`."""
    return np.asarray(decode_image(place.with_suffix(".webp").read_bytes())).reshape(-1, 32, 32, 3)


def digests(place: Path) -> str:
    """What `sha256sum -c` reads of all files below a folder, but that file itself."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(place).as_posix()}\n" for path in files)


def make(place: Path) -> None:
    """Writes all archives, what must come out of them, and the digests of all files."""
    small_limits()
    for name, make_archive in (("signs", make_signs), ("plain", make_plain), ("learned", make_learned)):
        folder = ar.Folder(str(place / name))
        make_archive(folder)
        write_expected(folder, place / name)
    (place / "SHA256SUMS").write_text(digests(place))


if __name__ == "__main__":
    shutil.rmtree(PLACE, ignore_errors=True)
    make(PLACE)
    print(hashlib.sha256((PLACE / "SHA256SUMS").read_bytes()).hexdigest())
    sys.exit(0)
