"""What an archive spends beside coded images, on keys and sizes like those of GTSRB's test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tsae import archive as ar
from tsae.jobs.plan import cut
from tsae.paths import Folder

IMAGES = 6315


def records(keys: list[str], lengths: np.ndarray, rng: np.random.Generator) -> ar.Records:
    count = len(keys)
    # Sign crops: mostly small and nearly square, some large.
    widths = np.clip(rng.lognormal(3.8, 0.45, count), 25, 266).astype(np.uint32)
    heights = np.clip(widths * rng.normal(1, 0.06, count), 25, 266).astype(np.uint32)
    labels = [f"{label:02d}" for label in rng.integers(0, 43, count)]
    psnrs_db = ar.stored_psnr_db(rng.normal(32.4, 3.4, count))
    streams = [rng.bytes(length) for length in lengths]
    return ar.Records(keys, widths, heights, labels, psnrs_db, np.ones(count, np.uint8), streams, [None] * count)


@pytest.mark.parametrize("stream_bytes", [(512, 512), (60, 160)])
def test_all_but_streams_costs_at_most_16_bytes_an_image(stream_bytes: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.choice(12630, IMAGES, replace=False))
    keys = [f"Test/{number:05d}.png" for number in numbers]
    folder = Folder(str(tmp_path / "archive"))
    entries = []
    for number, task in enumerate(cut(range(IMAGES))):
        lengths = rng.integers(stream_bytes[0], stream_bytes[1] + 1, len(task.rows))
        entries.append(ar.write_shard(folder, number, records([keys[row] for row in task.rows], lengths, rng), {}, "0" * 64))
    lists = ar.write_lists(folder, None, {}, entries)
    counts = ar.count(folder, lists, 0, 0)
    manifest = ar.Manifest(
        requires=(),
        model="seed-8x8x8",
        model_file=ar.MODEL_FILE,
        model_bytes=1,
        model_sha256="0" * 64,
        latent_shape=(8, 8, 8),
        preprocessing={"size_px": 32, "resample": "bilinear", "background": "white"},
        settings=ar.Settings("/some/folder/of/images", "/some/folder/of/images", verify=True, min_psnr_db=28.0),
        created_by="tsae",
        counts=counts,
        lists=lists,
        failures=(),
    )
    ar.commit(folder, manifest, None)
    spent = sum(folder.sizes_bytes().values()) - counts.stream_bytes
    assert counts.images == IMAGES
    assert 8 * IMAGES < spent <= 16 * IMAGES
