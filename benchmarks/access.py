"""What opening an archive and getting one image costs, and how it grows with the archive.

    python benchmarks/access.py [--images 10000 100000 1000000] [--model NAME] [--dir DIR] [--json FILE]

Writes archives of that many records, streams of drawn signs over and over, and for each measures, in this process, with
torch imported and the model loaded once, files in the page cache: *cold* is opening the archive and getting one image by
key, each time another; *warm* is getting images by random keys, and by random positions, from the open archive. Of warm
access, `read` is the part before decoding. Times are ms; `memory_mb` is what the open archive took in all. The last archive
is one that 300 updates of 100 images each have made, so that each key may lie in any of 300 shards.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import tsae
from tsae import archive as ar
from tsae.checkpoint import model_from_bytes
from tsae.codec import Codec
from tsae.config import DEFAULT_MODEL
from tsae.images import resize
from tsae.jobs.plan import SHARD_IMAGES
from tsae.model_facts import check_quality
from tsae.paths import Folder
from tsae.signs import draw_signs
from tsae.zoo import read_model_file

COLD, WARM = 30, 1000

STREAMS = 1000
"""Different streams of an archive."""


def key(i: int) -> str:
    """A key as tracks of signs have."""
    return f"{i // 30000:05d}/{i // 30 % 1000:05d}_{i % 30:05d}.png"


def draw_records(model_file: bytes) -> ar.Records:
    """Records of drawn signs, as the model codes them."""
    images = np.stack([resize(Image.fromarray(sign.image)) for sign in draw_signs(STREAMS)])
    return Codec.from_bytes(model_file, "model").encode(images)


def records(numbers: range, rng: np.random.Generator, drawn: ar.Records) -> ar.Records:
    """Rows with the keys and sizes that records of signs have, and streams of some drawn ones."""
    rows = len(numbers)
    sizes = rng.integers(25, 100, (2, rows)).astype(np.uint32)
    psnrs_db = ar.stored_psnr_db(rng.normal(32.4, 3.4, rows))
    chosen = drawn.take(rng.integers(0, len(drawn), rows).tolist())
    keys, labels = list(map(key, numbers)), [None] * rows
    return dataclasses.replace(chosen, keys=keys, widths=sizes[0], heights=sizes[1], labels=labels, psnrs_db=psnrs_db)


def one_run(images: int) -> list[range]:
    """The images of each shard that one run of `tsae compress` makes."""
    return [range(start, min(start + SHARD_IMAGES, images)) for start in range(0, images, SHARD_IMAGES)]


def many_updates(updates: int, images: int) -> list[range]:
    """The images of each shard that so many updates make, each of which adds some everywhere between the others."""
    return [range(start, images * updates, updates) for start in range(updates)]


def write_archive(folder: Folder, shards: list[range], name: str = DEFAULT_MODEL) -> None:
    """An archive as `tsae compress` would leave it."""
    rng, model = np.random.default_rng(len(shards)), read_model_file(name)
    weights, sha256, drawn = model_from_bytes(model, name).weights, ar.digest(model), draw_records(model)
    entries = [ar.write_shard(folder, n, records(numbers, rng, drawn), {}, sha256) for n, numbers in enumerate(shards)]
    lists = ar.write_lists(folder, None, {}, entries)
    ar.write(folder, ar.MODEL_FILE, model)
    quality = check_quality(None, weights.qualities, name)
    settings = ar.Settings(source="benchmark", root="benchmark", verify=True, min_psnr_db=None, quality=quality)
    manifest = ar.Manifest(
        requires=(),
        model=name,
        model_file=ar.MODEL_FILE,
        model_bytes=len(model),
        model_sha256=sha256,
        latent_shape=weights.latent_shape,
        preprocessing={},
        settings=settings,
        created_by="benchmarks/access.py",
        counts=ar.count(folder, lists, 0, 0),
        lists=lists,
        failures=(),
    )
    ar.commit(folder, manifest, None)


def times_ms(action: Callable[[str], object], keys: Iterator[str], count: int) -> list[float]:
    """How long each of so many actions took."""
    taken = []
    for _ in range(count):
        key = next(keys)
        started_s = time.perf_counter()
        action(key)
        taken.append((time.perf_counter() - started_s) * 1e3)
    return taken


def summary(taken_ms: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"median": round(statistics.median(taken_ms), 2), "p99": round(float(np.percentile(taken_ms, 99)), 2)}


def measure(path: str, images: int) -> dict[str, object]:
    """All figures of one archive."""
    rng = np.random.default_rng(0)

    def random_keys() -> Iterator[str]:
        while True:
            yield key(int(rng.integers(images)))

    keys = random_keys()
    cold = times_ms(lambda name: tsae.open_archive(path)[name], keys, COLD)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    archive = tsae.open_archive(path)
    first = times_ms(lambda key: archive[key], keys, WARM)  # meets most shards for the first time
    warm = times_ms(lambda key: archive[key], keys, WARM)
    read = times_ms(archive.record, keys, WARM)
    by_position = times_ms(lambda key: archive[int(rng.integers(images))], keys, WARM)
    return {
        "images": images,
        "shards": archive.manifest.counts.shards,
        "cold_ms": summary(cold),
        "first_warm_ms": summary(first),
        "warm_ms": summary(warm),
        "warm_by_position_ms": summary(by_position),
        "read_ms": summary(read),
        "memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1e3, 1),
        "archive_bytes_per_image": round(archive.info()["archive_bytes"] / images, 2),
    }


def main() -> None:
    """Parses, writes the archives, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dir", help="where to write the archives; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        for shards in [*map(one_run, args.images), many_updates(300, 100)]:
            path, images = f"{folder}/{len(results)}", sum(map(len, shards))
            write_archive(Folder(path), shards, args.model)
            results.append(measure(path, images))
            print(json.dumps(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
