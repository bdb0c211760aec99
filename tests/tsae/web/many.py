"""Large archives for tests of the page: some hundred drawn signs over and over, as if each were another image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

import tsae
from tsae import archive as ar
from tsae.archive.records import stored_psnr_db
from tsae.codec import Codec
from tsae.config import Preprocessing
from tsae.images import encode_lossless, resize
from tsae.metrics import psnr_db
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

SHARD_RECORDS = 4096
QUALITIES = (3, 5, 7)


def draw_records(count: int, model: str = "tsae") -> tuple[ar.Records, np.ndarray]:
    """Records of drawn signs in several qualities, each ninth stored losslessly as well, and the images."""
    codec = Codec.from_bytes(read_model_file(model), model)
    signs = list(draw_signs(count, seed=3))
    images = np.stack([resize(Image.fromarray(sign.image)) for sign in signs])
    qualities = QUALITIES if codec.qualities else (None,)
    parts = [codec.encode(images[start :: len(qualities)], quality) for start, quality in enumerate(qualities)]
    order = np.concatenate([np.arange(count)[start :: len(qualities)] for start in range(len(qualities))])
    records = ar.concatenate(parts).take(np.argsort(order).tolist())
    psnrs_db = stored_psnr_db(psnr_db(images, codec.decode_streams(records)))
    lossless = [encode_lossless(image) if i % 9 == 4 else None for i, image in enumerate(images)]
    labels = [sign.label for sign in signs]
    sizes = np.asarray([sign.image.shape[:2] for sign in signs], np.uint32)
    facts = {"widths": sizes[:, 1], "heights": sizes[:, 0], "labels": labels, "psnrs_db": psnrs_db, "lossless": lossless}
    return dataclasses.replace(records, **facts), images


def write_many(place: str | Path, count: int, drawn: int = 400, model: str = "tsae") -> None:
    """An archive of `count` records, keys `LABEL/NUMBER.png` in order."""
    records, _ = draw_records(drawn, model)
    labels = np.asarray([f"{label}/" for label in records.labels])
    rows = np.random.default_rng(count).integers(drawn, size=count)  # neighbours differ, as they do in an archive
    rows = rows[np.argsort(labels[rows], kind="stable")].tolist()
    folder, model_file = ar.Folder(str(place)), read_model_file(model)
    entries: list[ar.ShardEntry] = []
    for number, start in enumerate(range(0, count, SHARD_RECORDS)):
        some = records.take(rows[start : start + SHARD_RECORDS])
        keys = [f"{label}/{start + i:07d}.png" for i, label in enumerate(some.labels)]
        some = dataclasses.replace(some, keys=keys)
        entries.append(ar.write_shard(folder, number, some, {}, ar.digest(model_file)))
    lists = ar.write_lists(folder, None, {}, entries)
    manifest = ar.Manifest(
        requires=(),
        model=model,
        model_file=ar.MODEL_FILE,
        model_bytes=len(model_file),
        model_sha256=ar.digest(model_file),
        latent_shape=Codec.from_bytes(model_file, model).latent_shape,
        preprocessing=Preprocessing().to_json(),
        settings=ar.Settings("", "", True, None, 5 if model == "tsae" else None, None),
        created_by=f"tsae {tsae.__version__}",
        counts=ar.count(folder, lists, 0, 0),
        lists=lists,
        failures=(),
    )
    ar.write(folder, ar.MODEL_FILE, model_file)
    ar.commit(folder, manifest, None)
