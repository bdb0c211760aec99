"""A bare loop in plain processes, without any check: the least that a program of one's own would do.

Its figure `work_s` leaves out start-up: from the first process ready, its network warm, to the end of the last one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from peers.shared import (
    BATCH,
    LATENT_BYTES,
    SeedDecoder,
    SeedEncoder,
    batches,
    list_images,
    make_folders,
    read_latents,
    read_pixels,
    run_program,
    save_images,
    write_latents,
)

Span = tuple[float, float]


def encode_part(source: Path, names: list[str], file: Path) -> Span:
    """Encodes some images to one Parquet file; when that began and ended."""
    encoder = SeedEncoder()
    encoder(np.zeros((BATCH, 32, 32, 3), np.uint8))
    started_s = time.monotonic()
    parts = (np.stack([read_pixels(f"{source}/{name}") for name in names[part]]) for part in batches(len(names)))
    write_latents(file, names, map(encoder, parts))
    return started_s, time.monotonic()


def decode_part(source: Path, part: slice, target: Path) -> Span:
    """Decodes some rows to PNG files; when that began and ended."""
    decoder = SeedDecoder()
    decoder(np.zeros((BATCH, LATENT_BYTES), np.int8))
    started_s = time.monotonic()
    names, levels = read_latents(source)
    names, levels = names[part], levels[part]
    for batch in batches(len(names)):
        save_images(target, names[batch], decoder(levels[batch]))
    return started_s, time.monotonic()


def in_processes(function: Callable[..., Span], calls: list[tuple[object, ...]]) -> dict[str, float]:
    """Runs each call in a process of its own; from the first start to the last end."""
    with multiprocessing.Pool(len(calls)) as pool:
        starts, ends = zip(*pool.starmap(function, calls, chunksize=1), strict=True)
    return {"work_s": max(ends) - min(starts)}


def compress(source: Path, target: Path, workers: int) -> dict[str, float]:
    """Every process takes each n-th file."""
    names = list_images(source)
    return in_processes(encode_part, [(source, names[i::workers], target / f"{i}.parquet") for i in range(workers)])


def decompress(source: Path, target: Path, workers: int) -> dict[str, float]:
    """Every process takes each n-th row."""
    make_folders(target, read_latents(source)[0])
    return in_processes(decode_part, [(source, slice(i, None, workers), target) for i in range(workers)])


if __name__ == "__main__":
    run_program(compress, decompress)
